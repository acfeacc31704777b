"""Comparison of runs that should agree: ``python -m conformance.selftest.seeds REPORT… > seeds_cpu.json``.

Give the folders of finished runs of one adapter, profile and commit, named after their seeds and workers, as from

    for seed in 0 1 2 3 4; do conform run --profile ci --seed $seed -n 2 --report seed_${seed}_workers_2; done
    for n in 1 3 4; do conform run --profile ci --seed 0 -n $n --report seed_0_workers_$n; done

Prints, as JSON, their common header, and each run's totals and a digest of its results: counts, elements,
worst errors and shares, row by row. Ends with 1 if something failed, or if runs of one seed differ in anything.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.report import in_lines

Report = Mapping[str, Any]


def summary(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Return the common header of some runs, and each run's seed, totals and digest."""
    headers = [{key: value for key, value in r["header"].items() if key != "seed"} for r in reports.values()]
    if any(header != headers[0] for header in headers):
        differing = sorted({key for h in headers for key in h if h[key] != headers[0].get(key)})
        message = f"runs differ in {', '.join(differing)}, must be of one adapter, profile, commit and machine"
        raise ValueError(message)
    return {"header": headers[0], "runs": {name: _totals(report) for name, report in reports.items()}}


def _totals(report: Report) -> dict[str, Any]:
    results = json.dumps(report["results"], sort_keys=True).encode()
    kept = ("cases", "elements", "verdicts", "complete", "exit_code")
    return {
        "seed": report["header"]["seed"],
        **{key: report["footer"][key] for key in kept},
        "results": hashlib.sha256(results).hexdigest(),
    }


def disagreements(made: Mapping[str, Any]) -> list[str]:
    """Return the faults of a summary's runs: a run that did not pass, or two of one seed that differ."""
    found = []
    first: dict[int, str] = {}
    for name, run in made["runs"].items():
        if run["exit_code"] or not run["complete"]:
            found.append(f"{name} ended with {run['exit_code']}")
        other = first.setdefault(run["seed"], name)
        if run != made["runs"][other]:
            found.append(f"{name} differs from {other}, which has the same seed")
    return found


def main(folders: Sequence[str]) -> int:
    """Print the summary of the reports in ``folders``."""
    if not folders:
        print("seeds: no folders are given, must be those of finished runs", file=sys.stderr)  # noqa: T201
        return 2
    reports = {
        Path(folder).name: json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
        for folder in folders
    }
    made = summary(reports)
    found = disagreements(made)
    print(in_lines(made), end="")  # noqa: T201
    print("\n".join(found), file=sys.stderr)  # noqa: T201
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
