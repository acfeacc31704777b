"""Gradients: right ones pass in every operation, refusals are told, and nothing is cut off without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.adapters.native import Native
from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.gradient import differentiable
from conformance.runs.item import Item, cases_of, items
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.gradients import CorrectGradients, GradientCut

GRADIENT = PROPERTIES["gradient"]
JUDGED = [name for name in OPERATIONS if not GRADIENT.void(OPERATIONS[name])]


def cases(subject: Subject, operation: str, dtype: str, seeds: int) -> list[Case]:
    """Return the first cases of several seeds."""
    return [next(iter(cases_of(Item(operation, "gradient", dtype, seed=seed), subject))) for seed in range(seeds)]


@every("operation", JUDGED)
def test_right_gradients_pass(operation: str) -> None:
    """Autograd's own, of the native forms, in every dtype and for several calls."""
    subject = Subject(Native())
    for case in (case for dtype in DTYPES for case in cases(subject, operation, dtype, 4)):
        (verdict,) = GRADIENT.judge(subject, case)
        assert Status.PASSED is verdict.status, str(verdict)
        assert not verdict.reason


def test_gradients_of_rounded_steps_pass() -> None:
    """Those that go through numbers of x's dtype between the steps are as far from the formula as may be."""
    subject = Subject(CorrectGradients())
    for case in cases(subject, "rms_norm", "bfloat16", 20):
        (verdict,) = GRADIENT.judge(subject, case)
        assert Status.PASSED is verdict.status, str(verdict)


def test_quantised_results_have_no_gradient() -> None:
    """Their operations have no items, and all others have."""
    void = {name: GRADIENT.void(operation) for name, operation in OPERATIONS.items()}

    assert "values are quantised, which has no gradient" == void["rms_norm_int8"]
    assert {"quantise_fp8", "rms_norm_fp8", "rms_norm_gated_fp8", "rms_norm_int8"} == set(OPERATIONS) - set(JUDGED)


class _Raises(CorrectNorm):
    """A norm that refuses what requires a gradient, or whose backward fails."""

    differentiable = True

    def norm(self, x: torch.Tensor, *rest: Any) -> Any:
        if x.requires_grad:
            raise NotImplementedError("no backward yet")
        return super().norm(x, *rest)


def test_a_refusal_is_told() -> None:
    """An exception is no silence: the call is declined, with its words, and counts as no evidence."""
    subject = Subject(_Raises())
    (case,) = cases(subject, "rms_norm", "float32", 1)
    (verdict,) = GRADIENT.judge(subject, case)

    assert Status.DECLINED is verdict.status
    assert verdict.reason.startswith("refused: NotImplementedError: no backward yet")


class _Forgets(CorrectGradients):
    """A norm whose backward has nothing for the weight."""

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        return super().weigh(y, None if weight is None else weight.detach(), offset)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (
            GradientCut,
            "y requires no gradient, and its arguments do: it is cut off without a word, with contiguous ",
        ),
        (_Forgets, "weight has no gradient, with contiguous gradients of the results"),
    ],
)
def test_what_is_missing_is_named(adapter: type[CorrectNorm], said: str) -> None:
    """A result that leads nowhere, and an argument that gets nothing."""
    subject = Subject(adapter())
    (case,) = cases(subject, "rms_norm", "bfloat16", 1)
    (verdict,) = GRADIENT.judge(subject, case)

    assert Status.FAILED is verdict.status
    assert verdict.reason.startswith(said)


def test_only_those_are_judged_that_declare_it() -> None:
    """A kernel of inference alone says so by its silence; the report has the reason."""
    for adapter, said in ((CorrectNorm(), "the adapter does not declare it"), (CorrectGradients(), "")):
        assert said == GRADIENT.cannot(Subject(adapter), "rms_norm", "float32")


def test_angles_and_infinite_masks_are_no_parameters() -> None:
    """Their gradients are not judged, and those of all other floats are."""
    ones = torch.ones(2)
    values = {"q": ones, "cos": ones, "sin": ones, "mask": ones / 0, "positions": ones.int(), "weight": ones}

    assert ("q", "weight") == differentiable(values)


@pytest.mark.parametrize("operation", JUDGED)
def test_every_dtype_has_an_item(operation: str) -> None:
    """One case each: calls from three kinds of gradients back."""
    found = items(Subject(Native()), operations=(operation,), properties=("gradient",))

    assert list(DTYPES) == [item.dtype for item in found]
    assert [1] * 3 == [len(list(cases_of(item, Subject(Native())))) for item in found]
