"""The variant that Triton compiles is determined from the launch alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton.language as tl

from conformance.calls.call import Subject
from conformance.calls.watch import variant
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.properties.variants import COUNTS, counted
from conformance.selftest.fakes.correct_norm import CorrectNorm


class _Thresholds(CorrectNorm):
    """A norm with two plans for few rows."""

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the rows from which on another plan is used."""
        return (4096, 2**20)


def _copy_kernel(x_ptr: Any, n_rows: Any, stride: Any, eps: Any, BLOCK: tl.constexpr) -> None:
    """Stand for a kernel: only its signature counts."""


KERNEL = SimpleNamespace(fn=_copy_kernel, kwargs={"do_not_specialize": ["n_rows"]})
ROOM = torch.zeros(256)
PLAIN = {"x_ptr": ROOM, "n_rows": 5, "stride": 48, "eps": 1e-6, "BLOCK": 128, "grid": (4,), "num_warps": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"n_rows": 1},
        {"n_rows": 16},
        {"stride": 64},
        {"eps": 1e-5},
        {"grid": (7,)},
        {"x_ptr": torch.zeros(256)},
    ],
    ids=str,
)
def test_what_needs_no_kernel_of_its_own(change: dict[str, Any]) -> None:
    """Numbers of the same kind, other grids, and other memory of the same alignment share a kernel."""
    assert variant(KERNEL, (), PLAIN) == variant(KERNEL, (), {**PLAIN, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 1},
        {"stride": 7},
        {"stride": 2**31},
        {"n_rows": 2**31},
        {"BLOCK": 64},
        {"num_warps": 8},
        {"x_ptr": ROOM[1:]},
        {"x_ptr": ROOM.half()},
        {"x_ptr": None},
    ],
    ids=str,
)
def test_what_compiles_another_kernel(change: dict[str, Any]) -> None:
    """Kinds and sizes of numbers, constexprs, options, alignment, dtypes and None for a tensor have their own."""
    assert variant(KERNEL, (), PLAIN) != variant(KERNEL, (), {**PLAIN, **change})


def test_arguments_by_position_are_the_same_launch() -> None:
    """Arguments by name and by position are compiled once."""
    named = dict(PLAIN)
    placed = (named.pop("x_ptr"), named.pop("n_rows"))

    assert variant(KERNEL, (), PLAIN) == variant(KERNEL, placed, named)


def test_a_kernel_that_ignores_alignment_is_compiled_once() -> None:
    """Named arguments and places share a kernel whether they are multiples of 16 or not; 1 and others do not."""
    unaligned = {"do_not_specialize_on_alignment": ["x_ptr", 2]}
    kernel = SimpleNamespace(fn=_copy_kernel, kwargs=unaligned)

    assert variant(kernel, (), PLAIN) == variant(kernel, (), {**PLAIN, "x_ptr": ROOM[1:]})
    assert variant(kernel, (), PLAIN) == variant(kernel, (), {**PLAIN, "stride": 7})
    assert variant(kernel, (), PLAIN) != variant(kernel, (), {**PLAIN, "stride": 1})
    assert variant(kernel, (), PLAIN) != variant(kernel, (), {**PLAIN, "n_rows": 16})


def test_rows_for_which_memory_does_not_suffice_are_not_tried() -> None:
    """A process that may hold less of its GPU tries fewer numbers of rows: a lack of memory is no failure."""
    spec = TensorSpec((4, 512), "float32", Layout("contiguous"))
    case = Case("rms_norm", (("x", spec),), (("eps", 1e-6), ("weight_offset", 0.0)), 0)
    subject = Subject(_Thresholds(), "cuda")

    every, allowed = counted(subject, case)
    some, same = counted(replace(subject, memory=2**30), case)

    assert {*COUNTS, 4095, 4096, 4097, 2**20 + 1} <= {*every}
    assert [count for count in every if count <= 4097] == some
    assert allowed == same
