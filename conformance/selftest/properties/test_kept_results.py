"""Pairs of calls that differ in one element, or in the order of two, must differ in their results."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.kept_results import PLACES, Step, _other, _shuffled, steps
from conformance.properties.measure import apart, stored
from conformance.runs.item import Item, cases_of
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.kept import ResultKeptBySums, ResultKeptByThreeNumbers

JUDGE = PROPERTIES["kept_results"].judge


def _cases(operation: str, dtype: str, profile: str = "quick") -> list[Case]:
    subject = Subject(right(operation)())
    return [
        case
        for seed in range(6)
        for case in cases_of(Item(operation, "kept_results", dtype, profile, seed), subject)
    ]


@cache
def _changed(operation: str, dtype: str) -> tuple[tuple[Case, tuple[Step, ...]], ...]:
    """Return the steps of cases under six seeds."""
    subject = Subject(right(operation)())
    return tuple((case, tuple(steps(subject, case))) for case in _cases(operation, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_argument_changes_in_one_element_and_in_the_order_of_two(operation: str, dtype: str) -> None:
    """Every argument changes, so that each change shows somewhere; each step changes nothing else."""
    for case, changes in _changed(operation, dtype):
        before = values_of(case)

        assert [(name, places) for name, _ in case.tensors for places in (1, 2)] == [
            (step.name, len(step.places)) for step in changes
        ]
        for step in changes:
            changed = {name: before[name] != values for name, values in step.values.items()}
            assert sorted(step.places) == [
                tuple(place) for place in torch.nonzero(changed.pop(step.name)).tolist()
            ]
            assert not any(mask.any() for mask in changed.values())
            assert len(step.places) == 1 or torch.equal(*(_sorted(v[step.name]) for v in (before, step.values)))
            before = dict(step.values)


def _sorted(values: torch.Tensor) -> torch.Tensor:
    return values.flatten().sort().values


@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 4, 1, 9), (0, 5), (2000, 129)])
def test_places_are_looked_at_in_random_order(shape: tuple[int, ...]) -> None:
    """All of a small tensor, those first that are at no end and no middle; some of a large one."""
    places = _shuffled(torch.Size(shape), 5)
    numbers = [tuple(place) for place in places.tolist()]
    outer = [
        any(size > 3 and at in {0, size // 2, size - 1} for at, size in zip(place, shape, strict=True))
        for place in numbers
    ]

    assert min(math.prod(shape), PLACES) == len(numbers)
    assert set(numbers) <= set(itertools.product(*map(range, shape)))
    assert outer == sorted(outer)
    assert len(set(numbers)) > 0.85 * len(numbers) - 1
    assert torch.equal(places, _shuffled(torch.Size(shape), 5))
    assert len(numbers) < 5 or not torch.equal(places, _shuffled(torch.Size(shape), 6))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_change_shows(operation: str) -> None:
    """Each step makes an output somewhere that was not allowed before it."""
    subject = Subject(right(operation)())
    case, changes = _changed(operation, "float32")[0]
    contract = subject.contract(operation)
    allowed = [
        stored(subject, contract, case, values) for values in (values_of(case), *(s.values for s in changes))
    ]

    for step, before, after in zip(changes, allowed, allowed[1:], strict=False):
        assert any(bool(apart(before[name], after[name]).any()) for name in before), step


@pytest.mark.parametrize("operation", OPERATIONS)
def test_neither_ends_nor_middles_change(operation: str) -> None:
    """A cache key of only the first, middle and last elements stays the same."""
    for _, changes in _changed(operation, "float32"):
        for step in changes:
            for place in step.places:
                flat = sum(i * s for i, s in zip(place, step.values[step.name].stride(), strict=True))
                count = step.values[step.name].numel()

                assert count < 8 or flat not in {0, count // 2, count - 1}


@pytest.mark.parametrize(
    ("kind", "said"), [(ResultKeptByThreeNumbers, "changed"), (ResultKeptBySums, "exchanged")]
)
def test_a_failure_says_what_had_changed(kind: type[CorrectNorm], said: str) -> None:
    """The message has the argument, the place, and the first element that does not follow."""
    (case, *_) = _cases("rms_norm", "bfloat16")
    (verdict,) = JUDGE(Subject(kind()), case)

    assert verdict.status is Status.FAILED
    assert verdict.reason.startswith("after x[")
    assert said in verdict.reason
    assert "elements outside" in verdict.reason


def test_every_number_of_a_mask_changes_visibly() -> None:
    """A mask has zeros and infinities: the opposite of the one is the same number, that of the other hides all."""
    mask = torch.tensor([0.0, -torch.inf, 2.0])

    assert [1.0, 1.0, -2.0] == _other(mask, torch.arange(3)[:, None]).tolist()
