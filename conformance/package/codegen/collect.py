"""Compilation for several targets at once: a process for each, as many at a time as there are cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import conformance

Row = dict[str, Any]  # a line that the child printed, or the error that ended it

LIMIT = 900.0  # seconds a target
LAST = 2000  # characters of a child's output before it failed


def collect(targets: Sequence[str], workers: int | None = None) -> list[Row]:
    """Return the rows of every target, in the order of names; ``workers`` processes at a time, or one a core."""
    with (
        # the results are neither read from Triton's own cache nor left there
        tempfile.TemporaryDirectory(prefix="codegen-") as cache,
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
    ):
        every = pool.map(lambda name: _rows(name, Path(cache) / name), targets)
        return [row for rows in every for row in rows]


def _rows(name: str, cache: Path) -> list[Row]:
    """Return the rows that the child of a target printed; if it failed, also a row that says how."""
    command = [sys.executable, "-m", "conformance.package.codegen.compile", name]
    try:
        done = subprocess.run(
            command, env=_environment(cache), capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return [{"target": name, "failed": f"took more than {LIMIT:g} s"}]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        rows.append({"target": name, "failed": f"exit status {done.returncode}: {done.stderr[-LAST:]}"})
    return rows


def _environment(cache: Path) -> dict[str, str]:
    """Return this process's environment without Triton's and the package's variables, set to compile each time."""
    steering = ("TRITON_", "NORMKERNELS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    here = str(Path(conformance.__file__).parents[1])
    paths = [here, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_ALWAYS_COMPILE": "1",
        "TRITON_DUMP_PTXAS_LOG": "1",
    }
