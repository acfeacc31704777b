"""Speed of whole runs over processes and GPUs: how the suite uses a machine.

``python -m benchmarks.scaling [TARGET] --gpus 1 -n 4 -n 8 --out FILE`` runs ``conform run`` for every number of
GPUs and of processes; the first time, which compiles, is a row as well. ``python -m benchmarks.scaling --draw
PICTURE --out FILE`` draws what a file has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from conformance import report
from conformance.report.document import Report
from conformance.report.lines import in_lines
from conformance.runs.data import to_data
from conformance.runs.host import gpus
from conformance.runs.item import PROFILES


@dataclass(frozen=True, slots=True)
class Run:
    """One run: ``judged`` seconds of ``whole`` ones, and the share of them in which a process judged an item.

    ``compiled`` counts the kernels that did not lie in Triton's cache. ``gpus`` is 0 for a run on the CPU.
    """

    gpus: int
    workers: int
    cases: int
    elements: int
    verdicts: int
    compiled: int
    judged: float
    whole: float
    busy: float

    @property
    def rate(self) -> float:
        """Return the cases a second."""
        return self.cases / self.judged

    def line(self) -> str:
        """Return the row of the table."""
        numbers = f"{self.gpus:5} {self.workers:4} {self.compiled:9,} {self.whole:9.1f} {self.judged:9.1f}"
        return f"{numbers} {self.cases:9,} {self.rate:9.1f} {self.elements / self.judged:11.3g} {self.busy:6.0%}"


HEADING = " GPUs   -n  compiled   whole s  judged s     cases   cases/s  elements/s   busy"


def run_of(made: Report, gpus: int, workers: int, whole: float) -> Run:
    """Return the row of a report. Raises ``ValueError`` where the run did not judge everything."""
    footer = made.footer
    if not footer.complete:
        raise ValueError(f"the run with {workers} processes did not end: it says nothing of their speed")
    busy = sum(footer.took.values()) / (workers * footer.seconds)
    verdicts = sum(footer.verdicts.values())
    found = footer.judged, footer.elements, verdicts, footer.compiled.kernels
    return Run(gpus, workers, *found, footer.seconds, round(whole, 1), round(busy, 3))


def measured(target: str, gpus: Sequence[str], workers: int, options: Sequence[str]) -> tuple[Report, float]:
    """Judge a target in a process of its own that sees some GPUs; return its report, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        command = [sys.executable, "-m", "conformance", "--isolated", "run", target, "-n", str(workers), *options]
        seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        begun = time.monotonic()
        subprocess.run([*command, "--report", folder], env={**os.environ, **seen}, check=False)  # noqa: S603 - ours
        return report.read(Path(folder) / "report.json"), time.monotonic() - begun


def draw(runs: Iterable[Run], said: str, path: Path) -> None:
    """Write a picture of cases a second over processes, a line for each number of GPUs. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    warm = sorted((run for run in runs if not _cold(run)), key=lambda run: (run.gpus, run.workers))
    for count, group in itertools.groupby(warm, key=lambda run: run.gpus):
        points = list(group)
        name = f"{count} GPU{'s' * (count > 1)}" if count else "CPU"
        axes.plot([run.workers for run in points], [run.rate for run in points], marker="o", label=name)
    top = 1.1 * max(run.rate for run in warm)
    axes.set(xlabel="processes", ylabel="cases a second, kernels compiled before", ylim=(0, top))
    axes.legend(frameon=False)
    figure.supxlabel(said, fontsize=7, color="0.3")
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None, facecolor="white")


def _cold(run: Run) -> bool:
    """Return whether a run compiled for most of its time: what torch compiles anew in each run is little."""
    return run.compiled > run.cases / 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each run, and write them as JSON; or draw those of a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", default="normkernels")
    parser.add_argument("--gpus", type=int, action="append", default=[], help="Default: all, or the CPU.")
    parser.add_argument("-n", type=int, action="append", default=[], help="Processes; repeatable. Default: 1.")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="quick")
    parser.add_argument("--op", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draw", type=Path)
    given = parser.parse_args(arguments)
    if given.draw is not None:
        read = json.loads(given.out.read_text(encoding="utf-8"))
        draw((Run(**row) for row in read["rows"]), _said(read["header"]), given.draw)
        return
    seen, rows, header = gpus(), [], None
    options = ["--profile", given.profile, *(part for name in given.op for part in ("--op", name))]
    # most processes first: they compile soonest
    runs = list(itertools.product(given.gpus or [len(seen)], sorted(given.n or [1], reverse=True)))
    sys.stdout.write(f"{HEADING}\n")
    for count, workers in [runs[0], *runs] if seen else runs:
        made, whole = measured(given.target, seen[:count], workers, options)
        header = header or to_data(made.header)
        rows.append(run_of(made, count, workers, whole))
        sys.stdout.write(f"{rows[-1].line()}\n")
        sys.stdout.flush()
        given.out.write_text(in_lines({"header": header, "rows": [asdict(row) for row in rows]}), encoding="utf-8")


def _said(header: dict[str, str]) -> str:
    named = f"torch {header['torch']}, triton {header['triton']}, commit {header['commit']}"
    return f"{header['adapter']['name']}, {header['profile']}; {header['device']}; {named}"  # type: ignore[index]


if __name__ == "__main__":
    main()
