"""Empty tensors give empty results."""

from __future__ import annotations

import random

from conformance.adapter import Ran
from conformance.calls.call import Subject, metadata, perform
from conformance.calls.claim import outside
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import Operation
from conformance.properties.property import Property


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Check shape, dtype and strides of the results of a call without a single element."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("empty", case, made.outcome),)
    wrong = metadata(subject, case, made.outcome.outputs) or made.damage()
    return (Verdict("empty", case, Status.FAILED if wrong else Status.PASSED, wrong),)


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return the operation's empty calls; calls without columns only where they are accepted."""
    empties = operation.empties(scope)
    taken = [case for case in empties if not outside(scope.taken, case)]
    taken += _without_rows(operation, scope, len(empties) - len(taken))
    return tuple(case for case in taken if scope.zero_columns or case.tensors[0][1].shape[-1])


def _without_rows(operation: Operation, scope: Scope, count: int) -> list[Case]:
    """Return calls without rows in place of empty calls that are not accepted."""
    rng = random.Random(count)  # noqa: S311 - reproducible, not secret
    levels = scope.levels(operation.factors)
    drawn = (
        operation.complete({name: rng.choice(chosen) for name, chosen in levels.items()}, rng, scope.sized(rows=0))
        for _ in range(count)
    )
    return [case for case in drawn if not outside(scope.taken, case) and 0 in case.tensors[0][1].shape]


EMPTY = Property("empty", "a call without a single element gives an empty result", judge, given=given)
