"""Contracts are made of the rounding points that their operation declares."""

from __future__ import annotations

import random

import pytest

from conformance.adapter import UsageError
from conformance.calls.declared import check
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract, contracts, in_words, named
from conformance.selftest.fakes.correct_norm import CorrectNorm

ROUNDS = OPERATIONS["rms_norm_fp8"].rounds


class _Misspelled(CorrectNorm):
    """A norm whose contract has a point that no operation has."""

    contracts = {"rms_norm": Contract(frozenset({"sum", "normalized"})), "gemma_rms_norm": "fp32"}  # noqa: RUF012


class _OfAnotherOperation(CorrectNorm):
    """A norm whose contract has a point that only rotations have."""

    contracts = {"rms_norm": "fp32", "gemma_rms_norm": Contract(frozenset({"turned"}))}  # noqa: RUF012


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            _Misspelled,
            "contracts['rms_norm']: 'normalized' is unknown, did you mean 'normalised'? Known are sum, ",
        ),
        (_OfAnotherOperation, "contracts['gemma_rms_norm']: 'turned' is unknown, did you mean "),
    ],
)
def test_a_point_that_the_operation_does_not_have_is_refused(kind: type[CorrectNorm], said: str) -> None:
    """The line names the operation and the nearest point that it has."""
    with pytest.raises(UsageError) as refused:
        check(kind())

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_eager_has_every_point_but_those_of_another_contract() -> None:
    """A scale that is a power of two is no step of plain PyTorch."""
    every = {point.name for point in ROUNDS}

    assert every - {"power_of_two"} == contracts(ROUNDS)["eager"] == named("eager", ROUNDS).rounds
    assert "power_of_two" in every


def test_an_unknown_name_is_refused() -> None:
    """The message has the names that there are."""
    with pytest.raises(ValueError, match=r"contract='fp64', must be one of .*'eager'"):
        named("fp64", ROUNDS)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"weighted", "normalised"}, "hf {normalised, weighted}"),
        ({"unquantised", "sum"}, "{sum, unquantised}"),
        (set(), "fp32 {}"),
    ],
)
def test_a_contract_is_shown_in_the_order_of_the_formula(rounds: set[str], said: str) -> None:
    """A set has no order; the operation's points have."""
    assert said == in_words(Contract(frozenset(rounds)), ROUNDS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_points_that_show_are_declared(operation: str) -> None:
    """A point that a case can show, but that nobody may name, would never be found by discovery."""
    given, rng = OPERATIONS[operation], random.Random(operation)  # noqa: S311 - reproducible
    declared = [point.name for point in given.rounds]
    for _ in range(50):
        levels = {factor: rng.choice(levels) for factor, levels in given.factors.items()}
        shown = given.points(given.complete(levels, rng, Scope("bfloat16")))

        assert set(shown) <= set(declared)
    assert len(declared) == len(set(declared))
