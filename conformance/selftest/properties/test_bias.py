"""The bound of the bias is right: rounding stays within it, truncation does not."""

from __future__ import annotations

import math

import pytest
import torch

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.values import distinct_rows, independent
from conformance.oracle.comparison import Errors, compare
from conformance.oracle.interval import Interval
from conformance.properties.bias import CHANCE, bound, judge, leaning, telling
from conformance.runs.item import Item, cases_of
from conformance.selftest.fakes.correct_fp8 import CorrectFp8

ELEMENTS = 2**16
LOW = (torch.bfloat16, torch.float16)


def _exact(seed: int) -> torch.Tensor:
    return torch.randn((64, ELEMENTS // 64), generator=torch.Generator().manual_seed(seed)).double()


def _truncated(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    nearest = exact.to(dtype)
    inwards = torch.nextafter(nearest, torch.zeros_like(nearest))
    return torch.where(nearest.double().abs() > exact.abs(), inwards, nearest)


def _errors(outputs: torch.Tensor, exact: torch.Tensor) -> Errors:
    return compare("y", outputs, Interval.exactly(exact), tuple(exact.shape), 0, signed=True).errors


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_rounding_to_nearest_leans_nowhere(dtype: torch.dtype) -> None:
    """In a hundred draws of 65,536 numbers the signed mean stays far within the bound."""
    for seed in range(100):
        errors = _errors(_exact(seed).to(dtype), _exact(seed))

        assert "" == leaning(errors)
        # the bound is 13 standard deviations of a uniform error: chance does not come near
        assert abs(errors.up / errors.count) < bound(errors) / 2


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_truncation_leans_towards_zero_by_half_a_place(dtype: torch.dtype) -> None:
    """Truncation, which every tolerance of a place accepts, has a bias of half a place."""
    errors = _errors(_truncated(_exact(0), dtype), _exact(0))

    assert math.isclose(-0.5, errors.away / errors.count, abs_tol=0.01)
    assert "away from zero is -0." in leaning(errors)


def test_a_few_truncated_elements_of_many_are_seen() -> None:
    """Truncating every tenth element gives a mean of a twentieth of a place."""
    exact = _exact(0)
    outputs = exact.to(torch.bfloat16)
    outputs[:, ::10] = _truncated(exact, torch.bfloat16)[:, ::10]

    assert "away from zero" in leaning(_errors(outputs, exact))


def test_rounding_upwards_is_seen_where_signs_cancel() -> None:
    """Rounding towards infinity is on average neither away from zero nor towards it."""
    exact = _exact(0)
    nearest = exact.to(torch.bfloat16)
    up = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    errors = _errors(torch.where(nearest.double() < exact, up, nearest), exact)

    assert abs(errors.away / errors.count) < 0.05
    assert "upwards is +0." in leaning(errors)


def test_the_contracts_own_width_is_allowed() -> None:
    """A bound before the store of a tenth of a place excuses a mean error of a tenth."""
    errors = Errors(up=0.1 * ELEMENTS, away=0.0, half=0.1 * ELEMENTS, count=ELEMENTS)

    assert "" == leaning(errors)
    assert "upwards" in leaning(Errors(errors.up, errors.away, 0.0, errors.count))


def test_without_elements_nothing_leans() -> None:
    """Without numbers there is no mean."""
    assert "" == leaning(Errors())
    assert math.isinf(bound(Errors()))
    assert 2 * math.exp(-2 * ELEMENTS * bound(Errors(count=ELEMENTS)) ** 2) == pytest.approx(CHANCE)


def test_what_is_no_ordinary_number_counts_for_nothing() -> None:
    """NaN, infinities, zeros and subnormals have no last place to measure in, and do not count."""
    special = torch.tensor([[float("nan"), float("inf"), 0.0, 1e-40, 1.0]], dtype=torch.float64)

    assert 1 == _errors(special.to(torch.bfloat16), special).count


def test_errors_of_eight_bits_and_of_float32_are_not_added_up() -> None:
    """A quantised norm has y and the sum judged, but not the values and the scales."""
    cases = list(cases_of(Item("rms_norm_fp8", "bias", "bfloat16"), Subject(CorrectFp8())))

    assert {"y"} < frozenset().union(*map(telling, cases)) <= {"y", "s"}
    assert all("y" in telling(case) for case in cases)


def test_rows_that_repeat_count_once() -> None:
    """A large tensor repeats rows: twice as many tell as much, and half as many more tell a little less."""
    n = 2048
    different = distinct_rows(n)

    assert different == independent(different, n) == independent(2 * different, n)
    assert different > independent(different + different // 2, n) > 0.88 * different


# A call of a run of eight minutes, whose right results were said to lean: its rows repeat 57 times.
REPEATING = """
{"operation": "rms_norm", "tensors": {
  "x": {"shape": [220, 17, 2048], "dtype": "bfloat16", "layout": ["contiguous", 0], "values": "normal"},
  "residual": {"shape": [220, 17, 2048], "dtype": "bfloat16", "layout": ["contiguous", 0], "values": "normal"},
  "weight": {"shape": [2048], "dtype": "bfloat16", "layout": ["contiguous", 0], "values": "weight"}},
 "flags": {"eps": 1e-05, "weight_offset": 1.0}, "seed": 1659636265}
"""


def test_right_results_of_rows_that_repeat_lean_nowhere() -> None:
    """Their mean is that of 65 rows, and chance takes it as far as theirs."""
    (verdict,) = judge(Subject(load("native")), Case.from_json(REPEATING))

    assert Status.PASSED is verdict.status
