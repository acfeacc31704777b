"""A call gets nothing that was chosen for another: a plan, a kernel or a path is not kept for too much.

An implementation that keeps what it chose for a call needs a key that has all it depends on: dtypes, strides,
sizes, flags, which arguments are there. A call and one that differs from it in the level of one factor follow each
other: where a key lacks that factor, the second is made as the first. Its result must be its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from conformance.adapter import Declined, Outcome, Ran
from conformance.calls.call import Subject, arguments_of, call_with, values_for
from conformance.calls.claim import outside
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, of_the_machine, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING, OF_VALUES, Scope
from conformance.operations import OPERATIONS, Operation
from conformance.operations.levels import levels_of
from conformance.operations.rows import count
from conformance.properties.measure import amiss
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary

MOST_ROWS = 16
# the size that a factor decides, in place of the one that all calls of a case share
DECIDED = {"rows": "rows", "width": "columns"}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A call that differs from another in one factor, and one like it whose sizes are others."""

    words: str
    case: Case
    elsewhere: Case


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call, then call with another level of one factor, for each in turn: every result must be right.

    A call that is wrong in other sizes as well, of which no neighbour was called, is wrong by itself: that is no
    news here.
    """
    claimed = subject.traits(case.operation).claim is not None
    first, others = neighbours(subject, case)
    outcome, wrong = _called(subject, first)
    if not isinstance(outcome, Ran):
        return (without_outputs("kept_choices", case, outcome),)
    if wrong:
        return (Verdict("kept_choices", case, Status.NOT_JUDGED, "the result is wrong before anything differs"),)
    for other in others:
        # an implementation may keep the last choice alone
        _called(subject, first, measured=False)
        outcome, wrong = _called(subject, other.case)
        if of_the_machine(outcome):
            return (without_outputs("kept_choices", case, outcome),)
        # without a claim a call that crashes may be one that is not taken
        if not wrong and (isinstance(outcome, Declined | Ran) or not claimed):
            continue
        apart, wrong_too = _called(subject, other.elsewhere)
        if isinstance(apart, Ran) and not wrong_too:
            said = wrong or without_outputs("kept_choices", case, outcome).reason
            reason = f"after a call with {other.words}: {said}"
            return (Verdict("kept_choices", case, Status.FAILED, reason),)
    return (Verdict("kept_choices", case, Status.PASSED),)


def neighbours(subject: Subject, case: Case) -> tuple[Case, tuple[Neighbour, ...]]:
    """Return a call with the levels of a case, and calls within the claim with another level of one factor."""
    operation, claim = OPERATIONS[case.operation], subject.traits(case.operation).claim or EVERYTHING
    scope = Scope(case.dtype, device=subject.device, taken=claim, max_rows=MOST_ROWS)
    sizes = {"rows": count(case)}
    if not operation.token_axes:
        sizes["columns"] = case.tensors[0][1].shape[-1]
    possible = scope.levels(operation.factors)
    levels = {name: found[0] for name, found in possible.items()} | levels_of(case)
    # the size of a head is a level of its own
    dims = [level for level in possible.get("dims", ()) if level != levels["dims"]]
    heads = {"dims": dims[0]} if dims else {}

    def completed(changed: Mapping[str, str], sizes: Mapping[str, int], seed: int = case.seed) -> Case:
        # of one seed: they share what no level decides, such as eps
        return operation.complete({**levels, **changed}, random.Random(seed), scope.sized(**sizes))  # noqa: S311

    others = []
    factors = sorted(possible.keys() & levels_of(case).keys() - OF_VALUES)
    changes = [(name, level) for name in factors for level in possible[name] if level != levels[name]]
    for name, level in changes:
        fixed_sizes = {size: number for size, number in sizes.items() if size != DECIDED.get(name)}
        other = completed({name: level}, fixed_sizes)
        if not outside(claim, other):
            words = f"{name.replace('_', ' ')} {levels[name]} in place of {level}"
            smaller = {size: max(number // 2, 1) for size, number in fixed_sizes.items()}
            others.append(Neighbour(words, other, completed({**heads, name: level}, smaller, case.seed + 1)))
    first = completed({}, sizes)
    return case if outside(claim, first) else first, tuple(others)


def _called(subject: Subject, case: Case, *, measured: bool = True) -> tuple[Outcome, str]:
    """Return the outcome of a call, and what is wrong with its results, or nothing."""
    values = values_for(subject, case)
    outcome = call_with(subject, case, arguments_of(materialize(case, values, subject.device, POISONS[0])))
    if not measured or not isinstance(outcome, Ran):
        return outcome, ""
    return outcome, amiss(subject, case, values, outcome.outputs)


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels: plain rows, all of one usual width."""
    plain = (("width", ("tile",)), ("rank", ("2",)), ("rows", ("few",)))
    return narrowed(operation, contiguous(operation), ordinary(operation), plain)


KEPT_CHOICES = Property(
    "kept_choices",
    "a call gets nothing that was chosen for one that differs in a dtype, a stride, a size or a flag",
    judge,
    fixed=fixed,
)
