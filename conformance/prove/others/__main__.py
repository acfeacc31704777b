"""The planted bugs by the models of other suites: ``python -m conformance.prove.others``.

Each bug that can exist on a CPU is called on the inputs of every model, in a process of its own: a crash, a hang
or an exception counts as caught. The rows go to a file, and a table, a matrix and a picture are made of them.
These are models of the suites, and not the suites.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.adapter import Adapter
from conformance.prove import rows
from conformance.prove.mutants import Mutant
from conformance.prove.others.judging import LANE, LIMIT, contained
from conformance.prove.others.picture import draw
from conformance.prove.others.suites import SUITES
from conformance.prove.others.tables import OURS, Row, told
from conformance.prove.planted import fake, planted
from conformance.prove.running import Runner
from conformance.report.header import origin

STAGE = "quick"
GRADIENT = "gradient"


def shown() -> tuple[Mutant, ...]:
    """Return the planted bugs that a forward call may show: models make no others."""
    return tuple(bug for bug in planted(LANE) if getattr(fake(bug.id), "caught_by", ()) != (GRADIENT,))


def judge(every: int, ours: Path | None, names: Sequence[str] = (), suites: Sequence[str] = ()) -> list[Row]:
    """Return the rows of every K-th bug, by all models or some; ``ours``: of ``conform prove --only planted``."""
    Runner.prepared(LANE, 1, LIMIT)
    chosen = [bug for bug in shown()[::every] if not names or bug.id.startswith(tuple(names))]
    recorded = rows.ended(row for row in rows.read(ours) if (row.stage, row.lane) == (STAGE, LANE)) if ours else {}
    absent = [bug.id for bug in chosen if ours and bug.id not in recorded]
    if absent:
        sys.exit(f"{ours}: no row of {absent[0]!r}, run: conform prove --only planted --stage {STAGE}")
    done: dict[tuple[type[Adapter], str], dict[str, str]] = {}
    found = []
    for bug in chosen:
        adapter = fake(bug.id)
        key = type(adapter), bug.function
        if key not in done:
            done[key] = contained(adapter, bug.function, suites)
            sys.stderr.write(f"{bug.id}: {', '.join(filter(None, done[key].values()))}\n")
        mine = {OURS: recorded[bug.id].by if recorded[bug.id].dead else ""} if ours else {}
        found.append(Row(bug.id, bug.function, bug.after, {**done[key], **mine}))
    return found


def write(path: Path, found: Sequence[Row], every: int) -> None:
    """Write the header and the rows, a line each."""
    about: dict[str, Any] = {"date": str(dt.datetime.now(tz=dt.UTC).date()), **origin(), "every": every}
    about["suites"] = {suite.name: suite.source for suite in SUITES}
    about["note"] = "models of these suites by their inputs and tolerances, and not the suites"
    _lines(path, about, found)


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Return the header and the rows of a file."""
    header, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    return header, [Row(**line) for line in lines]


def added(path: Path, found: Sequence[Row], suites: Sequence[str]) -> None:
    """Write the columns of some models beside those of a file, whose header then says when they were added."""
    header, known = read(path)
    new = {row.bug: row.found for row in found}
    if new.keys() != {row.bug for row in known}:
        sys.exit(f"{path}: has other bugs than were judged, judge all models")
    about = f"{dt.datetime.now(tz=dt.UTC).date()}, commit {origin()['commit']}"
    header["suites"] |= {suite.name: suite.source for suite in SUITES if suite.name in suites}
    header["added"] = {**header.get("added", {}), **dict.fromkeys(suites, about)}
    names = [suite.name for suite in SUITES] + [OURS]
    rows = [
        Row(row.bug, row.operation, row.source, _in_order({**row.found, **new[row.bug]}, names)) for row in known
    ]
    _lines(path, header, rows)


def _in_order(found: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: found[name] for name in names if name in found}


def _lines(path: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(row.to_data() for row in rows)]
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge, or read what was judged; print the table and the matrix, draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m conformance.prove.others")
    parser.add_argument("--out", type=Path, default=Path("build/prove/others.jsonl"))
    parser.add_argument("--ours", type=Path, help="rows of conform prove --only planted", metavar="ROWS")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="judge every K-th bug")
    parser.add_argument("--bug", action="append", default=[], metavar="NAME", help="a bug alone; may be repeated")
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        choices=[suite.name for suite in SUITES],
        help="judge by this model alone, into the rows of --out; may be repeated",
    )
    parser.add_argument("--read", action="store_true", help="judge nothing, read --out")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    given = parser.parse_args(arguments)
    if given.suite:
        added(given.out, judge(given.every, None, given.bug, given.suite), given.suite)
    elif not given.read:
        write(given.out, judge(given.every, given.ours, given.bug), given.every)
    header, found = read(given.out)
    sys.stdout.write(told(header, found))
    if given.picture:
        draw(found, header, given.picture)


if __name__ == "__main__":
    main()
