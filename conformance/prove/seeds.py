"""The planted bugs under other seeds: ``python -m conformance.prove.seeds``.

A bug that one seed finds may be found by luck. Each bug is judged again under every seed, by the items of the
property that found it, all dtypes and chunks of a profile: it must be found every time, or has a rate. The rows go
to a file, a line for each bug and seed as it is judged, and a run goes on where another one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from conformance.prove import rows
from conformance.prove.copies import ROOT
from conformance.prove.mutants import Mutant
from conformance.prove.planted import planted
from conformance.prove.rows import UNTIL_THE_LIMIT, Row
from conformance.prove.running import Runner, Task
from conformance.report.header import origin
from conformance.runs.item import PROFILES

LANE = "cpu"
RECORDED = ROOT / "reports" / "planted_cpu.jsonl"


@dataclass(frozen=True, slots=True)
class Sight:
    """A planted bug under a seed: whether the items of ``property`` found it, by which property of theirs."""

    bug: str
    property: str
    profile: str
    seed: int
    found: bool
    by: str
    seconds: float


def telling(row: Row) -> str:
    """Return the property whose items found a bug; those of a call's other properties are found on its way."""
    return row.where.rpartition(":")[2].split("/")[1]


def judge(
    out: Path, asked: Sequence[tuple[Mutant, str]], profile: str, seeds: Iterable[int], runner: Runner
) -> None:
    """Judge bugs by their telling property under every seed, those that are not in the file yet, and add them."""
    done = {(sight.bug, sight.profile, sight.seed) for sight in read(out)}
    named = {bug.id: prop for bug, prop in asked}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for seed in seeds:
            left = [(bug, prop) for bug, prop in asked if (bug.id, profile, seed) not in done]
            tasks = deque(Task(bug, profile, properties=(prop,), seed=seed) for bug, prop in left)
            for _, row in runner.run(tasks, time.monotonic() + 1e9):
                if row.why == UNTIL_THE_LIMIT:
                    # not judged whole: neither found nor missed
                    continue
                sight = Sight(row.id, named[row.id], profile, seed, row.dead, row.by, row.seconds)
                file.write(f"{json.dumps(asdict(sight), ensure_ascii=False)}\n")
                file.flush()


def read(path: Path) -> list[Sight]:
    """Return the rows of a file, which may not exist yet."""
    return [Sight(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def told(sights: Sequence[Sight]) -> str:
    """Return how many bugs were found under every seed, and the rates of the others."""
    by_bug: dict[str, list[Sight]] = {}
    for sight in sights:
        by_bug.setdefault(sight.bug, []).append(sight)
    seeds = sorted({sight.seed for sight in sights})
    whole = {bug: every for bug, every in by_bug.items() if len(every) == len(seeds)}
    always = [bug for bug, every in whole.items() if all(sight.found for sight in every)]
    said = [f"{len(always)} of {len(by_bug)} planted bugs are found under each of {len(seeds)} seeds"]
    for bug, every in sorted(by_bug.items()):
        found = sum(sight.found for sight in every)
        if bug not in always:
            said.append(f"{bug}: {found} of {len(every)}, by {every[0].property}")
    return "\n".join(said) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge what is left, and print the rates; return 1 where a bug was missed."""
    parser = argparse.ArgumentParser(prog="python -m conformance.prove.seeds")
    parser.add_argument("--out", type=Path, default=Path("build/prove/seeds.jsonl"))
    parser.add_argument("--ours", type=Path, default=RECORDED, help="rows of conform prove --only planted")
    parser.add_argument("--profile", choices=list(PROFILES), default="ci")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--bug", action="append", default=[], metavar="NAME", help="a bug alone; may be repeated")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a bug and seed")
    parser.add_argument("-n", dest="workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runner = Runner.prepared(LANE, given.workers, given.limit)
    known = rows.ended(rows.read(given.ours))
    bugs = [bug for bug in planted(LANE) if not given.bug or bug.id.startswith(tuple(given.bug))]
    absent = [bug.id for bug in bugs if bug.id not in known or not known[bug.id].dead]
    if absent:
        sys.exit(f"{given.ours}: nothing found {absent[0]!r}, run: conform prove --only planted --stage quick")
    judge(given.out, [(bug, telling(known[bug.id])) for bug in bugs], given.profile, range(given.seeds), runner)
    sights = [sight for sight in read(given.out) if sight.profile == given.profile and sight.seed < given.seeds]
    sys.stdout.write(f"{given.profile}, {', '.join(f'{name} {value}' for name, value in origin().items())}\n")
    sys.stdout.write(told(sights))
    return int(not all(sight.found for sight in sights))


if __name__ == "__main__":
    sys.exit(main())
