"""The cases of ``values`` can see every term of the formula: what they pass is evidence.

A property of the suite more than of the implementation, whose part is to decide which cases run at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from conformance.adapter import Ran
from conformance.calling import Subject, perform
from conformance.case import Case
from conformance.materialize import values_of
from conformance.measure import intervals
from conformance.operations import OPERATIONS, Term
from conformance.operations.term import Values
from conformance.oracle.contract import rounded
from conformance.oracle.interval import Interval
from conformance.properties.call import VALUES
from conformance.properties.property import Property
from conformance.rows import count
from conformance.verdict import Status, Verdict, without_outputs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Note which terms the case would miss if they were dropped, where the implementation runs it."""
    values = values_of(case)
    made = perform(subject, case, values)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("sensitivity", case, made.outcome),)
    with_all = _allowed(subject, case, case, values)
    terms = []
    for term in OPERATIONS[case.operation].terms:
        dropped = term.dropped(case, values)
        if dropped is not None:
            terms.append((term.name, _shows(term, with_all, _allowed(subject, case, *dropped))))
    return (Verdict("sensitivity", case, Status.PASSED, terms=tuple(terms)),)


def _allowed(subject: Subject, case: Case, called: Case, values: Values) -> dict[str, Interval]:
    """What may be stored in each output of a case where another is computed, one without a term of it."""
    allowed = intervals(subject, subject.contract(case.operation), called, values, slice(0, count(case)))
    outputs = OPERATIONS[case.operation].outputs(case)
    return {out.name: rounded(allowed[out.name], out.dtype) for out in outputs if out.name in allowed}


def _shows(term: Term, with_it: Mapping[str, Interval], without: Mapping[str, Interval]) -> bool:
    """Whether some element must differ: what is allowed with the term and without it have nothing in common."""
    for name, theirs in without.items():
        if term.outputs and name not in term.outputs:
            continue
        ours = with_it[name]
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
