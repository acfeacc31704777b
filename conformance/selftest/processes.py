"""Commands in processes of their own that are forked after torch was imported, which takes seconds of a start.

A command sees what it would see if Python had been started for it: the environment, the folder, and neither Triton
nor anything else that the tests imported.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = ("PYTEST", "TRITON_", "COV_")  # beginnings of variables that steer the tests, and no command

_FORKS = multiprocessing.get_context("forkserver")
# sympy is the largest part of what torch imports when something is called first
_FORKS.set_forkserver_preload(["conformance.cli", "sympy"])


class Command:
    """A running command, which leads a process group of its own; its output is in two files beside ``folder``."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._output = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
        self._process: ForkServerProcess = _FORKS.Process(
            target=_begin, args=(folder, self._output, list(arguments), dict(environment))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def ended(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Return the exit status and output of the command, which has ``timeout`` seconds left."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired("a command", timeout)
        said = [path.read_text(encoding="utf-8") for path in self._output]
        return subprocess.CompletedProcess((), status, *said)


def started(folder: Path, *arguments: str, **variables: str) -> Command:
    """Start a command as ``python`` would: a script, ``-m`` and a module, or ``-c`` and code, and arguments."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    return Command(folder, arguments, {**outside, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **variables})


def ran(
    folder: Path, *arguments: str, timeout: float = 300.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Return the end of a command, as :func:`started` starts it."""
    return started(folder, *arguments, **variables).ended(timeout)


def ran_alone(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return the end of Python code that ran in an empty folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "folder"
        folder.mkdir()
        return started(folder, "-c", code, *arguments, **variables).ended(timeout=300)


def _begin(folder: Path, output: Sequence[Path], arguments: list[str], environment: Mapping[str, str]) -> None:
    """Make this process that of a command, and run it."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(output, start=1):
        with path.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    # Ctrl-C reaches a command also if the tests run in the background, where it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, *rest = arguments
    first = {"-c": "", "-m": str(folder)}.get(kind, str((folder / kind).parent))
    sys.path[:] = [first, str(ROOT), *sys.path[1:]]
    sys.argv = {"-c": ["-c", *rest[1:]], "-m": rest}.get(kind, arguments)
    if kind == "-c":
        exec(compile(rest[0], "-c", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own code
    elif kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(kind, run_name="__main__")
