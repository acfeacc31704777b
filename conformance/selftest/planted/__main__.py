"""The score: ``python -m conformance.selftest.planted [--every K]`` judges each planted bug, and prints a table.

A row says which property of the quick profile caught a bug first, in the order of a run, after how many seconds
of a processor and how many cases. A fake is judged once as each operation, whatever number of rows link to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median

from conformance.selftest.contained import in_processes
from conformance.selftest.first_failure import Found, first_failure, prepare
from conformance.selftest.planted import CPU, OUTSIDE, PLANTED, Planted


def table(bugs: Sequence[Planted], found: Sequence[Found]) -> str:
    """Return the printed lines: bugs with their first failures, then the sums."""
    caught = {(one.fake, one.operation): one for one in found}
    lines, judged = [], []
    for bug, operation in ((each, name) for each in bugs for name in each.operations):
        one = caught.get((bug.kind().__name__, operation))
        if one is None:
            said = f"not judged: {getattr(bug.kind(), 'gpu', '')}"
        else:
            judged.append(one)
            said = f"{one.property or 'NOT CAUGHT':18} {one.seconds:6.1f} s {one.cases:5} cases"
        lines.append(f"{bug.name:32} {operation:18} {bug.fake:48} {said}")
    seconds = [one.seconds for one in judged if one.property]
    fakes = len({bug.fake for bug in bugs})
    lines.append(f"{len(bugs)} bugs by {fakes} fakes; {len(OUTSIDE)} of the catalogue not planted")
    lines.append(f"{len(seconds)} of {len(judged)} caught where they can exist without a GPU")
    if seconds:
        lines.append(f"time to detection: median {median(seconds):.2f} s, longest {max(seconds):.1f} s")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge every K-th bug, several processes at once."""
    parser = argparse.ArgumentParser(prog="python -m conformance.selftest.planted")
    parser.add_argument("--every", type=int, default=1, metavar="K")
    parser.add_argument("-n", type=int, default=2, metavar="N", help="processes")
    given = parser.parse_args(arguments)
    prepare()
    bugs = PLANTED[:: given.every]
    runs = {(bug.kind(), operation) for bug in bugs if CPU in bug.lanes for operation in bug.operations}
    in_order = sorted(runs, key=lambda run: (run[0].__module__, run[0].__name__, run[1]))
    sys.stdout.write(f"{table(bugs, list(in_processes(first_failure, in_order, given.n)))}\n")


if __name__ == "__main__":
    main()
