"""Commands in processes of their own that are forked after torch was imported, which takes seconds of a start.

A command sees what it would see if Python had been started for it: the environment, the folder, and neither Triton
nor anything else that the tests imported. Only a command that is ``judged`` finds Triton there, as a process does
that judges on a CPU.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from conformance.calls.child import single_threaded
from conformance.runs.host import choose_device, gpus, preload
from conformance.selftest import forked
from conformance.selftest.forked import Given

ROOT = Path(__file__).resolve().parents[2]
OWN = ("PYTEST", "TRITON_", "COV_")  # beginnings of variables that steer the tests, and no command

FORKS = multiprocessing.get_context("forkserver")
"""Processes that have torch, and nothing else that the tests imported."""
# sympy is the largest part of what torch imports when something is called first
FORKS.set_forkserver_preload(["conformance.cli", "sympy"])
_FORK = multiprocessing.get_context("fork")


class Command:
    """A running command, which leads a process group of its own; its output is in two files beside ``folder``.

    ``ready``: where there is no GPU, a process that is ready to judge forks it, and where it is ``nested`` the
    commands that it runs.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        ready: bool = False,
        nested: bool = False,
    ) -> None:
        self._output = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
        ready = ready and not gpus()
        given = Given(folder, self._output, arguments, dict(environment), nested and ready)
        self._process = _Ready(given) if ready else _forked(given)
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


class _Ready:
    """A process that another one forked, which is ready to judge on a CPU and tells how its forks end."""

    idle: list[Connection] = []  # noqa: RUF012 - pipes to those that run no command, of this whole process

    def __init__(self, given: Given) -> None:
        self._parent = self.idle.pop() if self.idle else _made_ready()
        self._parent.send(given)
        self.pid: int = self._parent.recv()
        self.exitcode: int | None = None

    def join(self, timeout: float) -> None:
        """Wait for the end."""
        if self.exitcode is None and self._parent.poll(timeout):
            self.exitcode = self._parent.recv()
            self.idle.append(self._parent)


def _forked(given: Given) -> ForkServerProcess:
    process = FORKS.Process(target=_begin, args=(given,))
    process.start()
    return process


def _made_ready() -> Connection:
    """Start a process that is ready to judge, and return the pipe to it. It ends when the pipe is closed."""
    here, there = FORKS.Pipe()
    FORKS.Process(target=_serve, args=(there,)).start()
    there.close()
    # Python waits for processes before it would close the pipe by itself
    atexit.register(here.close)
    return here


def _serve(commands: Connection) -> None:
    """Do once what every process that judges does first, two seconds each; then run commands."""
    single_threaded()
    preload(choose_device("cpu"))
    gc.freeze()
    _run(commands)


def _run(commands: Connection) -> None:
    """Run commands, one at a time, until none can come."""
    while True:
        try:
            given: Given = commands.recv()
        except EOFError:
            return
        process = _FORK.Process(target=_begin, args=(given,))
        process.start()
        commands.send(process.pid)
        process.join()
        commands.send(process.exitcode)


def started(folder: Path, *arguments: str, ready: bool = False, **variables: str) -> Command:
    """Start a command as ``python`` would: a script, ``-m`` and a module, or ``-c`` and code, and arguments."""
    return Command(folder, arguments, _environment(variables), ready=ready)


def ran(
    folder: Path, *arguments: str, timeout: float = 300.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Return the end of a command, as :func:`started` starts it."""
    return Command(folder, arguments, _environment(variables)).ended(timeout)


def judged(
    folder: Path,
    *arguments: str,
    timeout: float = 300.0,
    nested: bool = False,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Return the end of a command that judges: what it, or a process of it, would import and prove is there."""
    environment = _environment(variables)
    command = Command(folder, arguments, environment, ready=True, nested=nested)
    return command.ended(timeout)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    return {**outside, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **variables}


def ran_alone(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return the end of Python code that ran in an empty folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "folder"
        folder.mkdir()
        return Command(folder, ("-c", code, *arguments), _environment(variables)).ended(timeout=300)


def _begin(given: Given) -> None:
    """Make this process that of a command, and run it."""
    os.setsid()
    os.chdir(given.folder)
    os.environ.clear()
    os.environ.update(given.environment)
    for number, path in enumerate(given.output, start=1):
        with path.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    # Ctrl-C reaches a command also if the tests run in the background, where it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, *rest = given.arguments
    first = {"-c": "", "-m": str(given.folder)}.get(kind, str((given.folder / kind).parent))
    sys.path[:] = [first, str(ROOT), *sys.path[1:]]
    sys.argv = {"-c": ["-c", *rest[1:]], "-m": rest}.get(kind, [kind, *rest])
    if given.nested:
        forked.commands(_run)
    if kind == "-c":
        exec(compile(rest[0], "-c", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own code
    elif kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(kind, run_name="__main__")


def gone(group: int) -> bool:
    """Return whether a command's group has no process left, not even one that the system has yet to bury."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
