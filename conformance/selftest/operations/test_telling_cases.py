"""Constructed cases show every term of a formula, for every seed, claim and contract."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import pytest

from conformance.calls.call import Subject
from conformance.calls.declared import Declared, Traits
from conformance.calls.materialize import values_of
from conformance.cases.case import Case
from conformance.cases.draws import Make, drawn
from conformance.cases.factors import DTYPES, Scope
from conformance.operations import OPERATIONS, telling_cases
from conformance.operations.rows import count
from conformance.oracle.comparison import Errors
from conformance.oracle.contract import Contract, contracts
from conformance.properties import PROPERTIES
from conformance.properties.bias import TELLING, bound
from conformance.properties.sensitivity import evidence
from conformance.runs.item import (
    GPU_WIDTHS,
    PROFILES,
    Item,
    cases_of,
    drawing,
    items,
    scope_of,
    void_reason,
)
from conformance.runs.judge import unjudged
from conformance.selftest.nightly import NIGHTLY

SEEDS = 200
# properties that compare rows of a call, or that add up over them
CONSTRUCTED = ("values", "sensitivity")  # properties whose cases begin with the constructed ones
OF_SEVERAL_ROWS = ("batch_invariance", "position_invariance", "padding_invariance", "row_independence", "bias")


def _subject(contract: Contract, device: str = "cpu") -> Subject:
    """Return a subject that declares everything and has no implementation: no test calls it."""
    traits = Traits(contract, forms=("_",), validates=True, compiles=True, graphs=True)
    return Subject(None, device, known=Declared("anything", "native", dict.fromkeys(OPERATIONS, traits)))


def _contracts(operation: str) -> dict[str, Contract]:
    """Return the named contracts and that of all points, as deep as sums can be: the widest intervals."""
    points = OPERATIONS[operation].rounds
    sets = {**contracts(points), "all": frozenset(point.name for point in points)}
    return {name: Contract(rounds, "serial") for name, rounds in sets.items()}


@functools.cache
def _seen(case: Case, contract: Contract) -> tuple[tuple[str, bool], ...]:
    return evidence(_subject(contract), case, values_of(case))


def _evidence(operation: str, scope: Scope, contract: Contract) -> dict[str, bool]:
    """Return the terms of the constructed cases, with whether the loss of each term shows in one of them."""
    found = [term for case in telling_cases(OPERATIONS[operation], scope) for term in _seen(case, contract)]
    return {name: (name, True) in found for name, _ in found}


@pytest.mark.parametrize("widths", [(), GPU_WIDTHS], ids=["cpu", "gpu"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_term_shows_in_a_constructed_case(operation: str, widths: tuple[int, ...]) -> None:
    """The loss of each term is noticed in every dtype and under every contract."""
    every = {term.name: True for term in OPERATIONS[operation].terms}
    for dtype in DTYPES:
        for contract in _contracts(operation).values():
            assert every == _evidence(operation, Scope(dtype, widths=widths), contract), (dtype, contract)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_term_shows_in_what_an_implementation_takes(operation: str) -> None:
    """An implementation may take one level of a factor. float16 under the widest contract hides most."""
    widest = _contracts(operation)["eager"]
    for factor, levels in OPERATIONS[operation].factors.items():
        # an implementation cannot choose the values of tensors
        for level in () if factor in {"values", "two_alike"} or factor.endswith("layout") else levels:
            found = _evidence(operation, Scope("float16", fixed=((factor, (level,)),)), widest)

            assert all(found.values()), (factor, level, found)


class _EnoughError(BaseException):
    """Raised to end a draw, past all that Hypothesis does about an exception."""


def _first_drawn(make: Make, count: int, number: int, most: int) -> list[Case]:
    """Return the first cases of a draw, which ends with them."""
    seen: list[Case | None] = []

    def noted(rng: random.Random) -> Case | None:
        if len(found()) == most:
            raise _EnoughError
        seen.append(make(rng))
        return seen[-1]

    def found() -> list[Case]:
        # the simplest case, with which each draw begins, is not one of them
        return [case for case in seen[1:] if case is not None]

    with suppress(_EnoughError):
        drawn(noted, count, number)
    return found()


@pytest.mark.parametrize("most", [1, 5, 40])
def test_the_first_cases_of_a_draw_are_those_of_the_whole(most: int) -> None:
    """A draw that ends early differs in nothing before."""
    item = Item("rms_norm_gated", "determinism", "float16", "ci", 3)
    make = drawing(item, scope_of(item, _subject(Contract())))

    assert drawn(make, 40, item.draw_seed())[:most] == _first_drawn(make, 40, item.draw_seed(), most)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_seed_is_without_evidence(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under any seed constructed cases come first, and drawn ones contain what their property is about.

    Every profile and dtype draws as a run does, and so does every seed of a nightly run. Else further seeds make
    cases of random numbers without Hypothesis, which takes a tenth of the time, once for all properties that draw
    alike.
    """
    subject = _subject(Contract())
    names = [
        name
        for name, prop in PROPERTIES.items()
        if prop.given is None and name not in {"layout", "specials"} and not void_reason(operation, name)
    ]
    for seed in range(SEEDS):
        profile, dtype = tuple(PROFILES)[seed % len(PROFILES)], DTYPES[seed // len(PROFILES) % len(DTYPES)]
        constructed = telling_cases(OPERATIONS[operation], Scope(dtype))
        most = len(constructed)
        monkeypatch.setattr("conformance.runs.item.drawn", functools.partial(_first_drawn, most=most))
        alike: dict[Scope, list[Case | None]] = {}
        for name in names:
            item = Item(operation, name, dtype, profile, seed)
            every: Iterator[Case | None] = cases_of(item, subject)
            if name not in CONSTRUCTED and seed >= len(PROFILES) * len(DTYPES) and not NIGHTLY:
                scope = scope_of(item, subject)
                if scope not in alike:
                    make, rng = drawing(item, scope), random.Random(seed)  # noqa: S311 - not secret
                    alike[scope] = [make(rng) for _ in range(most)]
                every = iter(alike[scope])
            first = [case for case in islice(every, most) if case is not None]

            assert first
            assert name not in CONSTRUCTED or constructed == tuple(first)
            assert name not in OF_SEVERAL_ROWS or all(count(case) > 1 for case in first)
            assert name != "bias" or all(bound(_least(case)) < TELLING for case in first)


def _least(case: Case) -> Errors:
    """Return how many errors a case adds up, if all numbers were exact before they are stored."""
    return Errors(count=math.prod(case.tensors[0][1].shape))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_item_is_without_cases(operation: str) -> None:
    """Every item of the quick profile that can be judged has at least one case."""
    subject = _subject(Contract())
    # a claim of everything has no edge
    for item in (item for item in items(subject, operations=(operation,)) if item.property != "claim"):
        assert unjudged(item, subject) or next(cases_of(item, subject), None), item
