"""The cases of ``values`` can see every term of the formula, so that passing them is evidence.

This is a property of the suite more than of the implementation, which only decides which cases run at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, Term
from conformance.operations.term import Values
from conformance.oracle.interval import Interval
from conformance.properties.call import VALUES
from conformance.properties.measure import apart, stored
from conformance.properties.property import Property


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Note which terms the case would miss if they were dropped, where the implementation runs the case."""
    values = values_of(case)
    made = perform(subject, case, values)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("sensitivity", case, made.outcome),)
    return (Verdict("sensitivity", case, Status.PASSED, terms=evidence(subject, case, values)),)


def evidence(subject: Subject, case: Case, values: Values) -> tuple[tuple[str, bool], ...]:
    """Return the terms that a case has, and whether an implementation without each would be noticed."""
    contract = subject.contract(case.operation)
    with_all = stored(subject, contract, case, values)
    calls = [(term, term.dropped(case, values)) for term in OPERATIONS[case.operation].terms]
    return tuple(
        (term.name, _shows(term, case, with_all, stored(subject, contract, *call))) for term, call in calls if call
    )


def _shows(term: Term, case: Case, with_it: Mapping[str, Interval], without: Mapping[str, Interval]) -> bool:
    """Return whether some element must differ: its intervals with and without the term share no number."""
    # the last column is left out; there are fewer scales than columns, so that the last scale counts
    columns = case.tensors[0][1].shape[-1] - 1 if term.elsewhere else None
    for name, theirs in without.items():
        if term.outputs and name not in term.outputs:
            continue
        if bool(apart(theirs, with_it[name])[..., :columns].any()):
            return True
    return False


def blind(operation: str, verdicts: Iterable[Verdict]) -> str:
    """Return the claimed terms that no case has seen; nothing where each was seen."""
    ran = [verdict for verdict in verdicts if verdict.status is Status.PASSED]
    seen = {name for verdict in ran for name, shows in verdict.terms if shows}
    # the implementation may decline a term that no case has: gate=None alone, say
    had = {name for verdict in ran for name, _ in verdict.terms}
    missed = [term.name for term in OPERATIONS[operation].terms if term.name in had - seen]
    return f"no case of values would notice if {', '.join(missed)} were dropped" if missed else ""


SENSITIVITY = Property(
    "sensitivity",
    "every term of the formula shows in some case of values: one that was dropped would be noticed",
    judge,
    fixed=VALUES.fixed,
    like="values",
    concluded=blind,
)
