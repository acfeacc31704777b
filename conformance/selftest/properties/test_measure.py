"""Comparison of the oracle's results on two machines."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from conformance.calls.call import Subject
from conformance.cases.case import Case, TensorSpec
from conformance.oracle.arithmetic import MARGIN, U
from conformance.oracle.interval import Interval
from conformance.properties import measure
from conformance.properties.measure import Disagreement, agree, compared_alike
from conformance.selftest.fakes.correct_norm import CorrectNorm


def _interval(*ends: float, nan: bool = False) -> dict[str, Interval]:
    values = torch.tensor(ends, dtype=torch.float64)
    return {"y": Interval(values, values, torch.full(values.shape, nan))}


def test_machines_agree_within_the_margin_of_the_model() -> None:
    """Last bits of float64 may differ, and what is no number is the same on both."""
    ours = _interval(1.0, -3.0, 0.0, math.inf, -math.inf, math.nan)
    theirs = _interval(1.0 + MARGIN * U, -3.0, 0.0, math.inf, -math.inf, math.nan)
    agree(ours, theirs)


@pytest.mark.parametrize("other", [1.0 + 2 * MARGIN * U, math.inf, math.nan])
def test_a_larger_difference_is_an_error_of_the_suite(other: float) -> None:
    """The message names the end, the place and both numbers."""
    with pytest.raises(Disagreement, match=r"y\.lo\[1\]: 1 on the GPU, \S+ on the CPU"):
        agree(_interval(2.0, 1.0), _interval(2.0, other))


@pytest.mark.parametrize(("apart", "alike"), [(MARGIN / 2, True), (MARGIN * 2, False)])
def test_ends_near_zero_may_differ_by_a_share_of_the_width(apart: float, alike: bool) -> None:  # noqa: FBT001
    """Where a bias cancels a normalised value, the end is small, and the difference is that of large operands."""
    low, high = torch.tensor([1e-9], dtype=torch.float64), torch.tensor([1e-9 + U], dtype=torch.float64)
    nowhere = torch.zeros(1, dtype=torch.bool)
    ours, theirs = ({"y": Interval(each, high, nowhere)} for each in (low + apart * U, low))
    if alike:
        agree(ours, theirs)
        return
    with pytest.raises(Disagreement, match=r"y\.lo\[0\]"):
        agree(ours, theirs)


def test_a_difference_in_what_may_be_nan_is_an_error_of_the_suite() -> None:
    """Ends alike, NaN allowed on one machine only."""
    with pytest.raises(Disagreement, match="y: NaN is allowed elsewhere"):
        agree(_interval(1.0), _interval(1.0, nan=True))


def test_a_kernel_that_compares_otherwise_is_an_error_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the numbers of both; outputs without elements have none."""
    parts = {"y": torch.ones(1, 1), "empty": torch.ones(0, 1)}
    allowed = {name: Interval.exactly(part) for name, part in parts.items()}
    compared_alike(parts, allowed)
    monkeypatch.setattr(measure, "numbers", lambda *_: [0.0])

    with pytest.raises(Disagreement, match=r"y: compared as \[0\.0\] by a kernel, as \[1, 1, 0\.0"):
        compared_alike(parts, allowed)


def test_some_rows_of_every_size_are_judged_on_both_machines() -> None:
    """One case in sixteen, and no more elements than a CPU has time for, from the first row to the last."""
    subject = Subject(CorrectNorm(), "cuda")
    chosen = {}
    for rows in (100, 2**16):
        case = Case("rms_norm", (("x", TensorSpec((rows, 1024), "float32")),), (), seed=measure.SAMPLE)
        some = measure.sampled(subject, case, slice(0, rows))
        assert some is not None
        chosen[rows] = list(range(rows))[some]
        assert measure.sampled(subject, replace(case, seed=1), slice(0, rows)) is None

    assert all(each[0] == 0 and each[-1] > 0.9 * rows for rows, each in chosen.items())
    assert all(measure.COMPARED // 2048 <= len(each) <= measure.COMPARED // 512 for each in chosen.values())
    assert measure.sampled(Subject(CorrectNorm()), case, slice(0, rows)) is None
