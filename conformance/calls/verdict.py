"""Verdicts: a property judged on a case, from the call's outcome and the comparison of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

from conformance.adapter import Crashed, Declined, Hung, Misreturned, Outcome, Ran, Unable, poisons
from conformance.cases.case import Case
from conformance.oracle.comparison import NOTHING, Comparison


class Status(StrEnum):
    """The status of a verdict. Only ``passed`` is a pass."""

    PASSED = "passed"
    FAILED = "failed"
    DECLINED = "declined"  # the implementation said no
    NOT_JUDGED = "not_judged"  # this machine or profile cannot
    NO_EVIDENCE = "no_evidence"  # a whole item: too few of its calls could be judged
    CRASHED = "crashed"
    HUNG = "hung"
    WAIVED = "waived"
    ERROR = "error"  # an error of the suite


NOT_IMPLEMENTED = "not implemented"  # why an adapter without a method declines
BAD = frozenset({Status.FAILED, Status.CRASHED, Status.HUNG})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One property judged on one case. The comparison is zero where nothing was compared.

    ``terms``: the terms of the formula in this case, and whether dropping each would show. ``trace``: a traceback
    of the exception that a call raised.
    """

    property: str
    case: Case
    status: Status
    reason: str = ""
    comparison: Comparison = NOTHING
    terms: tuple[tuple[str, bool], ...] = ()
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.property} {self.status}: {self.reason}\n  {self.case}"


def of_the_machine(outcome: object) -> TypeGuard[Crashed | Unable]:
    """Return whether an outcome may say nothing of the call: the machine cannot make it, or the GPU has failed.

    A fault of another process can make the GPU fail. Such outcomes are never a mistake that a property found.
    """
    return isinstance(outcome, Unable) or (isinstance(outcome, Crashed) and poisons(outcome.how))


def without_outputs(prop: str, case: Case, outcome: Outcome) -> Verdict:
    """Return the verdict on a call that gave nothing to compare."""
    match outcome:
        case Declined(reason=reason):
            return Verdict(prop, case, Status.DECLINED, reason)
        case Crashed(how, trace):
            return Verdict(prop, case, Status.CRASHED, how, trace=trace)
        case Hung(seconds):
            return Verdict(prop, case, Status.HUNG, f"no answer within {seconds:g} s")
        case Misreturned(what):
            return Verdict(prop, case, Status.FAILED, what)
        case Unable(reason):
            return Verdict(prop, case, Status.NOT_JUDGED, reason)
        case Ran():
            message = f"{prop}: a call that ran has outputs to compare"
            raise AssertionError(message)
