"""The outputs follow the declared rounding points, on cases that can tell."""

from __future__ import annotations

from conformance.adapter import Ran
from conformance.calls.call import Subject, metadata, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, Operation
from conformance.operations.term import Values
from conformance.oracle.contract import Contract, contracts, in_words
from conformance.properties.measure import apart, measure, stored
from conformance.properties.property import Fixed, Property, contiguous


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Compare with the declared contract; a case that cannot tell it from another named one is no evidence."""
    values = values_for(subject, case)
    made = perform(subject, case, values)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("contract", case, made.outcome),)
    wrong = metadata(subject, case, made.outcome.outputs)
    if wrong:
        return (Verdict("contract", case, Status.FAILED, f"nothing to compare: {wrong}"),)
    declared = subject.contract(case.operation)
    comparison = measure(subject, declared, case, values, made.outcome.outputs)
    if comparison.outside:
        reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        return (Verdict("contract", case, Status.FAILED, reason, comparison),)
    blind = _indistinguishable(subject, declared, case, values)
    if blind:
        shown = in_words(declared, OPERATIONS[case.operation].rounds)
        return (Verdict("contract", case, Status.NOT_JUDGED, f"cannot tell {shown} from {blind}"),)
    return (Verdict("contract", case, Status.PASSED, "", comparison),)


def _indistinguishable(subject: Subject, declared: Contract, case: Case, values: Values) -> str:
    """Return a named contract whose every allowed result could be the declared one's, or nothing."""
    relevant = set(OPERATIONS[case.operation].points(case))
    ours = stored(subject, declared, case, values)
    for name, rounds in contracts(OPERATIONS[case.operation].rounds).items():
        if rounds & relevant == declared.rounds & relevant:
            continue
        theirs = stored(subject, Contract(rounds, declared.depth), case, values)
        if not any(bool(apart(ours[name], theirs[name]).any()) for name in ours):
            return name
    return ""


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "float32 outputs do not show where an implementation rounds" if dtype == "float32" else ""


def _fixed(operation: Operation) -> Fixed:
    return (
        *contiguous(operation),
        ("values", ("normal",)),
        ("width", ("tile", "wide")),
        ("rows", ("few", "many")),
        ("rank", ("2", "3")),
        *operation.telling.items(),
    )


CONTRACT = Property(
    "contract",
    "the outputs follow the declared rounding points, and no others",
    judge,
    fixed=_fixed,
    cannot=_cannot,
)
