"""Judgement of items, one by one, in the process that has the implementation; every step goes into the journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from conformance.adapter import Crashed, Hung
from conformance.calls.call import Subject
from conformance.calls.compilations import NOTHING, Compiled
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING
from conformance.operations.rows import count
from conformance.properties import PROPERTIES
from conformance.properties.discovery import Evidence
from conformance.runs import journal
from conformance.runs.behind import Behind, Place
from conformance.runs.explain import explained
from conformance.runs.host import Follow, Host, Judge, Look, Reproduce, Smoke, Try, Tune
from conformance.runs.item import Failure, Item
from conformance.runs.judge import (
    Answer,
    asked,
    judge_item,
    lacking_evidence,
    nothing_judged,
    plainest,
    share_of_array,
    surveyed,
    unjudged,
    vacuous,
)
from conformance.runs.survey import Survey, Tried
from conformance.runs.surveys import Surveys
from conformance.runs.waivers import NONE, Waivers

INTERPRETED = 0.1  # seconds that a program of Triton's interpreter may take, in all calls of a case


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of an item: its failures, or why nothing was judged, or what the suite itself lacks."""

    failures: tuple[Failure, ...] = ()
    skipped: str = ""
    broken: str = ""


@dataclass(slots=True, eq=False)
class Judging:
    """Judge of items in the process of a host, which journals every step and explains failures.

    ``counts`` belong to the item that is judged, or was judged last. ``stop``: leave the rest of an item out after
    its first failure. ``first``: cases that are judged before all others, by item.
    """

    host: Host
    journal: journal.Journal
    waivers: Waivers
    surveys: Surveys
    stop: bool = False
    first: Mapping[str, tuple[Case, ...]] = field(default_factory=dict)
    counts: Counter[Status] = field(default_factory=Counter, init=False)

    @property
    def subject(self) -> Subject:
        """Return what is judged."""
        return self.host.subject

    def ask(self, prop: str, case: Case) -> Answer:
        """Judge one case in the child, unless it must not be called."""
        forbidden = self.waivers.forbidden(prop, case)
        if forbidden is not None:
            return (forbidden,)
        # many interpreted programs take long, which is no hang
        programs = self.surveys.of(case.operation).programs * count(case)
        answer: Answer = self.host.ask(Judge(prop, case), more=programs * INTERPRETED)
        return answer

    def _ask_unexpected(self, prop: str, case: Case) -> tuple[Verdict, ...]:
        """Return the verdicts of :meth:`ask`, expected failures waived: no known fault is to explain a new one."""
        return tuple(self.waivers.applied(verdict) for verdict in asked(self.ask, PROPERTIES[prop], case))

    def run(self, item: Item) -> Judged:
        """Judge an item, if it can be judged here."""
        self.counts = Counter()
        began = time.monotonic()
        reason = unjudged(item, self.subject)
        found = self.surveys.of(item.operation) if reason is None else None
        reason = reason or unjudged(item, self.subject, found)
        if reason is not None or found is None:
            assert reason is not None
            status, why = reason
            waived = self.waivers.of_item(item.operation, item.property, item.dtype)
            self.journal.settled(item, status, why, waived)
            self.journal.finished(item, compiled=self._compiled(), seconds=time.monotonic() - began)
            self.counts[status] += 1
            return Judged(skipped=f"{status}: {why}")
        judged = []
        begun = partial(self._begun, item)
        first = self.first.get(str(item), ())
        verdicts = judge_item(item, self.subject, self.ask, begun, found, first)
        for verdict in map(self.waivers.applied, verdicts):
            judged.append(verdict)
            self.journal.judged(item, verdict, self.waivers.of(verdict))
            self.counts[verdict.status] += 1
            if self.stop and verdict.status in BAD:
                break
        ask = partial(self._ask_unexpected, item.property)
        failures = [
            self._explained(failure) for failure in explained(item, judged, ask, self._follow, found.taken)
        ]
        if failures and self.stop:
            # the item stays unfinished
            return Judged(tuple(failures))
        ran = share_of_array(item, self.subject, found, judged)
        self.journal.finished(item, ran, self._compiled(), time.monotonic() - began)
        if lacking := lacking_evidence(item, judged):
            self.journal.settled(item, Status.NO_EVIDENCE, lacking)
            self.counts[Status.NO_EVIDENCE] += 1
        elif not judged and found.taken != EVERYTHING:
            self.journal.settled(item, Status.NOT_JUDGED, "none of its calls is taken")
            self.counts[Status.NOT_JUDGED] += 1
            return Judged(skipped="none of its calls is taken")
        if not failures and lacking:
            return Judged(skipped=f"no evidence: {lacking}")
        if empty := vacuous(item, judged):
            self.journal.settled(item, Status.ERROR, empty)
            self.counts[Status.ERROR] += 1
            return Judged(broken=f"{item}: {empty}")
        if nothing := nothing_judged(judged):
            return Judged(skipped=nothing)
        return Judged(tuple(failures))

    def smoke(self, items: Sequence[Item]) -> None:
        """Make the plainest call of the first item that can be judged; a crash of that call is reported first."""
        item = next((item for item in items if unjudged(item, self.subject) is None), None)
        if item is not None:
            case = plainest(item, self.subject)
            known = self.waivers.forbidden(item.property, case) is not None
            crashed = None if known else self.host.ask(Smoke(case))
            if isinstance(crashed, Crashed):
                self.journal.smoked(item, case, crashed)

    def _begun(self, item: Item, case: Case) -> None:
        if self.waivers.forbidden(item.property, case) is None:
            self.journal.started(item, case)

    def _follow(self, evidence: Evidence) -> str:
        answer = self.host.ask(Follow(evidence))
        return answer if isinstance(answer, str) else ""

    def _explained(self, failure: Failure) -> Failure:
        tuned = self.host.ask(Tune(failure.verdict.case)) if failure.verdict.comparison.first else {}
        path = self.host.ask(Reproduce(failure, tuned if isinstance(tuned, dict) else {}))
        assert isinstance(path, Path), f"could not write the reproducer: {path}"
        self.journal.failed(failure, path, self._behind(failure.verdict))
        return failure

    def _behind(self, verdict: Verdict) -> Behind | None:
        """Return the numbers behind the first wrong element, if there is one and they can be had."""
        bad = verdict.comparison.first
        if bad is None:
            return None
        answer = self.host.ask(Look(verdict.case, Place(bad.output, bad.index, bad.got)))
        return answer if isinstance(answer, Behind) else None

    def _compiled(self) -> Compiled:
        """Return what was compiled since the last item, surveys included."""
        compiled, self.host.compiled = self.host.compiled, NOTHING
        return compiled

    def close(self) -> None:
        """End the process that judges."""
        self.host.close()
        self.journal.close()


def surveyed_by(host: Host, profile: str, seed: int, operation: str, waivers: Waivers = NONE) -> Survey:
    """Return the calls of an operation that are taken, asked of the process of a host; without forbidden ones."""

    def attempt(case: Case) -> Tried:
        if any(waivers.forbidden(name, case) for name in PROPERTIES):
            # assumed to be taken: cases drawn of it are waived, and not called
            return Tried()
        answer: Tried | Crashed | Hung = host.ask(Try(case))
        if isinstance(answer, Tried):
            return answer
        if isinstance(answer, Hung):
            return Tried(f"no answer within {answer.seconds:g} s", crash=True, hung=True)
        return Tried(answer.how, crash=True)

    return surveyed(operation, host.subject, attempt, profile=profile, seed=seed)
