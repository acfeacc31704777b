"""Mutants in processes of their own, several at once: each is forked from this one, which has imported torch.

This process has Triton, torch and the suite, and not the package: a mutant costs the import of the package and the
calls that kill it. A process group of its own ends with it, and so does what it started.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from conformance.adapter import UsageError
from conformance.calls import state_guard
from conformance.calls.budget import Allowance, fair_memory
from conformance.calls.child import die_with_the_parent, resident, single_threaded
from conformance.calls.watch import warm_up
from conformance.prove.copies import PACKAGE, package_tests, write
from conformance.prove.judging import PACKAGE_TESTS, Told, Trial, judged
from conformance.prove.mutants import Mutant
from conformance.prove.order import Order, judges
from conformance.prove.planted import PREFIX
from conformance.prove.reach import Step
from conformance.prove.rows import CRASHED, HUNG, KILLED, SURVIVED, SUSPECT, UNBORN, UNTIL_THE_LIMIT, Row, row
from conformance.prove.score import PLANTED
from conformance.runs.host import choose_device, faithful_interpreter, gpus
from conformance.runs.item import PROFILES

# seconds that a case may take: on a CPU those of a run, on a GPU more, which compiles
SILENCE = {("cpu", name): profile.limit for name, profile in PROFILES.items()}
COMPILING = 180.0
GLANCE = 0.5  # seconds between two looks at the processes
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Task:
    """A mutant at a stage. ``first`` is the place that killed it before, if one did: it is judged first.

    ``order`` has the cases that reach it, where they are known. ``properties`` judge it, by default all.
    ``budget``: the seconds of work after which a mutant that lives is a suspect. ``others`` of the same file are
    judged in the same copy, from the case at ``start`` on.
    """

    mutant: Mutant
    stage: str
    first: str = ""
    order: Order | None = None
    properties: tuple[str, ...] = ()
    seed: int = 0
    budget: float = math.inf
    others: tuple[Mutant, ...] = ()
    start: str = ""

    def steps(self) -> tuple[Step, ...] | None:
        """Return the cases that judge the mutant and its company, where they are known."""
        if self.order is None:
            return None
        alone = not self.others and not self.start
        every = (self.mutant, *self.others)
        return self.order.of(self.mutant, self.first) if alone else self.order.company(every, self.start)


@dataclass(slots=True, eq=False)
class Running:
    """A mutant's process, and what it has told so far."""

    task: Task
    process: ForkProcess
    pipe: Connection
    folder: Path
    began: float
    heard: float
    patience: float  # seconds without a word, after which it has hung
    cases: int = 0
    at: tuple[str, str] = ("", "")  # property, and where
    end: Told | None = field(default=None)

    def listen(self, told: Told, now: float) -> None:
        """Take in what the process tells."""
        self.heard = now
        match told:
            case "at", prop, where:
                self.at = prop, where
            case "cases", count:
                self.cases = int(count)
            case "within", seconds:
                self.patience = float(seconds)
            case _:
                self.end = told


@dataclass(frozen=True, slots=True)
class Runner:
    """Judge of many mutants. ``limit`` is in seconds a stage of one mutant."""

    lane: str
    workers: int
    limit: float
    unfaithful: str = ""

    @classmethod
    def prepared(cls, lane: str | None, workers: int, limit: float) -> Runner:
        """Return a runner, this process prepared for its forks. Call before anything imports Triton.

        Raises ``UsageError`` without a GPU for the lane: there every call crashes, and a crash kills.
        """
        if lane == "cuda" and not gpus():
            raise UsageError("--lane cuda: this machine shows no GPU; leave --lane out to judge on the CPU")
        # asking torch for a GPU in the way that starts none: a fork of a process that uses a GPU cannot
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        chosen = choose_device(lane)
        single_threaded()
        unfaithful = faithful_interpreter() if chosen == "cpu" else ""
        # once, what every fork would otherwise do; importing Triton starts nothing on a GPU
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("triton")
        warm_up()
        state_guard.captured()
        return cls(chosen, workers, limit, unfaithful)

    def run(self, waiting: deque[Task], until: float) -> Iterator[tuple[Task, Row]]:
        """Yield each task that waits with its row, as it ends; those that run at ``until`` have none.

        Whoever takes a row may let more tasks wait.
        """
        running = list[Running]()
        place = Path(tempfile.mkdtemp(prefix="mutants-"))
        try:
            while (waiting or running) and time.monotonic() < until:
                while waiting and len(running) < self.workers:
                    running.append(self._started(waiting.popleft(), place))
                wait([each.pipe for each in running], GLANCE)
                for each in list(running):
                    if (found := self._looked_at(each)) is not None:
                        running.remove(each)
                        _end(each)
                        yield each.task, found
        finally:
            for each in running:
                _end(each)
            shutil.rmtree(place, ignore_errors=True)

    def _started(self, task: Task, place: Path) -> Running:
        ours, theirs = _FORK.Pipe()
        folder = Path(tempfile.mkdtemp(dir=place))
        process = _FORK.Process(
            target=_forked, args=(self._trial(task, folder), (task.mutant, *task.others), theirs, ours)
        )
        process.start()
        theirs.close()
        now = time.monotonic()
        return Running(task, process, ours, folder, now, now, SILENCE.get((self.lane, task.stage), COMPILING))

    def _trial(self, task: Task, folder: Path) -> Trial:
        file, bug = task.mutant.file, task.mutant.kind == PLANTED
        return Trial(
            folder,
            task.stage,
            self.lane,
            ((f"{PREFIX}{task.mutant.id}", task.mutant.function),) if bug else judges(file, self.lane),
            _tests(task) if task.stage == PACKAGE_TESTS else (),
            self.unfaithful,
            # all of them use the first GPU: bugs that need another one find it free
            Allowance.of(self.workers, 1),
            task.first,
            task.steps(),
            task.properties,
            task.seed,
            task.budget,
        )

    def _looked_at(self, each: Running) -> Row | None:
        """Return the row of a mutant whose process ended, or has to; None while it works."""
        # asked first, so that what a process tells before it dies is heard
        now, alive = time.monotonic(), each.process.is_alive()
        try:
            while each.end is None and each.pipe.poll():
                each.listen(each.pipe.recv(), now)
        except (EOFError, OSError):
            # it is ending
            each.process.join(GLANCE)
            alive = each.process.is_alive()
        if each.end is not None:
            return _row_of(each, each.end, self.lane)
        if not alive:
            code = each.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            return self._row(each, CRASHED, how)
        # a test that compiles for minutes has not hung
        if each.task.stage != PACKAGE_TESTS and now - each.heard > each.patience:
            return self._row(each, HUNG, f"no answer within {each.patience:g} s")
        if now - each.began > self.limit:
            return self._row(each, SURVIVED, UNTIL_THE_LIMIT)
        if resident(each.process.pid) > fair_memory(self.workers):
            return self._row(each, CRASHED, "took too much memory")
        return None

    def _row(self, each: Running, verdict: str, why: str) -> Row:
        by, where = ("", "") if verdict == SURVIVED else each.at
        return _row_of(each, (verdict, by, where, why), self.lane)


def _row_of(each: Running, end: Sequence[str], lane: str) -> Row:
    verdict, *more = end
    by, where, why = more if len(more) == 3 else ("", "", *more, "")[:3]
    seconds = round(time.monotonic() - each.began, 2)
    told = {"by": by, "where": where, "why": why, "seconds": seconds, "cases": each.cases}
    assert verdict in {KILLED, CRASHED, HUNG, UNBORN, SUSPECT, SURVIVED}
    return row(each.task.mutant, each.task.stage, lane, verdict, **told)


def _tests(task: Task) -> tuple[str, ...]:
    """Return the files of tests for a mutant, the one first that killed it before."""
    first = task.first.partition("::")[0]
    every = package_tests(task.mutant.file)
    return (first, *(each for each in every if each != first)) if first in every else every


def _forked(trial: Trial, mutants: tuple[Mutant, ...], pipe: Connection, parents_end: Connection) -> None:
    """Make this process that of a mutant and its company, and judge it."""
    parents_end.close()
    die_with_the_parent()
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _silent(trial.folder / "output")
    # what is compiled is kept by its source: all mutants of other files share what they compile
    own = mutants[0].file.startswith(f"{PACKAGE}/kernels/")
    os.environ["TRITON_CACHE_DIR"] = str((trial.folder if own else trial.folder.parent) / "triton")
    single_threaded()
    write(trial.folder, *mutants)
    with contextlib.suppress(BrokenPipeError):
        judged(trial, pipe.send)
    sys.stdout.flush()
    os._exit(0)


def _silent(file: Path) -> None:
    """Send all output of this process into a file."""
    number = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(number, stream)


def _end(each: Running) -> None:
    """End a mutant's process, all that it started, and its files."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(each.process.pid or 0, signal.SIGKILL)
    each.process.join()
    each.pipe.close()
    shutil.rmtree(each.folder, ignore_errors=True)
