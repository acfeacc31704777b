"""Arguments of a launch through Triton: programs, pointers, counts, and the options of the compiler."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conformance.package.calls import mrope
from conformance.package.calls.tensors import values
from conformance.selftest.every import every
from normkernels import launch
from normkernels.plans import Plan

Started = tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]


class Kernel:
    """Stand-in for a function of Triton: it notes how it is started."""

    def __init__(self) -> None:
        """Begin without starts."""
        self.starts: list[Started] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Return what starts so many programs."""
        return lambda *given, **options: self.starts.append((grid, given, options))


@every(("registers", "limit"), [(None, {}), (48, {"maxnreg": 48})])
def test_a_launch_has_the_programs_and_options_of_its_plan(registers: int | None, limit: dict[str, int]) -> None:
    """As many programs as rows need, its warps, its limit of registers, and no fusion that would change bits."""
    kernel, x = Kernel(), torch.zeros(4)
    plan = Plan("general", rows=4, levels=7, warps=2, registers=registers, programs=3)
    kept = launch.Launch(kernel, ("rest",), plan, x.device.index, aligned=True, fewest=1, most=9)
    for rows in (8, 9):
        launch.launch(kept, [x, None], [x.data_ptr()] * 2, (rows, 5))

    options = {"num_warps": 2, "enable_fp_fusion": False, **limit}
    for (grid, given, said), programs, rows in zip(kernel.starts, (2, 3), (8, 9), strict=True):
        assert ((programs, 3, 1), options) == (grid, said)
        # x stands in for the pointer that is not there
        assert given[0] is given[1] is x
        assert (rows, 5, "rest") == given[2:]


@pytest.mark.parametrize(("gpus", "device"), [(1, "cuda:0"), (2, "cpu")])
def test_no_device_is_asked_for_without_a_choice(gpus: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one GPU there is no other to be current, and the CPU needs none."""
    kernel, x = Kernel(), torch.zeros(4)
    monkeypatch.setattr(launch, "_gpus", lambda: gpus)
    # whatever is asked of it raises
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace())
    plan = Plan("general", rows=4, levels=7, warps=2)
    kept = launch.Launch(kernel, (), plan, torch.device(device).index, aligned=False, fewest=1, most=9)

    launch.launch(kept, [x], [x.data_ptr()], (8,))
    assert 1 == len(kernel.starts)


def test_the_first_reason_against_direct_launches_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has one, and only without it the tensors do."""
    elsewhere = torch.zeros(8)[1:]
    for reason, told in (
        ("asked", "by Triton: asked"),
        ("", "by Triton: some tensor begins at no multiple of 16 bytes"),
    ):
        monkeypatch.setattr(launch, "why_not_direct", lambda reason=reason: reason)
        assert told == launch.how([elsewhere])


# Tensors that begin at no multiple of 16 bytes, and how a rotation of them is launched.
ELSEWHERE = {
    "positions": (mrope.positions(6)[0, 1:], "directly"),
    "cos": (
        values("cos", 51 * 16 + 1)[1:].view(51, 16),
        "by Triton: some tensor begins at no multiple of 16 bytes",
    ),
}


@every("name", ELSEWHERE)
def test_positions_alone_may_begin_anywhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision says so: the kernel does not depend on their alignment, unlike that of other tensors."""
    monkeypatch.setattr(launch, "why_not_direct", lambda: "")
    tensor, told = ELSEWHERE[name]

    assert told == mrope.explain(mrope.call() | {name: tensor}).launched
