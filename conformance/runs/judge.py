"""Judgement of the cases of an item, one by one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial

from conformance.adapter import Crashed, Declined, Hung, Misreturned, Ran, Unable
from conformance.calls import state_guard
from conformance.calls.budget import FULL, all_of_it, full, gib, lacking, out_of_memory, within
from conformance.calls.call import Subject, perform, promoted
from conformance.calls.claim import outside
from conformance.calls.verdict import BAD, NOT_IMPLEMENTED, Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING
from conformance.operations import OPERATIONS
from conformance.properties import PASSIVE, PROPERTIES, Property
from conformance.runs.item import (
    Item,
    beyond,
    cases_of,
    listed_cases,
    more_cases,
    scope_of,
    sized_cases,
    void_reason,
)
from conformance.runs.survey import Survey, Tried, Try, budget_of, of_claim, survey

# after this many in one item the rest of its cases is left out, as it would only cost time
MOST_HANGS = 3
MOST_CRASHES = 50
CLAIM = "claim"
CRASHES = frozenset({CLAIM, "values"})  # properties that judge calls which crashed while they were surveyed
REPLACED = 2  # times that declined calls are replaced by others
EVIDENCE = 4  # at least one in this many cases must have been judged

Answer = tuple[Verdict, ...] | Crashed | Hung
Ask = Callable[[str, Case], Answer]


def asked(ask: Ask, prop: Property, case: Case) -> tuple[Verdict, ...]:
    """Return the verdicts on a case, whatever became of the process that judged it."""
    answer = ask(prop.name, case)
    if isinstance(answer, tuple):
        return answer
    return (without_outputs(prop.name, case, answer),)


def judge(subject: Subject, prop: str, case: Case) -> tuple[Verdict, ...]:
    """Judge one case in this process, if its memory suffices."""
    with state_guard.noticed() as changed:
        verdicts = _kept_claims(subject, _judged_within(subject, prop, case), prop)
    if changed:
        reason = f"the call changed {'; '.join(changed)}"
        return (*verdicts, Verdict("state_left_behind", case, Status.FAILED, reason))
    if PROPERTIES[prop].passive and len(verdicts) > 1:
        return (*verdicts, Verdict("state_left_behind", case, Status.PASSED))
    return verdicts


def _judged_within(subject: Subject, prop: str, case: Case) -> tuple[Verdict, ...]:
    """Judge one case, unless that takes more memory than this process has."""
    whole = PROPERTIES[prop].whole_gpu
    if subject.memory is None:
        return PROPERTIES[prop].judge(subject, case)
    with all_of_it(subject.memory) if whole else within(subject.memory) as memory:
        too_little = "" if whole else lacking(case, memory)
        if too_little:
            return (Verdict(prop, case, Status.NOT_JUDGED, too_little),)
        verdicts = _judged_with(memory, subject, prop, case)
        # others hold what such calls take for moments only
        return _judged_with(memory, subject, prop, case) if whole and lacked(verdicts) else verdicts


def _judged_with(memory: int, subject: Subject, prop: str, case: Case) -> tuple[Verdict, ...]:
    """Judge one case with some bytes of GPU memory, unless they turn out to be too few."""
    try:
        return PROPERTIES[prop].judge(replace(subject, memory=memory), case)
    except RuntimeError as error:
        # raised by the suite itself: an implementation's lack of memory is an outcome
        if not out_of_memory(error):
            raise
        too_little = full(memory, error) or (
            f"judging it takes more than the {gib(memory)} of GPU memory that a worker has"
        )
    return (Verdict(prop, case, Status.NOT_JUDGED, too_little),)


def lacked(verdicts: tuple[Verdict, ...]) -> bool:
    """Return whether a case was not judged because other processes hold the GPU's memory."""
    return any(each.status is Status.NOT_JUDGED and each.reason.startswith(FULL) for each in verdicts)


def _kept_claims(subject: Subject, verdicts: tuple[Verdict, ...], prop: str) -> tuple[Verdict, ...]:
    """Return the verdicts with a failure in place of a refusal inside the claim.

    This applies only to properties that call a case as it is: others change its number of rows.
    """
    claim = subject.traits(verdicts[0].case.operation).claim if verdicts else None
    if claim is None or not PROPERTIES[prop].passive:
        return verdicts
    return tuple(
        replace(
            verdict, property="claim", status=Status.FAILED, reason=f"declined what is claimed: {verdict.reason}"
        )
        if verdict.status is Status.DECLINED and not outside(claim, verdict.case)
        else verdict
        for verdict in verdicts
    )


def tried(subject: Subject, case: Case) -> Tried:
    """Call once, only to find out whether the call is taken; nothing is compared.

    A call with tensors of several dtypes whose result has another dtype than the operation's refuses that mix.
    """
    made = perform(subject, case)
    programs = made.record.programs
    match made.outcome:
        case Ran(outputs=outputs):
            return Tried(promoted(case, outputs), programs=programs)
        case Declined(reason=reason):
            return Tried(reason or "declined", programs=programs)
        case Crashed(how):
            return Tried(how.partition("\n")[0], crash=True)
        case Unable(reason):
            return Tried(reason)
        case Misreturned():
            # it ran, and is judged for what it returned
            return Tried(programs=programs)
        case Hung(seconds):
            return Tried(f"no answer within {seconds:g} s", crash=True)


def surveyed(operation: str, subject: Subject, attempt: Try, *, profile: str, seed: int) -> Survey:
    """Return which calls of an operation are taken: the claim, or what a survey finds."""
    claim = subject.traits(operation).claim
    if claim is not None:
        return of_claim(operation, claim, attempt, device=subject.device, seed=seed)
    return survey(operation, attempt, device=subject.device, seed=seed, budget=budget_of(profile))


def unjudged(item: Item, subject: Subject, found: Survey | None = None) -> tuple[Status, str] | None:
    """Return why no case of an item can be judged: the status that it gets, and the reason; or None.

    ``found`` is the survey of its operation, where one was made.
    """
    if not subject.traits(item.operation).implemented:
        return Status.DECLINED, NOT_IMPLEMENTED
    taken = found.taken if found else subject.traits(item.operation).claim or EVERYTHING
    if item.dtype not in dict(taken.levels).get("dtype", (item.dtype,)):
        return Status.DECLINED, f"{item.dtype} is not taken"
    if item.property == CLAIM and found and taken == EVERYTHING and not found.crashes:
        return Status.NOT_JUDGED, "every call is taken: a claim of that has no edge"
    if subject.unfaithful and item.dtype != "float32":
        return Status.NOT_JUDGED, subject.unfaithful
    prop = PROPERTIES[item.property]
    cannot = void_reason(item.operation, item.property)
    if not cannot and prop.form and prop.form not in subject.traits(item.operation).forms:
        cannot = f"the adapter has no {item.operation}{prop.form}"
    cannot = cannot or prop.cannot(subject, item.operation, item.dtype)
    return (Status.NOT_JUDGED, cannot) if cannot else None


def judge_item(
    item: Item,
    subject: Subject,
    ask: Ask | None = None,
    begun: Callable[[Case], None] | None = None,
    found: Survey | None = None,
    first: Iterable[Case] = (),
) -> Iterator[Verdict]:
    """Judge an item's cases one after the other; none where the item is :func:`unjudged`.

    ``ask`` judges a case, by default in this process. ``begun`` is called with every case before it runs.
    ``found`` is the survey of the item's operation, by default made here. ``first`` are judged before all others.
    """
    ask = ask or (lambda name, case: judge(subject, name, case))
    if unjudged(item, subject):
        return
    if found is None:
        attempt = partial(tried, subject)
        found = surveyed(item.operation, subject, attempt, profile=item.profile, seed=item.seed)
    if unjudged(item, subject, found):
        return
    run = _Run(item, ask, begun)
    yield from run.judged(first)
    if item.property in CRASHES and not item.chunk:
        # cases that crashed in the survey are not drawn again, and must not be lost
        yield from run.judged(case for case in found.crashes if case.dtype == item.dtype)
    yield from run.judged(cases_of(item, subject, found))
    # after the small ones, which fail sooner
    for case, left_out in sized_cases(item, subject, found):
        if left_out:
            yield Verdict(item.property, case, Status.NOT_JUDGED, left_out)
        else:
            yield from run.judged([case])
    if PROPERTIES[item.property].given is None:
        for number in range(REPLACED):
            yield from run.judged(more_cases(item, subject, found, run.replaceable(), number))


def lacking_evidence(item: Item, verdicts: Collection[Verdict]) -> str:
    """Return why an item's verdicts are too few for its promise, or nothing.

    A quarter of the cases must have been judged. Cases that this machine cannot judge do not count: they are shown
    with a reason of their own.
    """
    own = [verdict for verdict in verdicts if verdict.property not in PASSIVE]
    judged = sum(verdict.status in {Status.PASSED, Status.WAIVED, *BAD} for verdict in own)
    declined = [verdict.reason for verdict in own if verdict.status is Status.DECLINED]
    if not declined or EVIDENCE * judged >= judged + len(declined):
        return ""
    [(reason, _)] = Counter(declined).most_common(1)
    return f"{judged} of {judged + len(declined)} calls judged, the others declined: {reason}"


def vacuous(item: Item, verdicts: Collection[Verdict]) -> str:
    """Return why all the verdicts on an item together are no evidence for its promise, or nothing."""
    if not verdicts:
        return "no case was drawn"
    if beyond(item):
        # a chunk beyond the profile adds to the profile's evidence
        return ""
    return PROPERTIES[item.property].concluded(item.operation, verdicts)


def nothing_judged(verdicts: Collection[Verdict]) -> str:
    """Return why none of the verdicts on an item says anything about its promise, or nothing."""
    if any(verdict.status not in {Status.DECLINED, Status.NOT_JUDGED} for verdict in verdicts):
        return ""
    reasons = Counter(f"{verdict.status}: {verdict.reason}" for verdict in verdicts)
    return next((reason for reason, _ in reasons.most_common(1)), "")


def plainest(item: Item, subject: Subject) -> Case:
    """Return the plainest call of an item: every factor at its first level."""
    scope, operation = scope_of(item, subject), OPERATIONS[item.operation]
    plain = {name: choices[0] for name, choices in scope.levels(operation.factors).items()}
    return operation.complete(plain, random.Random(item.draw_seed()), scope)  # noqa: S311 - not secret


def share_of_array(item: Item, subject: Subject, found: Survey, verdicts: Iterable[Verdict]) -> tuple[int, int]:
    """Return how many rows of the covering array ran, of how many."""
    listed = set(listed_cases(item, scope_of(item, subject, found)))
    ran = {verdict.case for verdict in verdicts if verdict.status not in {Status.DECLINED, Status.NOT_JUDGED}}
    return len(listed & ran), len(listed)


class _Run:
    """Cases of one item so far: those already seen, and their hangs and crashes."""

    def __init__(self, item: Item, ask: Ask, begun: Callable[[Case], None] | None) -> None:
        self.item = item
        self.ask = ask
        self.begun = begun
        self.seen: set[Case] = set()
        self.hangs = self.crashes = self.declined = 0

    def judged(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """Judge every case that was not judged before; leave the rest out after too many hangs or crashes."""
        prop = PROPERTIES[self.item.property]
        for case in cases:
            if case in self.seen:
                continue
            self.seen.add(case)
            if self.hangs >= MOST_HANGS or self.crashes >= MOST_CRASHES:
                reason = f"left out after {self.hangs} hangs and {self.crashes} crashes in this item"
                yield Verdict(prop.name, case, Status.NOT_JUDGED, reason)
                continue
            if self.begun is not None:
                self.begun(case)
            verdicts = asked(self.ask, prop, case)
            self.declined += _any(verdicts, Status.DECLINED)
            self.hangs += _any(verdicts, Status.HUNG)
            self.crashes += _any(verdicts, Status.CRASHED)
            yield from verdicts

    def replaceable(self) -> int:
        """Return how many declined calls have not been replaced by others."""
        declined, self.declined = self.declined, 0
        return declined


def _any(verdicts: tuple[Verdict, ...], status: Status) -> bool:
    return any(verdict.status is status for verdict in verdicts)
