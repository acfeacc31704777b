"""Calls without a meaning raise, and write nothing.

What raises must be a check of the call: where a lookup or a division happens to fail, the next one may not.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from conformance.adapter import Crashed, Declined, Unable, poisons
from conformance.calls.call import Subject, perform
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import Operation
from conformance.properties.property import Property

RANKS = ("2", "3")
# exceptions of the language itself, which say nothing of the argument that is wrong; torch's IndexError does
UNCHECKED = re.compile(
    r"(AttributeError|IndexError: (list|string|tuple) index|KeyError|NameError|RecursionError|UnboundLocalError"
    r"|ZeroDivisionError)\b"
)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Judge a call that must raise; a refusal by the adapter is not an exception of the implementation."""
    made = perform(subject, case)
    match made.outcome:
        case Crashed(how) if poisons(how):
            # a kernel accessed memory out of bounds: no code checked the arguments
            return (Verdict("errors", case, Status.CRASHED, how),)
        case Crashed(how) if UNCHECKED.match(how):
            reason = f"{case.invalid}: raised {how}: Python found that, and no check of the call"
            return (Verdict("errors", case, Status.FAILED, reason),)
        case Crashed(how) if not made.damage():
            return (Verdict("errors", case, Status.PASSED, how),)
        case Crashed(how):
            return (Verdict("errors", case, Status.FAILED, f"raised {how}, but {made.damage()}"),)
        case Declined() | Unable() as outcome:
            return (without_outputs("errors", case, outcome),)
        case _:
            return (Verdict("errors", case, Status.FAILED, f"{case.invalid}: accepted, must raise"),)


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return plain calls of several rows, made wrong in every way that the operation knows."""
    levels = scope.levels(operation.factors)
    plain = {name: chosen[0] for name, chosen in levels.items()}
    cases = []
    for number, wanted in enumerate(RANKS):
        # where only one rank is accepted, two calls of that rank
        rank = wanted if wanted in levels["rank"] else plain["rank"]
        base = operation.complete({**plain, "rank": rank}, random.Random(f"{number}"), scope)  # noqa: S311
        unseen = operation.unseen if scope.device != "cpu" else frozenset()
        cases += [replace(base, invalid=name) for name in operation.invalid if name not in unseen]
    return tuple(cases)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.traits(operation).validates else "the adapter does not declare it"


ERRORS = Property(
    "errors",
    "calls without a meaning raise, and write nothing",
    judge,
    given=given,
    cannot=_cannot,
    beyond_claims=True,
)
