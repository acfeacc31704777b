"""Speed of the suite itself: cases and elements a second, and the shares of drawing, calling and the oracle.

``python -m benchmarks.judging [TARGET]`` judges items in this process, three times: ``first`` is the first time,
in which kernels are compiled; ``again`` the second; the shares are those of a third time, under Python's profiler,
which adds to parts that make many calls. A worker of a run does the same, and hands each case over a pipe besides.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conformance.calls.child import single_threaded
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.runs.host import choose_device, faithful_interpreter
from conformance.runs.item import PROFILES

# the part of the work that a function and all that it calls belong to, by module and name
PARTS = {
    "drawing": (("calls/materialize.py", "values_of"),),
    "placing": (("calls/materialize.py", "materialize"),),
    "calling": (("calls/call.py", "_attempted"),),
    "oracle": (("properties/measure.py", "measure"), ("properties/measure.py", "stored")),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of judging a property: seconds of the first and the second time, shares of the third."""

    operation: str
    property: str
    cases: int
    elements: int
    first: float
    again: float
    shares: Mapping[str, float]

    def line(self) -> str:
        """Return the row of the table."""
        parts = "".join(f"{share:9.0%}" for share in self.shares.values())
        rate, elements = self.cases / self.again, self.elements / self.again
        name = f"{self.operation} {self.property}"
        return f"{name:44} {self.cases:6} {self.first:8.2f} {self.again:8.2f} {rate:9.1f} {elements:12.3g}{parts}"


def heading() -> str:
    """Return the names of the columns."""
    parts = "".join(f"{part:>9}" for part in PARTS)
    return f"{'':44} {'cases':>6} {'first s':>8} {'again s':>8} {'cases/s':>9} {'elements/s':>12}{parts}"


def shares(profile: cProfile.Profile, seconds: float) -> dict[str, float]:
    """Return the share of every part in a profile of so many seconds."""
    # by (file, line, function): calls, own time, and time with everything that the function calls
    stats: Mapping[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    spent = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in stats.items():
        for part, places in PARTS.items():
            if any(file.endswith(place) and function == name for place, name in places):
                spent[part] += cumulative
    return {part: time_of / seconds for part, time_of in spent.items()}


def measured(target: str, device: str, profile: str, operation: str, prop: str, most: int) -> Speed | None:
    """Return the speed of judging at most so many cases of each item; None where nothing can be judged."""
    # imports Triton, which must come after the device is chosen
    from conformance.adapter import load
    from conformance.calls.call import Subject
    from conformance.calls.verdict import Status
    from conformance.runs.item import cases_of, items, void_reason
    from conformance.runs.judge import judge, unjudged

    if void_reason(operation, prop):
        return None
    subject = Subject(load(target), device)
    listed = items(subject, profile, operations=(operation,), properties=(prop,))
    fit = [item for item in listed if unjudged(item, subject) is None]
    cases = [case for item in fit for case in itertools.islice(cases_of(item, subject), most)]
    if not cases:
        return None

    def judge_all() -> tuple[float, int, int]:
        begun, judged, elements = time.perf_counter(), 0, 0
        for case in cases:
            verdicts = judge(subject, prop, case)
            judged += any(verdict.status is not Status.NOT_JUDGED for verdict in verdicts)
            elements += sum(verdict.comparison.elements for verdict in verdicts)
        return time.perf_counter() - begun, judged, elements

    first, judged, elements = judge_all()
    if not judged:
        return None
    again, *_ = judge_all()
    with cProfile.Profile() as profiler:
        profiled, *_ = judge_all()
    return Speed(operation, prop, judged, elements, round(first, 3), round(again, 3), shares(profiler, profiled))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", default="normkernels")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--profile", choices=tuple(PROFILES), default="quick")
    parser.add_argument("--op", action="append", choices=tuple(OPERATIONS), default=[])
    parser.add_argument("--property", action="append", choices=tuple(PROPERTIES), default=[])
    parser.add_argument("--cases", type=int, default=40, help="At most so many of each item. Default: 40.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    single_threaded()
    if device == "cpu":
        faithful_interpreter()

    from benchmarks.environment import environment, machine
    from conformance.report.lines import in_lines

    header = environment(device)
    _say(machine(header))
    _say(heading())
    rows = []
    for operation, prop in itertools.product(given.op or OPERATIONS, given.property or PROPERTIES):
        speed = measured(given.target, device, given.profile, operation, prop, given.cases)
        if speed is not None:
            rows.append(speed)
            _say(speed.line())
    if rows:
        _say(_total(rows).line())
    if given.out:
        given.out.write_text(in_lines({"header": header, "rows": [asdict(row) for row in rows]}), encoding="utf-8")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _total(rows: Sequence[Speed]) -> Speed:
    """Return all rows as one; shares weigh as the time of their rows."""
    again = sum(row.again for row in rows)
    of_all = {part: sum(row.shares[part] * row.again for row in rows) / again for part in PARTS}
    cases, elements = sum(row.cases for row in rows), sum(row.elements for row in rows)
    return Speed("all", "", cases, elements, sum(row.first for row in rows), again, of_all)


if __name__ == "__main__":
    main()
