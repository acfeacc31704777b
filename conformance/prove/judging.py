"""Judgement of one mutant, in a process that was forked for it: the suite's items, or the package's tests.

Everything that may fail is told to the process that forked this one, as plain tuples: where judging is, and what
killed the mutant. A mutant may also end this process, or never return.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conformance.adapter import load
from conformance.calls import state_guard
from conformance.calls.budget import ALONE, Allowance
from conformance.calls.call import Subject
from conformance.calls.declared import Declared, check
from conformance.calls.verdict import BAD, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.prove.copies import PACKAGE, ROOT
from conformance.prove.planted import PREFIX, fake
from conformance.prove.reach import Step
from conformance.runs.item import EARLY, Item, items
from conformance.runs.judge import judge, judge_item, surveyed, tried, unjudged
from conformance.runs.worker import Worker

BEAT = 0.25  # seconds between two signs of life, at least
PATIENCE = 10.0  # seconds of a case, and times those that it took with the package, until it has hung
PACKAGE_TESTS = "package"  # the stage that is no profile
# folders of what is installed, and of Python's own library
_INSTALLED = re.compile(r"\S*/(?:site-packages|lib/python\d+\.\d+)/")

# What a process tells: ("at", property, where), ("cases", how many) and ("within", seconds until it tells more);
# then ("killed", property, where, why), ("suspect", property, where, ""), ("survived",) or ("unborn", why).
Told = tuple[str, ...]
Tell = Callable[[Told], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One mutant at one stage: the folder of its package, and what is judged of it.

    ``steps`` are the cases that reach it, where they are known: they are judged in place of all items.
    """

    folder: Path
    stage: str  # a profile, or PACKAGE_TESTS
    lane: str  # cpu or cuda
    pairs: tuple[tuple[str, str], ...]  # adapters, and operations of theirs
    tests: tuple[str, ...]
    unfaithful: str = ""
    allowance: Allowance = ALONE
    first: str = ""  # the place that is judged before all others
    steps: tuple[Step, ...] | None = None
    properties: tuple[str, ...] = ()  # of the items; none: all
    seed: int = 0
    budget: float = math.inf  # seconds of work, after which one that lives waits for company


def judged(trial: Trial, tell: Tell) -> None:
    """Judge a mutant until something fails, and tell that."""
    ready = PACKAGE not in sys.modules or all(name.startswith(PREFIX) for name, _ in trial.pairs)
    assert ready, "the package was imported before its mutant was there"
    sys.path.insert(0, str(trial.folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(trial.folder), str(ROOT)])
    sys.dont_write_bytecode = True
    if trial.stage == PACKAGE_TESTS:
        _tested(trial, tell)
    else:
        _by_the_suite(trial, tell)


def _by_the_suite(trial: Trial, tell: Tell) -> None:
    before = state_guard.captured()
    subjects = {}
    try:
        for name, operations in _asked(trial).items():
            adapter = fake(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else load(name)
            check(adapter, operations)
            Declared.of(adapter)
            subjects[name] = Subject(adapter, trial.lane, trial.unfaithful)
    except BaseException as error:  # noqa: BLE001 - a mutant may raise anything
        tell(("unborn", f"{type(error).__name__}: {error}"[:200]))
        return
    state_guard.settle(before)
    counted = _Counter(tell)
    judged = _by_items(trial, subjects, counted) if trial.steps is None else _by_steps(trial, subjects, counted)
    began = time.process_time()
    for prop, where, limit, verdicts in judged:
        if time.process_time() - began > trial.budget:
            counted.now()
            tell(("suspect", prop, where, ""))
            return
        tell(("at", prop, where))
        if limit:
            tell(("within", f"{limit:g}"))
        for verdict in verdicts:
            if verdict.status in BAD:
                counted.now()
                tell(("killed", verdict.property, where, f"{verdict.status}: {verdict.reason}"[:200]))
                return
    counted.now()
    tell(("survived",))


def _asked(trial: Trial) -> dict[str, tuple[str, ...]]:
    """Return the adapters that judge, each with its operations."""
    pairs = trial.pairs
    if trial.steps is not None:
        pairs = tuple(dict.fromkeys((step.adapter, step.case.operation) for step in trial.steps))
    return {name: tuple(each for adapter, each in pairs if adapter == name) for name, _ in pairs}


# Property, place, a limit of seconds if there is one, and verdicts, which are made as they are asked for.
Judged = Iterator[tuple[str, str, float, Iterable[Verdict]]]


def _by_items(trial: Trial, subjects: Mapping[str, Subject], begun: Callable[[], None]) -> Judged:
    for name, item in in_order(trial, subjects):
        yield item.property, f"{name}:{item.cell()}", 0.0, _verdicts(item, subjects[name], trial.allowance, begun)


def _by_steps(trial: Trial, subjects: Mapping[str, Subject], begun: Callable[[], None]) -> Judged:
    for step in trial.steps or ():
        limit = PATIENCE * (1.0 + step.seconds)
        yield step.prop, step.where, limit, _of_step(step, subjects[step.adapter], begun)


def _of_step(step: Step, subject: Subject, begun: Callable[[], None]) -> Iterator[Verdict]:
    begun()
    yield from judge(subject, step.prop, step.case)


class _Counter:
    """Count of the cases that were begun, which is told now and then: it says that this process goes on."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._cases, self._told = tell, 0, 0.0

    def __call__(self) -> None:
        """Count a case."""
        self._cases += 1
        if time.monotonic() - self._told > BEAT:
            self.now()

    def now(self) -> None:
        """Tell the count."""
        self._told = time.monotonic()
        self._tell(("cases", str(self._cases)))


def in_order(trial: Trial, subjects: Mapping[str, Subject]) -> list[tuple[str, Item]]:
    """Return the items of all adapters and operations, those first that cost little and kill most.

    On a GPU, where a bug may compile a kernel for every call, the properties come first that a planted one names.
    """
    pairs = [
        (name, item)
        for name, subject in subjects.items()
        for item in items(
            subject, trial.stage, trial.seed, operations=_asked(trial)[name], properties=trial.properties
        )
        if unjudged(item, subject) is None
    ]
    places = {name: place for place, name in enumerate(EARLY)}
    named = {
        name: frozenset(getattr(subject.implementation(), "caught_by", ()) if trial.lane != "cpu" else ())
        for name, subject in subjects.items()
    }

    def place(pair: tuple[str, Item]) -> tuple[object, ...]:
        name, item = pair
        rank = places.get(item.property, len(EARLY))
        # a place may have a case after its item
        known = f"{trial.first} ".startswith(f"{name}:{item.cell()} ")
        return (
            not known,
            item.property not in named[name],
            rank,
            item.chunk,
            item.property,
            DTYPES.index(item.dtype),
        )

    return sorted(pairs, key=place)


_SURVEYS: dict[tuple[int, str, str], Any] = {}


def _verdicts(item: Item, subject: Subject, allowance: Allowance, begun: Callable[[], None]) -> Iterator[Verdict]:
    """Yield the verdicts on an item, one after the other; the survey before them may end this process as well."""
    worker = Worker(subject, allowance)

    def attempt(case: Case) -> Any:  # noqa: ANN401 - as the worker
        begun()
        return worker.attempt(case) if subject.device != "cpu" else tried(subject, case)

    known = id(subject), item.operation, item.profile
    if known not in _SURVEYS:
        survey = partial(surveyed, profile=item.profile, seed=item.seed)
        _SURVEYS[known] = survey(item.operation, subject, attempt)
    yield from judge_item(item, subject, worker.judge, lambda _: begun(), _SURVEYS[known])


class _Reporter:
    """Plugin of pytest that tells where the tests are, and what fails."""

    def __init__(self, tell: Tell, folder: Path) -> None:
        self._tell = tell
        self._folder = f"{folder}/"
        self.failed = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell which test begins."""
        self._tell(("at", PACKAGE_TESTS, nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:  # noqa: ANN401 - pytest's
        """Tell the first failure."""
        if report.failed and not self.failed:
            self.failed = True
            # a row names no path of this machine: neither of this copy nor of what is installed
            why = _INSTALLED.sub("", report.longreprtext.replace(self._folder, ""))[-200:]
            self._tell(("killed", PACKAGE_TESTS, report.nodeid, why))

    def pytest_collectreport(self, report: Any) -> None:  # noqa: ANN401 - pytest's
        """Tell that a file of tests cannot be imported."""
        self.pytest_runtest_logreport(report)


def _tested(trial: Trial, tell: Tell) -> None:
    """Run the package's tests until one fails: first the one that killed the mutant before, if it is there."""
    import pytest

    os.chdir(ROOT)
    reporter = _Reporter(tell, trial.folder)
    # plain: what is imported already can no longer be rewritten, about which pytest would warn
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", f"--rootdir={ROOT}"]
    fine = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    known = [(trial.first, {*fine, pytest.ExitCode.USAGE_ERROR})] if trial.first else []
    # file by file: to import all of them takes longer than the tests that kill most mutants
    for tests, allowed in (*known, *((file, fine) for file in trial.tests)):
        status = pytest.main([*options, "--device", trial.lane, tests], plugins=[reporter])
        if reporter.failed:
            return
        if status not in allowed:
            tell(("unborn", f"pytest: {status!r}"))
            return
    tell(("survived",))
