"""Sizes that drawing rarely reaches: thresholds, widths of real models, many rows, within a budget."""

from __future__ import annotations

import math

import pytest
import torch

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.calls.memory import ALIGNMENT
from conformance.cases.factors import DTYPES, Scope, Taken
from conformance.operations import OPERATIONS
from conformance.runs.item import Item, sized_cases
from conformance.runs.sizes import LONG, WIDE, sizes
from conformance.runs.survey import Survey
from conformance.selftest.every import every

NORMS = [name for name, operation in OPERATIONS.items() if not operation.token_axes]


@every("programs", [0.0, 1.0])
@every("operation", OPERATIONS)
@every("dtype", DTYPES)
def test_both_sides_of_every_threshold_are_judged(operation: str, dtype: str, programs: float) -> None:
    """Every dtype, also in quick and in the interpreter, has the last number before and the first after."""
    scope = Scope(dtype, row_edges=(16, 128), column_edges=(512, 8192))
    found = [s for s in sizes(OPERATIONS[operation], scope, "quick", 0, programs) if not s.left_out]
    rows = {size.rows for size in found}
    columns = {size.columns for size in found}

    assert {15, 16} <= rows
    assert operation == "mrope" or {127, 128} <= rows or programs
    assert {512, 513, 8192, 8193} <= columns or {511, 512, 8191, 8192} <= columns


@every("dtype", DTYPES)
def test_narrow_rows_with_a_kernel_of_their_own_are_judged_in_numbers(dtype: str) -> None:
    """Rows up to a narrow threshold are as many as each threshold of rows, and one less, in plain calls."""
    scope = Scope(dtype, row_edges=(1, 16, 128), column_edges=(128, 512))
    found = [s for s in sizes(OPERATIONS["rms_norm_gated"], scope, "quick", 0, 1.0) if s.plain]

    assert [(15, 128), (16, 128), (127, 128), (128, 128)] == [(size.rows, size.columns) for size in found]
    assert not any(size.left_out for size in found)


def test_a_plain_size_is_a_plain_call() -> None:
    """Every factor has its first level: the kernel for narrow rows takes contiguous calls alone."""
    subject = Subject(load("normkernels"), "cpu")
    item = Item("rms_norm_gated", "values", "float32")
    survey = Survey(claimed=True)
    shape = (max(subject.traits("rms_norm_gated").row_thresholds) - 1, 128)
    made = [case for case, _ in sized_cases(item, subject, survey) if case.tensors[0][1].shape == shape]

    assert 1 == len(made)
    assert {"contiguous"} == {spec.layout.kind for _, spec in made[0].tensors}
    assert {"float32"} == {spec.dtype for _, spec in made[0].tensors}
    assert made[0].tensor("gate") is not None
    assert made[0].flag("norm_before_gate")


@every("dtype", DTYPES)
def test_rows_are_spread_over_three_dimensions_that_are_not_one_in_memory(dtype: str) -> None:
    """Each of the three has several rows, and no step of one is that of the next times its size."""
    made = sized_cases(
        Item("rms_norm_gated", "layout", dtype), Subject(load("normkernels"), "cpu"), Survey(claimed=True)
    )
    spread = [spec for case, _ in made for _, spec in case.tensors[:1] if len(spec.shape) == 4]

    assert [("swapped", 12)] == [(spec.layout.kind, math.prod(spec.shape[:3])) for spec in spread]
    assert 1 < min(spread[0].shape[:3])


@every("seed", range(3))
@every("operation", NORMS)
def test_wide_rows_in_numbers_end_where_memory_does_and_do_not(operation: str, seed: int) -> None:
    """In quick a read past a padded row faults in one dtype; in the others rows begin at any address."""
    found = {
        dtype: size.columns * getattr(torch, dtype).itemsize % ALIGNMENT
        for dtype in DTYPES
        for size in sizes(OPERATIONS[operation], Scope(dtype), "quick", seed, 1.0)
        if size.columns is not None and size.rows == 64 and size.columns.bit_count() > 1
    }

    assert set(DTYPES) == set(found)
    assert 1 == sum(beyond == 0 for beyond in found.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operation", NORMS)
def test_the_dtypes_share_the_widths_of_models_and_the_numbers_of_rows(operation: str, seed: int) -> None:
    """Each width and each large number of rows occurs in one dtype, for any seed."""
    every = [s for dtype in DTYPES for s in sizes(OPERATIONS[operation], Scope(dtype), "quick", seed, 0.0)]

    assert set(WIDE) <= {size.columns for size in every if not size.left_out}
    assert set(LONG) <= {size.rows for size in every if not size.left_out}
    assert any(size.rows >= 64 and (size.columns or 0) > 1024 for size in every)


@pytest.mark.parametrize(("profile", "programs"), [("quick", 40.0), ("ci", 400.0)])
def test_what_is_over_the_budget_is_named(profile: str, programs: float) -> None:
    """A size that is left out is reported with its numbers, never silently."""
    scope = Scope("float32", row_edges=(2**22,))
    left_out = [s for s in sizes(OPERATIONS["rms_norm"], scope, profile, 0, programs) if s.left_out]

    assert any(f"{2**22:,} rows of 16 columns are over" in size.left_out for size in left_out)
    assert any("interpreted programs" in size.left_out for size in left_out)


def test_sizes_lie_inside_of_what_is_taken() -> None:
    """Numbers that are not taken are replaced by the nearest ones that are."""
    scope = Scope("float32", taken=Taken(sizes=(("columns", (128, 4096)), ("rows", range(1, 65)))))
    found = list(sizes(OPERATIONS["rms_norm"], scope, "quick", 0, 0.0))

    assert {128, 4096} == {size.columns for size in found}
    assert max(size.rows for size in found) <= 64
