"""The cases of ``values`` can see every term of the formula: what they pass is evidence.

A property of the suite more than of the implementation, whose part is to decide which cases run at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from conformance.adapter import Ran
from conformance.calling import Subject, perform
from conformance.case import Case
from conformance.materialize import values_of
from conformance.measure import intervals
from conformance.operations import OPERATIONS, Term
from conformance.operations.term import Values
from conformance.oracle.contract import rounded
from conformance.properties.call import VALUES
from conformance.properties.property import Property
from conformance.rows import count
from conformance.verdict import Status, Verdict, without_outputs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Note which terms the case would miss if they were dropped, where the implementation runs it."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("sensitivity", case, made.outcome),)
    values = values_of(case)
    terms = []
    for term in OPERATIONS[case.operation].terms:
        dropped = term.dropped(case, values)
        if dropped is not None:
            terms.append((term.name, _shows(subject, case, values, dropped, term)))
    return (Verdict("sensitivity", case, Status.PASSED, terms=tuple(terms)),)


def _shows(subject: Subject, case: Case, values: Values, dropped: tuple[Case, Values], term: Term) -> bool:
    """Whether some element must differ: what is allowed with the term and without it have nothing in common."""
    contract = subject.adapter.contract(case.operation)
    rows = slice(0, count(case))
    with_it = intervals(subject, contract, case, values, rows)
    without = intervals(subject, contract, *dropped, rows)
    for output in OPERATIONS[case.operation].outputs(case):
        if output.name not in without or (term.outputs and output.name not in term.outputs):
            continue
        ours, theirs = (rounded(allowed[output.name], output.dtype) for allowed in (with_it, without))
        apart = (theirs.lo > ours.hi) | (theirs.hi < ours.lo)
        if bool((apart[..., :-1] if term.elsewhere else apart).any()):
            return True
    return False


def blind(operation: str, verdicts: Iterable[Verdict]) -> str:
    """The terms that no case has seen, of those that are claimed; nothing where each was seen."""
    ran = [verdict for verdict in verdicts if verdict.status is Status.PASSED]
    seen = {name for verdict in ran for name, shows in verdict.terms if shows}
    # a term that no case has is the implementation's to decline: gate=None alone, say
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
