"""Failures of an earlier report, by the item that judges them again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.runs import again
from conformance.runs.failed import Failed


def _failed(prop: str, smallest: Case, drawn: Case) -> Failed:
    return Failed(
        operation=smallest.operation,
        property=prop,
        dtype=smallest.dtype,
        status=Status.FAILED,
        reason="wrong",
        id=smallest.id,
        case=smallest,
        original=drawn,
        elements=1,
        outside=1,
        first=None,
        note="",
        reproducer="none",
    )


def _case(**levels: str) -> Case:
    operation = OPERATIONS["rms_norm"]
    plain = {name: choices[0] for name, choices in operation.factors.items()}
    return operation.complete({**plain, **levels}, random.Random(1), Scope("float32"))  # noqa: S311


def test_failures_are_judged_again_by_the_item_that_found_them(tmp_path: Path) -> None:
    """A passive property belongs to the item of its drawn case; equal cases are judged once, smallest first."""
    small, drawn = _case(), _case(rows="many")
    spread = _case(x_layout="row_gap")
    failures = [
        _failed("values", small, drawn),
        _failed("memory", small, drawn),
        _failed("memory", small, spread),
        _failed("scale", small, small),
    ]

    found = again.of_failures(failures)
    again.write(found, tmp_path / "again.json")

    assert {
        "rms_norm/values/float32": (small, drawn),
        "rms_norm/layout/float32": (small, spread),
        "rms_norm/scale/float32": (small,),
    } == found
    assert found == again.read(tmp_path / "again.json")


def test_dtypes_and_operations_are_apart() -> None:
    """A cell of the table each."""
    case = _case()
    other = replace(case, operation="gemma_rms_norm")
    found = again.of_failures([_failed("values", case, case), _failed("values", other, other)])

    assert ["rms_norm/values/float32", "gemma_rms_norm/values/float32"] == list(found)
