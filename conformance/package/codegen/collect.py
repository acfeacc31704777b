"""Compilation for several targets at once: a process for each, as many at a time as there are cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import conformance
import normkernels
from conformance.package.codegen.targets import TARGETS

Row = dict[str, Any]  # a line that the program printed, or the error that ended it

LAST = 2000  # characters of the program's output before it failed


def collect(targets: Sequence[str], workers: int | None = None) -> list[Row]:
    """Return the rows of every target, in the order of names; ``workers`` processes at a time, or one a core."""
    count = workers or len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "conformance.package.codegen.compile", str(count), *targets]
    # the results are neither read from Triton's own cache nor left there
    with tempfile.TemporaryDirectory(prefix="codegen-") as cache:
        # from an empty folder, because ``-m`` looks into the current one before any other
        done = subprocess.run(
            command, env=_environment(Path(cache)), cwd=cache, capture_output=True, text=True, check=False
        )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        failed = f"exit status {done.returncode}: {done.stderr[-LAST:]}"
        rows += [{"target": name, "failed": failed} for name in targets]
    return sorted(rows, key=lambda row: targets.index(row["target"]))


def looked_at(tests: Iterable[Any], fixture: str) -> list[str]:
    """Return the targets that pytest's items with a fixture look at: all of them, unless each names its own."""
    asking = [test for test in tests if fixture in getattr(test, "fixturenames", ())]
    named = {test.callspec.params.get("target") if hasattr(test, "callspec") else None for test in asking}
    return [name for name in TARGETS if name in named or None in named]


def _environment(cache: Path) -> dict[str, str]:
    """Return this process's environment without Triton's and the package's variables, set to compile each time."""
    steering = ("TRITON_", "NORMKERNELS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    # the package of this process first: it may be another one than that beside the suite
    here = [str(Path(str(module.__file__)).parents[1]) for module in (normkernels, conformance)]
    paths = [*here, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_ALWAYS_COMPILE": "1",
        "TRITON_DUMP_PTXAS_LOG": "1",
    }
