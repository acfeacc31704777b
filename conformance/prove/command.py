"""``conform prove``: judge mutants, and what is planted, stage by stage, into a file of rows."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conformance.prove import rows
from conformance.prove.chart import draw
from conformance.prove.copies import FILES, UNCHANGED, mutants, unchanged
from conformance.prove.equivalent import equivalent, marks
from conformance.prove.judging import PACKAGE_TESTS
from conformance.prove.mutants import Mutant
from conformance.prove.planted import planted
from conformance.prove.rows import Row
from conformance.prove.running import Runner, Task
from conformance.prove.score import PLANTED, score
from conformance.report.header import origin

NOTHING: Mapping[str, Row] = MappingProxyType({})
STAGES = ("quick", "ci", PACKAGE_TESTS)


@dataclass(frozen=True, slots=True)
class Asked:
    """Options of a run: a sample of ``sample`` mutants by ``seed`` (all: None), for ``minutes`` at most.

    ``recorded`` are the rows of an earlier run: only what was dead there is judged, by what killed it first.
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
    picked = chosen(every, asked, equivalent(every, runner.lane, marks()))
    until = time.monotonic() + (60 * asked.minutes or 1e9)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    # planted bugs last: their fakes may import the package, of which mutants then could not be imported
    makers: dict[str, Callable[[], tuple[Mutant, ...]]] = {
        "unchanged": unchanged,
        "mutants": lambda: picked,
        "planted": lambda: planted(runner.lane),
    }
    parts = [(stage, makers[what]) for what in makers if what in asked.what for stage in asked.stages]
    with asked.out.open("a", encoding="utf-8") as file:
        for stage, made in parts:
            tasks = left(made(), stage, runner.lane, known, recorded)
            for number, row in enumerate(runner.run(tasks, until), start=1):
                file.write(rows.line(row))
                file.flush()
                known.append(row)
                say(row, f"{stage} {number} of {len(tasks)}")
    return tuple(known)


def died_on(lane: str, row: Row | None) -> bool:
    """Return whether the last row of a mutant says that it died on a lane."""
    return row is not None and row.dead and row.lane == lane


def left(
    picked: Iterable[Mutant], stage: str, lane: str, known: Iterable[Row], recorded: Mapping[str, Row] = NOTHING
) -> list[Task]:
    """Return the tasks of a stage: mutants that are not dead, and were not judged there to the end."""
    here = (row for row in known if (row.stage, row.lane) == (stage, lane) and row.why != rows.UNTIL_THE_LIMIT)
    done = {row.id for row in (*here, *(row for row in known if row.dead))}
    # a stage before the one that killed a mutant says nothing new of it
    done |= {name for name, row in recorded.items() if STAGES.index(row.stage) > STAGES.index(stage)}
    able = (mutant for mutant in picked if mutant.kind != PLANTED or stage != PACKAGE_TESTS)
    found = {name: row.where for name, row in recorded.items() if row.stage == stage}
    return [Task(mutant, stage, found.get(mutant.id, "")) for mutant in able if mutant.id not in done]


def main(**given: Any) -> int:  # noqa: ANN401 - options of the command line
    """Run the command, and print the score; return 1 where something is alive, or the package itself is not."""
    named = {name: value for name, value in given.items() if value not in (None, ())}
    # ended from outside, a run ends its processes as well
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = Asked(**{"workers": len(os.sched_getaffinity(0)), **named})
    made = prove(asked, _say)
    every = {mutant.id: mutant for mutant in mutants(("*",))}
    found = [row for row in made if row.kind == PLANTED or row.id in every]
    apart, on_cpu = (equivalent(every.values(), lane, marks()) for lane in ("", "cpu"))
    alive = [row for row in rows.ended(found).values() if not row.dead and row.id not in apart]
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


def header() -> str:
    """Return what the numbers depend on."""
    said = (f"{name} {value}" for name, value in origin().items() if isinstance(value, str))
    return f"{dt.datetime.now(tz=dt.UTC).date()}, {', '.join(said)}, {os.cpu_count()} cores"


def _say(row: Row, place: str) -> None:
    what = f"{row.id} {row.file}:{row.line} {row.kind}"
    sys.stderr.write(f"{place}: {what} {row.verdict} {row.by} {row.where} {row.seconds} s\n")
