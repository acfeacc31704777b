"""``conform prove``: judge mutants, and what is planted, stage by stage, into a file of rows."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.prove import rows
from conformance.prove.copies import FILES, mutants
from conformance.prove.mutants import Mutant
from conformance.prove.rows import Row
from conformance.prove.running import Runner, Task

STAGES = ("quick", "ci", "package")


@dataclass(frozen=True, slots=True)
class Asked:
    """Options of a run: a sample of ``sample`` mutants by ``seed`` (all: None), for ``minutes`` at most."""

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


def chosen(every: Sequence[Mutant], asked: Asked, marked: Iterable[str] = ()) -> tuple[Mutant, ...]:
    """Return the mutants that are asked for, without those marked as equivalent, in an order of their own."""
    apart = frozenset(marked)
    left = sorted((m for m in every if m.id not in apart), key=lambda mutant: mutant.id)
    if asked.ids:
        left = [mutant for mutant in left if mutant.id.startswith(asked.ids)]
    random.Random(asked.seed).shuffle(left)  # noqa: S311 - reproducible, not secret
    return tuple(left[: asked.sample])


def prove(asked: Asked, marked: Iterable[str], say: Callable[[Row, str], None]) -> tuple[Row, ...]:
    """Judge mutants stage by stage, each until it is dead; return the rows of the file, old and new."""
    known = list(rows.read(asked.out))
    picked = chosen(mutants(asked.files), asked, marked)
    runner = Runner.prepared(asked.lane, asked.workers, asked.limit)
    until = time.monotonic() + (60 * asked.minutes or 1e9)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("a", encoding="utf-8") as file:
        for stage in asked.stages:
            tasks = left(picked, stage, runner.lane, known)
            for number, row in enumerate(runner.run(tasks, until), start=1):
                file.write(rows.line(row))
                file.flush()
                known.append(row)
                say(row, f"{stage} {number} of {len(tasks)}")
    return tuple(known)


def left(picked: Iterable[Mutant], stage: str, lane: str, known: Iterable[Row]) -> list[Task]:
    """Return the tasks of a stage: mutants that are not dead, and were not judged there before."""
    done = {row.id for row in known if row.dead or (row.stage, row.lane) == (stage, lane)}
    return [Task(mutant, stage) for mutant in picked if mutant.id not in done]


def main(**given: Any) -> int:  # noqa: ANN401 - options of the command line
    """Run the command; return 1 where a mutant survived."""
    named = {name: value for name, value in given.items() if value not in (None, ())}
    asked = Asked(**{"workers": len(os.sched_getaffinity(0)), **named})
    found = prove(asked, (), _say)
    alive = [row for row in rows.ended(found).values() if not row.dead]
    for row in alive:
        sys.stdout.write(f"{row.id} {row.file}:{row.line} {row.kind}: {row.before} -> {row.after}\n")
    return int(bool(alive))


def _say(row: Row, place: str) -> None:
    sys.stderr.write(
        f"{place}: {row.id} {row.file}:{row.line} {row.kind} {row.verdict} {row.by} {row.where} {row.seconds} s\n"
    )
