"""The declared rounding points are the ones that the outputs follow, on cases that can tell."""

from __future__ import annotations

from conformance.adapter import Ran
from conformance.calling import Subject, metadata, perform
from conformance.case import Case
from conformance.materialize import values_of
from conformance.measure import intervals, measure
from conformance.operations import OPERATIONS, Operation
from conformance.oracle.contract import NAMED, Contract, rounded
from conformance.properties.property import Fixed, Property, contiguous
from conformance.rows import count
from conformance.verdict import Status, Verdict, without_outputs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Compare with the declared contract; a case that cannot tell it from another named one is no evidence."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("contract", case, made.outcome),)
    wrong = metadata(case, made.outcome.outputs)
    if wrong:
        return (Verdict("contract", case, Status.FAILED, f"nothing to compare: {wrong}"),)
    declared = subject.adapter.contract(case.operation)
    comparison = measure(subject, declared, case, values_of(case), made.outcome.outputs)
    if comparison.outside:
        reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        return (Verdict("contract", case, Status.FAILED, reason, comparison),)
    blind = _indistinguishable(subject, declared, case)
    if blind:
        return (Verdict("contract", case, Status.NOT_JUDGED, f"cannot tell {declared} from {blind}"),)
    return (Verdict("contract", case, Status.PASSED, "", comparison),)


def _indistinguishable(subject: Subject, declared: Contract, case: Case) -> str:
    """A named contract whose every allowed result could be the declared one's, or nothing."""
    relevant = set(OPERATIONS[case.operation].points(case))
    values = values_of(case)
    rows = slice(0, count(case))
    dtypes = {out.name: out.dtype for out in OPERATIONS[case.operation].outputs(case)}
    ours = intervals(subject, declared, case, values, rows)
    for name, rounds in NAMED.items():
        if rounds & relevant == declared.rounds & relevant:
            continue
        theirs = intervals(subject, Contract(rounds, declared.depth), case, values, rows)
        if not any(
            bool(((b := rounded(theirs[out], dtype)).lo > (a := rounded(ours[out], dtype)).hi).any())
            or bool((b.hi < a.lo).any())
            for out, dtype in dtypes.items()
        ):
            return name
    return ""


def _cannot(subject: Subject, dtype: str) -> str:
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
