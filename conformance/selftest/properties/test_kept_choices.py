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


def _cases(operation: str, subject: Subject) -> list[Case]:
    """Return the cases of six seeds."""
    every = (Item(operation, "kept_choices", "bfloat16", seed=seed) for seed in range(6))
    return [case for item in every for case in cases_of(item, subject)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_neighbour_has_another_level_of_one_factor(operation: str) -> None:
    """Most have the sizes of the first call and all its other levels; every one has another call like it."""
    subject = Subject(right(operation)())
    first, others = neighbours(subject, _cases(operation, subject)[0])
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


class _CrashesInWideRows(CorrectNorm):
    """An implementation that takes narrow rows alone, and says so nowhere."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        if s.shape[-1] > 200:
            raise IndexError("no such kernel")
        return super().load(s, x, residual)


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        (_WrongWithSigmoid, "rms_norm_gated"),
        (_CrashesOnFloat32Weights, "rms_norm"),
        (_CrashesInWideRows, "rms_norm"),
    ],
)
def test_what_is_wrong_by_itself_is_no_choice_that_was_kept(kind: type[Correct], operation: str) -> None:
    """Other properties fail for a level that is always wrong, or that no call takes; this one does not."""
    subject = Subject(kind())
    statuses = [verdict.status for case in _cases(operation, subject) for verdict in JUDGE(subject, case)]

    assert Status.FAILED not in statuses
    assert Status.PASSED in statuses


class _NarrowOffsets(CorrectNorm):
    """An implementation that takes an offset of one for plain weights alone, and claims it."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "rms_norm": {"weight": ("same", "float32"), "apart": {"weight": "float32", "offset": "one"}}
    }


def test_neighbours_are_within_the_claim() -> None:
    """Levels that an implementation takes, but not together, are not called together."""
    subject, free = Subject(_NarrowOffsets()), Subject(CorrectNorm())
    claim = subject.traits("rms_norm").claim
    assert claim is not None
    cases = _cases("rms_norm", subject)

    assert all(neighbours(subject, case)[1] for case in cases)
    assert not any(outside(claim, other.case) for case in cases for other in neighbours(subject, case)[1])
    assert any(outside(claim, other.case) for case in cases for other in neighbours(free, case)[1])
