"""Empty tensors give empty results."""

from __future__ import annotations

from conformance.adapter import Ran
from conformance.calling import Subject, metadata, perform
from conformance.case import Case
from conformance.operations import Operation
from conformance.properties.property import Property
from conformance.strategies import Scope
from conformance.verdict import Status, Verdict, without_outputs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Shape, dtype and strides of a call without a single element."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("empty", case, made.outcome),)
    wrong = metadata(case, made.outcome.outputs) or made.damage()
    return (Verdict("empty", case, Status.FAILED if wrong else Status.PASSED, wrong),)


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """The operation's empty calls."""
    return operation.empties(scope)


EMPTY = Property("empty", "a call without a single element gives an empty result", judge, given=given)
