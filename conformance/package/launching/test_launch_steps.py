"""The decisions of a launch, beside a kept kernel and a GPU that are stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from normkernels import launch as launching
from normkernels.launch import Launch, launch
from normkernels.plans import Plan

PLAN = Plan("general", 4, 7, 2, programs=3)
POINTERS, COUNTS, REST = (16, 32), (9, 5, 3), (1e-6, True)
FUNCTION, PACKED, STREAM = "function", "packed", 7


class Kept:
    """A compiled kernel that notes how it is started."""

    function, packed_metadata = FUNCTION, PACKED

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []

    def run(self, *given: Any) -> None:
        """Note a start without hooks."""
        self.started.append(("run", *given))

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Return the start of a grid by Triton, which calls hooks."""
        return lambda *given: self.started.append(("grid", grid, *given))


@pytest.fixture(name="gpu")
def _gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand in for a machine: its hooks, and what went through Triton."""
    machine = SimpleNamespace(
        launch_enter_hook=None, launch_exit_hook=None, gpus=1, current=0, bound=[], entered=[]
    )

    @contextlib.contextmanager
    def device(index: int) -> Iterator[None]:
        machine.entered.append(index)
        before, machine.current = machine.current, index
        yield
        machine.current = before

    monkeypatch.setattr(launching, "_triton", lambda: (lambda index: (STREAM, index), machine))
    monkeypatch.setattr(launching, "_gpus", lambda: machine.gpus)
    monkeypatch.setattr(launching, "_launch_through_triton", lambda *given: machine.bound.append(given))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: machine.current)
    monkeypatch.setattr(torch.cuda, "device", device)
    return machine


def kept(index: int = 0) -> Launch:
    """Return the launch of a kept kernel."""
    return Launch(None, REST, PLAN, index, True, 1, 9, Kept())


DIRECT = ("run", 3, 3, 1, (STREAM, 0), FUNCTION, PACKED, None, None, None, *POINTERS, *COUNTS, *REST)
HOOKED = ("grid", (3, 3, 1), *POINTERS, *COUNTS, *REST)
NO_HOOKS, SOME_HOOKS = SimpleNamespace(calls=[]), SimpleNamespace(calls=[print])


@pytest.mark.parametrize(
    ("enter", "leave", "started"),
    [
        (None, None, DIRECT),
        (NO_HOOKS, NO_HOOKS, DIRECT),
        (print, None, HOOKED),
        (None, print, HOOKED),
        (SOME_HOOKS, NO_HOOKS, HOOKED),
        (NO_HOOKS, SOME_HOOKS, HOOKED),
    ],
    ids=["none", "empty chains", "enter", "exit", "a chain at enter", "a chain at exit"],
)
def test_a_kept_kernel_calls_what_hooks_there_are(
    enter: object, leave: object, started: tuple[Any, ...], gpu: SimpleNamespace
) -> None:
    """Triton starts it where there is a hook of either kind; else it is started without metadata."""
    gpu.launch_enter_hook, gpu.launch_exit_hook = enter, leave
    cached = kept()

    launch(cached, ["x"], POINTERS, COUNTS)

    assert [started] == cached.compiled.started
    assert not gpu.bound


@pytest.mark.parametrize("counts", [(2**31, 5, 3), (9, 2**31, 3), (9, 5, 2**31)])
def test_a_count_of_64_bits_goes_through_triton(counts: tuple[int, ...], gpu: SimpleNamespace) -> None:
    """The kept kernel takes counts of 32 bits: one larger number among smaller ones needs another kernel."""
    cached = kept()

    launch(cached, ["x"], POINTERS, counts)

    assert not cached.compiled.started
    assert [(cached, ["x"], counts)] == gpu.bound


@pytest.mark.parametrize(("gpus", "index", "entered"), [(2, 1, [1]), (2, 0, []), (1, 1, [])])
def test_a_kernel_starts_on_its_own_device(
    gpus: int, index: int, entered: list[int], gpu: SimpleNamespace
) -> None:
    """Another device than the current one is made current for the launch, where there are several."""
    gpu.gpus, cached = gpus, kept(index)

    launch(cached, ["x"], POINTERS, COUNTS)

    assert entered == gpu.entered
    assert [(*DIRECT[:4], (STREAM, index), *DIRECT[5:])] == cached.compiled.started
    assert 0 == gpu.current


class Bound:
    """Triton's function, which compiles a kernel when it is launched."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., str]:
        """Return the launch of a grid."""
        return lambda *_given, **_options: f"compiled for {grid}"


@pytest.mark.parametrize(
    ("counts", "aligned", "reason", "cached"),
    [
        ((9, 5), True, "", "compiled for (3, 3, 1)"),
        ((9, 2**31), True, "", None),
        ((9, 5), False, "", None),
        ((9, 5), True, "a reason", None),
    ],
)
def test_a_kernel_is_kept_where_it_may_be_started_directly(
    counts: tuple[int, ...],
    aligned: bool,  # noqa: FBT001 - of a table
    reason: str,
    cached: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not if one count is large, if a pointer is not aligned, or if the process has a reason against it."""
    monkeypatch.setattr(launching, "why_not_direct", lambda: reason)
    made = Launch(Bound(), REST, PLAN, 0, aligned, 1, 9)

    launching._launch_through_triton(made, ["x", None], counts)

    assert cached == made.compiled
