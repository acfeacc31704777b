"""A chunk that is judged on some machine, in a process of its own: an implementation may end that process.

Imports the standard library alone: the workers of a cluster load this module, and nothing else of the suite.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# a worker of a cluster may be killed, with its machine or alone: its run must not go on
_CONFORM = """
from conformance.calls.child import die_with_the_parent
die_with_the_parent()
from conformance.cli import main
main()
"""
# what the folder of a campaign keeps of each chunk
KEPT = ("report.json", "output.log", "repro_*", "cases/*.json")


@dataclass(frozen=True, slots=True)
class Task:
    """A numbered chunk: arguments of ``conform run``, the folder where it runs, and a new one for its report."""

    chunk: int
    arguments: tuple[str, ...]
    folder: str
    place: str


@dataclass(frozen=True, slots=True)
class Result:
    """End of a task: files of its report by name, none where there is no report.

    ``status`` is the exit status, None where the machine was lost; ``said`` the last line of output.
    """

    task: Task
    status: int | None
    said: str
    node: str = ""
    seconds: float = 0.0
    files: Mapping[str, bytes] = field(default_factory=dict)


def judge(task: Task) -> Result:
    """Run the chunk of a task, and return its report."""
    began = time.monotonic()
    place = Path(task.folder, task.place)
    command = [sys.executable, "-c", _CONFORM, "--isolated", "run", *task.arguments]
    command += ["--chunk", str(task.chunk), "--report", task.place]
    try:
        done = subprocess.run(command, cwd=task.folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        files = {
            path.relative_to(place).as_posix(): path.read_bytes() for name in KEPT for path in place.glob(name)
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Result(
        task,
        done.returncode,
        lines[-1] if lines else "",
        platform.node(),
        round(time.monotonic() - began, 1),
        files if "report.json" in files else {},
    )
