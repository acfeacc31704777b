"""What a direct launch tells the C function beneath Triton's launcher is what that launcher would tell it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from normkernels import launch
from normkernels.beneath import beneath
from normkernels.kernels import plans

STREAM, FUNCTION, METADATA = 7, 11, (4, 1, 0)


class Told:
    """Stands in for the C function."""

    def __init__(self) -> None:
        """Nobody has called it."""
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        """Note a call; arguments that are one may be a list or a tuple."""
        self.calls.append(tuple(tuple(each) if isinstance(each, list) else each for each in args))


def launcher(**others: object) -> Any:
    """Return Triton's launcher, of a kernel that nobody has compiled."""
    from triton.backends.nvidia.driver import CudaLauncher

    made = object.__new__(CudaLauncher)
    attributes: dict[str, object] = {
        "launch": Told(),
        "num_ctas": 1,
        "global_scratch_size": 0,
        "global_scratch_align": 1,
        "profile_scratch_size": 0,
        "profile_scratch_align": 1,
        "launch_cooperative_grid": False,
        "launch_pdl": True,
    }
    if newer():
        attributes |= {"gsan_enabled": False, "arg_annotations": ("annotations",), "kernel_signature": b"iii"}
    vars(made).update(attributes | others)
    return made


def newer() -> bool:
    """Whether the C function is one for all kernels."""
    import triton

    return not triton.__version__.startswith("3.6.")


def compiled(run: Any) -> Any:
    """Return a compiled kernel with that launcher."""
    return SimpleNamespace(run=run, _run=run, function=FUNCTION, packed_metadata=METADATA)


def test_the_c_function_is_told_what_triton_would_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, with all of its arguments in the same places."""
    from triton.runtime import driver

    monkeypatch.setattr(driver, "_active", SimpleNamespace())
    monkeypatch.setattr(launch, "_current_stream", lambda _index: STREAM)
    run = launcher()
    kernel = compiled(run)
    plan = plans.Plan("general", 4, 7, 4)
    rest = (5, None, 0.5, "constant")
    ready = launch.Ready(None, kernel, plan, torch.device("cpu"), 2, rest, 3, (), 1, 99, beneath(kernel))
    run(3, 2, 1, STREAM, FUNCTION, METADATA, None, None, None, 16, 32, 5, 9, 0.5, "constant")
    assert ready.start((16, 32), 9)
    by_triton, directly = run.launch.calls

    assert by_triton == directly


@pytest.mark.parametrize(
    "others",
    [
        {"global_scratch_size": 1},
        {"profile_scratch_size": 1},
        {"launch": lambda *_args: None},
        {"launch": None},
        {"gsan_enabled": True},
    ],
    ids=["scratch memory", "a profile", "descriptors", "no C function", "a sanitizer"],
)
def test_a_launcher_with_more_to_do_is_called_itself(others: dict[str, object]) -> None:
    """What it does is not what is beneath it."""
    assert beneath(compiled(launcher())) is not None
    assert beneath(compiled(launcher(**others))) is None
    assert beneath(compiled(print)) is None


def test_a_launcher_that_somebody_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who counts launches replaces the attribute ``run`` of compiled kernels."""
    monkeypatch.setattr(launch, "_current_stream", lambda _index: STREAM)
    run, other = launcher(), Told()
    kernel = compiled(run)
    plan = plans.Plan("general", 4, 7, 4)
    ready = launch.Ready(None, kernel, plan, torch.device("cpu"), 2, (None,), 1, (), 1, 99, beneath(kernel))
    kernel.run = other
    assert ready.start((16,), 9)

    assert [] == run.launch.calls
    assert [(3, 2, 1, STREAM, FUNCTION, METADATA, None, None, None, 16, 9)] == other.calls
