"""Calls that differ in one factor follow each other: a choice kept for the other shows, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.claim import outside
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import OF_VALUES
from conformance.operations import OPERATIONS
from conformance.operations.levels import levels_of
from conformance.properties import PROPERTIES
from conformance.properties.kept_choices import neighbours
from conformance.runs.item import Item, cases_of
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm

JUDGE = PROPERTIES["kept_choices"].judge


def _case(operation: str, subject: Subject | None = None) -> Case:
    subject = subject or Subject(right(operation)())
    return next(iter(cases_of(Item(operation, "kept_choices", "bfloat16"), subject)))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_neighbour_has_another_level_of_one_factor(operation: str) -> None:
    """Most have the sizes of the first call and all its other levels; every one has another call like it."""
    subject = Subject(right(operation)())
    first, others = neighbours(subject, _case(operation))
    levels = levels_of(first)
    changed = [{name for name, _ in levels_of(each.case).items() - levels.items()} for each in others]

    assert len(others) >= len(levels.keys() - OF_VALUES) / 2
    assert sum(len(names) == 1 for names in changed) >= len(others) / 2
    for other in others:
        assert other.case != first
        assert other.elsewhere not in {first, other.case}


class _WrongWithSigmoid(Correct):
    """A bug of one activation, whatever was called before."""

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        return super().activate(gate, "silu", x)


class _CrashesOnFloat32Weights(CorrectNorm):
    """An implementation that takes one dtype of weights, and says so nowhere, or in its claim."""

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        if weight.dtype == torch.float32:
            raise IndexError("no such kernel")
        return super().scale(weight, offset)


def test_what_is_wrong_by_itself_is_no_choice_that_was_kept() -> None:
    """Other properties fail for a level that is always wrong, or that no call takes; this one does not."""
    for kind, operation in ((_WrongWithSigmoid, "rms_norm_gated"), (_CrashesOnFloat32Weights, "rms_norm")):
        subject = Subject(kind())
        for seed in range(4):
            cases = cases_of(Item(operation, "kept_choices", "bfloat16", seed=seed), subject)
            assert Status.FAILED not in {verdict.status for case in cases for verdict in JUDGE(subject, case)}


class _OneWeight(CorrectNorm):
    """An implementation that claims part of the calls."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"rms_norm": {"weight": "same", "residual": "none"}}


def test_neighbours_are_within_the_claim() -> None:
    """A level that an implementation does not claim is not called."""
    subject = Subject(_OneWeight())
    claim = subject.traits("rms_norm").claim
    _, others = neighbours(subject, _case("rms_norm", subject))

    assert claim is not None
    assert others
    assert not any(outside(claim, other.case) for other in others)
