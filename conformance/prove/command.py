"""``conform prove``: judge mutants, and what is planted, stage by stage, into a file of rows."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conformance.adapter import UsageError
from conformance.prove import reach, rows
from conformance.prove.chart import draw
from conformance.prove.codes import OURS, content, twins
from conformance.prove.company import Rounds
from conformance.prove.copies import FILES, UNCHANGED, as_it_is, mutants, unchanged
from conformance.prove.equivalent import equivalent, marks
from conformance.prove.judging import PACKAGE_TESTS
from conformance.prove.mutants import Mutant
from conformance.prove.order import Order, judges
from conformance.prove.planted import planted
from conformance.prove.rows import Row
from conformance.prove.running import Runner, Task
from conformance.prove.score import PLANTED, score
from conformance.report.header import origin

NOTHING: Mapping[str, Row] = MappingProxyType({})
STAGES = ("quick", "ci", PACKAGE_TESTS)
WORTH = 20  # mutants from which on it pays to find out which cases reach them, and which tests fail anyway


@dataclass(frozen=True, slots=True)
class Asked:
    """Options of a run: a sample of ``sample`` mutants by ``seed`` (all: None), for ``minutes`` at most.

    ``recorded`` are the rows of an earlier run: only what was dead there is judged, by what killed it first.
    ``each_stage``: what another stage killed is judged as well, for the share that a stage kills alone.
    """

    out: Path
    files: tuple[str, ...] = FILES
    stages: tuple[str, ...] = STAGES
    lane: str | None = None
    workers: int = 1
    sample: int | None = None
    seed: str = "0"
    minutes: float = 0.0
    limit: float = 600.0
    ids: tuple[str, ...] = ()
    what: tuple[str, ...] = ("mutants", "planted")
    recorded: Path | None = None
    chart: Path | None = None
    each_stage: bool = False


def chosen(every: Sequence[Mutant], asked: Asked, marked: Iterable[str]) -> tuple[Mutant, ...]:
    """Return the mutants that are asked for, without those marked as equivalent, in an order of their own."""
    apart = frozenset(marked)
    left = sorted((m for m in every if m.id not in apart), key=lambda mutant: mutant.id)
    if asked.ids:
        left = [mutant for mutant in left if mutant.id.startswith(asked.ids)]
    random.Random(asked.seed).shuffle(left)  # noqa: S311 - reproducible, not secret
    return tuple(left[: asked.sample])


def prove(asked: Asked, say: Callable[[Row, str], None]) -> tuple[Row, ...]:
    """Judge mutants stage by stage, each until it is dead; return the rows of the file, old and new."""
    known = list(rows.read(asked.out))
    recorded = rows.ended(rows.read(asked.recorded)) if asked.recorded else {}
    runner = Runner.prepared(asked.lane, asked.workers, asked.limit)
    every = mutants(asked.files)
    if asked.recorded:
        every = tuple(mutant for mutant in every if died_on(runner.lane, recorded.get(mutant.id)))
    picked = chosen(every, asked, equivalent(every, "", marks()))
    # the package's tests read data, and stand in for a GPU: they judge what no run on this lane shows
    unseen = equivalent(every, runner.lane, marks())
    until = time.monotonic() + (60 * asked.minutes or 1e9)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    # planted bugs last: their fakes may import the package, of which mutants then could not be imported
    makers: dict[str, Callable[[str], Iterable[Mutant]]] = {
        "unchanged": lambda _: unchanged(),
        "mutants": lambda stage: (m for m in picked if stage == PACKAGE_TESTS or m.id not in unseen),
        "planted": lambda _: planted(runner.lane),
    }
    parts = [(stage, what) for what in makers if what in asked.what for stage in asked.stages]
    with asked.out.open("a", encoding="utf-8") as file:
        for stage, what in parts:
            judged = [row for row in known if row.stage == stage] if asked.each_stage else known
            tasks = left(makers[what](stage), stage, runner.lane, judged, recorded, reach.state())
            # what killed a mutant once is judged first, and seldom more than that
            order = None if recorded or what != "mutants" else _order(tasks, stage, runner, known)
            if order:
                ended = _ended(tasks, runner, order, until, _cut(known))
            elif (stage, what) == (PACKAGE_TESTS, "mutants") and not recorded and len(tasks) >= WORTH:
                ended = _vouched(_alone([*_controls(tasks), *tasks], runner, until))
            else:
                ended = _alone(tasks, runner, until)
            for number, found in enumerate(ended, start=1):
                row = replace(found, suite=reach.state())
                if order is not None:
                    order.learn(row)
                file.write(rows.line(row))
                file.flush()
                known.append(row)
                say(row, f"{stage} {number} of {len(tasks)}")
    return tuple(known)


def _order(tasks: Sequence[Task], stage: str, runner: Runner, known: Iterable[Row]) -> Order | None:
    """Return the cases that reach mutants, in order; None where it is not worth finding out, or not possible."""
    files = {task.mutant.file for task in tasks}
    pairs = sorted({pair for file in files for pair in judges(file)})
    if runner.lane != "cpu" or stage == PACKAGE_TESTS or not pairs:
        return None
    if len(tasks) < WORTH and not reach.on_file(pairs, stage):
        return None
    return Order(reach.recorded(pairs, stage, runner.unfaithful, runner.workers), known)


def _alone(tasks: Iterable[Task], runner: Runner, until: float) -> Iterator[Row]:
    """Yield the rows of tasks, each judged by all items."""
    for _, row in runner.run(deque(tasks), until):
        yield row


def _controls(tasks: Iterable[Task]) -> list[Task]:
    """Return a task for every file of mutants, without a mutant: the same tests in the same order."""
    return [Task(as_it_is(file), PACKAGE_TESTS) for file in sorted({task.mutant.file for task in tasks})]


def _vouched(found: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of mutants, those of a file once its tests passed without a mutant.

    Raises ``UsageError`` where they fail: every mutant would die of that.
    """
    held: dict[str, list[Row]] = {}
    sound = set[str]()
    for row in found:
        if row.kind != UNCHANGED:
            held.setdefault(row.file, []).append(row)
        elif row.dead:
            raise UsageError(f"{row.where} fails without a mutant, must pass here: {row.why.strip()}")
        else:
            sound.add(row.file)
        if row.file in sound:
            yield from held.pop(row.file, ())


def _ended(
    tasks: Sequence[Task], runner: Runner, order: Order, until: float, cut: Collection[tuple[str, str]]
) -> Iterator[Row]:
    """Yield the rows of mutants at one stage, first of those that need no judgement.

    Mutants with the same code are judged once, those with the code of the package never. Those that were ``cut``
    off before, by id and content, had their time alone.
    """
    named = {task.mutant.id: replace(task, order=order) for task in tasks}
    groups = dict(twins(task.mutant for task in tasks))
    settled = [(mutant, rows.SAME) for mutant in groups.pop(OURS, ())]
    for name in [name for name, group in groups.items() if not order.reaches(group[0])]:
        settled += [(mutant, rows.UNREACHED) for mutant in groups.pop(name)]
    for mutant, verdict in settled:
        yield rows.row(mutant, named[mutant.id].stage, runner.lane, verdict)
    alike = {group[0].id: group for group in groups.values()}
    before = {name for name, group in alike.items() if (name, content(group[0])) in cut}
    rounds = Rounds(
        [named[name] for name in alike if name not in before], [named[name] for name in alike if name in before]
    )
    found = (row for task, ended in runner.run(rounds.waiting, until) for row in rounds.taken(task, ended))
    for row in itertools.chain(found, rounds.rest(runner.lane)):
        yield row
        for twin in alike[row.id][1:]:
            yield rows.like(row, twin)


def _cut(known: Iterable[Row]) -> frozenset[tuple[str, str]]:
    """Return the mutants that were cut off in an earlier run, by id and content."""
    return frozenset((row.id, row.content) for row in known if row.why == rows.UNTIL_THE_LIMIT)


def died_on(lane: str, row: Row | None) -> bool:
    """Return whether the last row of a mutant says that it died on a lane."""
    return row is not None and row.dead and row.lane == lane


def left(
    picked: Iterable[Mutant],
    stage: str,
    lane: str,
    known: Iterable[Row],
    recorded: Mapping[str, Row] = NOTHING,
    suite: str = "",
) -> list[Task]:
    """Return the tasks of a stage: mutants that are not dead, and were not judged whole there by this suite."""
    here = stage, lane, suite
    done = {
        (row.id, row.content)
        for row in known
        if row.dead
        or row.verdict == rows.SAME
        or ((row.stage, row.lane, row.suite) == here and row.why != rows.UNTIL_THE_LIMIT)
    }
    # a stage before the one that killed a mutant says nothing new of it
    later = {name for name, row in recorded.items() if STAGES.index(row.stage) > STAGES.index(stage)}
    able = (mutant for mutant in picked if mutant.kind != PLANTED or stage != PACKAGE_TESTS)
    found = {name: row.where for name, row in recorded.items() if row.stage == stage}
    return [
        Task(mutant, stage, found.get(mutant.id, ""))
        for mutant in able
        if mutant.id not in later and (mutant.id, content(mutant)) not in done
    ]


def main(**given: Any) -> int:  # noqa: ANN401 - options of the command line
    """Run the command, and print the score; return 1 where something is alive, or the package itself is not."""
    named = {name: value for name, value in given.items() if value not in (None, ())}
    # ended from outside, a run ends its processes as well
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = Asked(**{"workers": len(os.sched_getaffinity(0)), **named})
    made = prove(asked, _say)
    every = {mutant.id: mutant for mutant in mutants(("*",))}
    found = [row for row in made if row.kind == PLANTED or _of(row, every)]
    apart, on_cpu = (equivalent(every.values(), lane, marks()) for lane in ("", "cpu"))
    alive = [
        row
        for row in rows.ended(found).values()
        if not row.dead and row.id not in apart and row.verdict != rows.SAME
    ]
    broken = [row for row in made if row.kind == UNCHANGED and row.dead]
    for row in (*alive, *broken):
        what = f"{row.id} {row.file}:{row.line} {row.function} {row.kind}: {row.before} -> {row.after}"
        sys.stdout.write(f"{what} {row.by} {row.where} {row.why}\n")
    judged = len({row.id for row in found})
    about = f"{header()}; {len(every)} mutants, {len(apart)} of them marked as equivalent; {judged} judged"
    sys.stdout.write(f"{about}\n\n{score(found, apart, on_cpu)}")
    if asked.chart is not None:
        draw(found, apart, about, asked.chart)
    return int(bool(alive or broken))


def _of(row: Row, every: Mapping[str, Mutant]) -> bool:
    """Return whether a row is one of today's mutants."""
    return row.id in every and row.content in {"", content(every[row.id])}


def header() -> str:
    """Return what the numbers depend on."""
    said = (f"{name} {value}" for name, value in origin().items() if isinstance(value, str))
    return f"{dt.datetime.now(tz=dt.UTC).date()}, {', '.join(said)}, {os.cpu_count()} cores"


def _say(row: Row, place: str) -> None:
    what = f"{row.id} {row.file}:{row.line} {row.kind}"
    sys.stderr.write(f"{place}: {what} {row.verdict} {row.by} {row.where} {row.seconds} s\n")
