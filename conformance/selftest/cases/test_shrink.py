"""Shrinking ends at a failing case that no simpler failing case replaces."""

import random

from conformance.cases.case import Case
from conformance.cases.factors import Scope, drawn_cases
from conformance.cases.shrink import essentials, shrink
from conformance.operations import OPERATIONS

OPERATION = OPERATIONS["rms_norm_gated"]
SCOPE = Scope("bfloat16")


def _drawn(**levels: str) -> Case:
    plain = {name: choices[0] for name, choices in OPERATION.factors.items()}
    return OPERATION.complete({**plain, **levels}, random.Random(1), SCOPE)  # noqa: S311 - reproducible, not secret


def test_only_what_matters_is_left() -> None:
    """A failure that needs a strided gate keeps it, and loses every other peculiarity."""
    case = _drawn(gate_layout="step", x_layout="transposed", rank="4", group="several", activation="sigmoid")

    def fails(candidate: Case) -> bool:
        gate = candidate.tensor("gate")
        return gate is not None and gate.layout.kind == "step"

    smallest, settled = shrink(case, OPERATION.simpler, fails, tries=500)

    assert fails(smallest)
    assert settled
    assert smallest.tensors[0][1].layout.kind == "contiguous"
    assert smallest.flag("activation") == "silu"
    assert smallest.flag("group_size") is None
    assert smallest.tensors[0][1].shape == (1,)


def test_a_size_shrinks_to_its_threshold() -> None:
    """A failure from 17 columns and 3 rows on is shown with 17 columns and 3 rows."""
    case = _drawn(width="wide", rows="few", rank="3")

    def fails(candidate: Case) -> bool:
        return candidate.tensors[0][1].shape[-1] >= 17 and candidate.rows >= 3

    smallest, settled = shrink(case, OPERATION.simpler, fails, tries=500)

    assert settled
    assert smallest.tensors[0][1].shape == (3, 17)


def test_the_number_of_tries_is_kept() -> None:
    """Shrinking runs no more cases than allowed."""
    tried = []

    def fails(candidate: Case) -> bool:
        tried.append(candidate)
        return True

    _, settled = shrink(_drawn(rank="4", width="wide"), OPERATION.simpler, fails, tries=4)

    assert len(tried) == 4
    assert not settled


def test_what_a_case_cannot_do_without_is_said_in_words() -> None:
    """Each feature that a smallest case needs is named, and no other."""
    case = _drawn(gate_layout="step", weight="float32", norm_before_gate="no", rows="few", rank="2")

    def fails(candidate: Case) -> bool:
        gate, weight = candidate.tensor("gate"), candidate.tensor("weight")
        strided = gate is not None and gate.layout.kind == "step"
        return strided and weight is not None and weight.dtype == "float32" and candidate.rows >= 2

    smallest, _ = shrink(case, OPERATION.simpler, fails, tries=500)
    said = essentials(smallest, [case for case in OPERATION.simpler(smallest) if not fails(case)])

    assert {"gate with a stride between columns", "a gate", "weight in float32", "x of shape (2, 1)"} == set(said)


def test_every_simplification_is_a_valid_call() -> None:
    """Shapes fit and groups divide: simpler cases of a grouped call fill in all requirements."""
    case = _drawn(group="several", rank="3", width="odd")
    for candidate in OPERATION.simpler(case):
        n = candidate.tensors[0][1].shape[-1]
        group = candidate.flag("group_size") or n

        assert n % group == 0
        assert candidate.tensor("weight").shape == (n,)  # type: ignore[union-attr]  # always given


def test_drawn_cases_shrink_towards_plain_levels() -> None:
    """Shrinking aims at the first level of every factor."""
    from hypothesis import find, settings

    smallest = find(
        drawn_cases(OPERATION.factors, OPERATION.complete, SCOPE),
        lambda case: case is not None and case.flag("activation") == "sigmoid",
        settings=settings(database=None, max_examples=200),
    )

    assert smallest is not None
    assert smallest.tensors[0][1].layout.kind == "contiguous"
    assert smallest.flag("norm_before_gate") is True
