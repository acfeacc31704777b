"""The numbers behind a wrong element are those that its formula reads there."""

from __future__ import annotations

import pytest

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status
from conformance.cases.case import Case, TensorSpec
from conformance.properties import PROPERTIES
from conformance.runs import behind
from conformance.runs.behind import Operand, Place
from conformance.runs.item import Item
from conformance.runs.judge import plainest
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation
from conformance.selftest.fakes.weight_offsets import OffsetOmitted

WEIGHT = TensorSpec((5,), "float32", values="weight")
X = TensorSpec((2, 3, 5), "float32")
CASE = Case("rms_norm", (("x", X), ("residual", X), ("weight", WEIGHT)), (("eps", 1e-6), ("weight_offset", 1.0)))


def _of(case: Case, place: Place) -> behind.Behind:
    return behind.behind(Subject(CorrectNorm()), case, place)


def test_an_operand_is_the_element_at_the_place_and_the_range_of_its_row() -> None:
    """A row of x is one vector; the weight, which has no rows, is a row by itself."""
    values = values_of(CASE)
    operands = {operand.name: operand for operand in _of(CASE, Place("y", (1, 2, 3), 0.0)).operands}
    row = values["x"][1, 2].double()

    assert ["x", "residual", "weight"] == list(operands)
    assert operands["x"] == Operand(
        "x", (1, 2, 3), float(row[3]), float(row.min()), float(row.max()), float(row.square().mean())
    )
    assert ((3,), float(values["weight"][3])) == (operands["weight"].index, operands["weight"].value)
    assert float(values["weight"].max()) == operands["weight"].most


def test_a_missing_term_explains_what_came_out() -> None:
    """The offset explains the first wrong element of an adapter without it, and no other term does."""
    subject = Subject(OffsetOmitted())
    verdict = next(v for v in PROPERTIES["values"].judge(subject, CASE) if v.status is Status.FAILED)
    bad = verdict.comparison.first
    assert bad is not None
    found = behind.behind(subject, CASE, Place(bad.output, bad.index, bad.got)).without

    assert ["offset"] == [term.term for term in found if term.explains]
    assert {"weight", "residual", "last column"} <= {term.term for term in found}


def test_terms_that_an_element_does_not_have_are_not_named() -> None:
    """The sum has no weight and no offset; a residual that is left out leaves no sum."""
    assert () == _of(CASE, Place("s", (0, 0, 0), 0.0)).without


def test_large_outputs_have_operands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula over a large output takes long, once for each term."""
    monkeypatch.setattr(behind, "COMPARED", 59)
    found = _of(CASE, Place("y", (0, 0, 0), 0.0))

    assert (3, ()) == (len(found.operands), found.without)


def test_an_operand_of_another_shape_has_no_element() -> None:
    """Which elements of the tables a rotation reads is not said by their shapes."""
    subject = Subject(CorrectRotation())
    case = plainest(Item("mrope", "values", "bfloat16"), subject)
    found = behind.behind(subject, case, Place("rotated_q", (0,) * len(case.tensors[0][1].shape), 0.0))
    operands = {operand.name: operand.index for operand in found.operands}

    assert (0,) * len(case.tensors[0][1].shape) == operands["q"]
    assert operands["cos"] is None
