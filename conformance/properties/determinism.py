"""The same call gives the same bits, every time."""

from __future__ import annotations

from dataclasses import replace

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.oracle.bits import same_bits
from conformance.properties.property import Property, ordinary

CALLS = 3


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call several times, each time with arguments in fresh memory."""
    values = values_for(subject, case)
    kept = []
    for _ in range(CALLS):
        made = perform(subject, case, values)
        if not isinstance(made.outcome, Ran):
            return (without_outputs("determinism", case, made.outcome),)
        # keep the object, not a copy: otherwise a buffer that is returned twice would pass
        kept.append((made.outcome.outputs, tuple(out.clone() for out in made.outcome.outputs)))
    # other values, so that a buffer that is returned twice changes the result of the call before
    perform(subject, case, values_for(subject, replace(case, seed=case.seed + 1)))
    first = kept[0][1]
    for number, (outputs, copies) in enumerate(kept):
        for out, copy, reference in zip(outputs, copies, first, strict=True):
            if not same_bits(out, copy):
                reason = f"the result of call {number + 1} was changed by a later call"
                return (Verdict("determinism", case, Status.FAILED, reason),)
            if out.shape != reference.shape or not same_bits(copy, reference):
                reason = f"call {number + 1} of {CALLS} differs from the first"
                return (Verdict("determinism", case, Status.FAILED, reason),)
    return (Verdict("determinism", case, Status.PASSED),)


def cannot(subject: Subject, operation: str, dtype: str) -> str:
    """Return why bits cannot be compared, or nothing."""
    return "" if subject.traits(operation).deterministic else "the adapter does not declare it"


DETERMINISM = Property(
    "determinism",
    "the same call gives the same bits, and results stay what they were",
    judge,
    fixed=ordinary,
    cannot=cannot,
)
