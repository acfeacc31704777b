"""Processes that a command would start, forked as it begins, with what it has imported and proven.

A worker of pytest-xdist imports torch, and the process of the adapter under it proves the interpreter again: five
seconds each. Here xdist finds processes that wait to become workers, and sends them what it sends a new Python.
What a command runs with ``subprocess.run`` is forked in the same way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from execnet import XSpec, gateway_base, gateway_io

_IDLE: list[_Process] = []  # those that wait, in the process of a command


@dataclass(frozen=True, slots=True)
class _Process:
    """A process, and this process's ends of the pipes that are its standard input and output."""

    pid: int
    given: int
    said: int


class _Worker(gateway_base.Popen2IO):
    """A waiting process that is taken, in the form in which execnet holds one that it started."""

    def __init__(self, process: _Process, execmodel: gateway_base.ExecModel) -> None:
        self._pid = process.pid
        super().__init__(os.fdopen(process.given, "wb"), os.fdopen(process.said, "rb"), execmodel=execmodel)

    def wait(self) -> None:
        """Wait for the end, unless another thread did."""
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def kill(self) -> None:
        """End the process, whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)


def workers(count: int) -> None:
    """Fork workers of this process, which has one thread yet, and have xdist take them before it starts others."""
    start = gateway_io.create_io

    def taken(spec: XSpec, execmodel: gateway_base.ExecModel) -> _Worker | gateway_io.Popen2IOMaster:
        return _Worker(_IDLE.pop(0), execmodel) if _IDLE else start(spec, execmodel)

    gateway_io.create_io = taken  # type: ignore[assignment]  # execnet needs wait and kill of it
    for _ in range(count):
        (given, write), (read, said) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            # another worker's pipe would otherwise stay open after the command has ended
            for number in (write, read, *(end for other in _IDLE for end in (other.given, other.said))):
                os.close(number)
            _become(given, said)
        os.close(given)
        os.close(said)
        _IDLE.append(_Process(pid, write, read))


def _become(given: int, said: int) -> None:
    """Run what execnet sends as the first line, as the Python that it would start does; end without one."""
    for number, end in enumerate((given, said)):
        os.dup2(end, number)
        os.close(end)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    line = sys.stdin.readline()
    if line:
        exec(eval(line), {"__name__": "__main__"})  # noqa: S102, S307 - execnet's own protocol
    sys.exit()


# --- commands of a command ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """A command: its folder, files for its output and errors, arguments of Python, and environment.

    ``workers`` of xdist are forked for it, and its own commands where it is ``nested``.
    """

    folder: Path
    output: Sequence[Path]
    arguments: Sequence[str]
    environment: dict[str, str]
    workers: int = 0
    nested: bool = False


def commands(serve: Callable[[Connection], None]) -> None:
    """Fork a process that runs commands, and have ``subprocess.run`` send it those of this process for Python."""
    here, there = Pipe()
    if os.fork() == 0:
        here.close()
        serve(there)
        sys.exit()
    there.close()
    start, one = subprocess.run, threading.Lock()

    def ran(command: Sequence[str], *, cwd: str = ".", **how: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != sys.executable:
            return start(command, cwd=cwd, **how)
        with tempfile.TemporaryDirectory() as place, one:
            output = [Path(place, name) for name in ("out", "err")]
            here.send(Given(Path(cwd).resolve(), output, command[1:], dict(os.environ)))
            here.recv()
            status = here.recv()
            said = [path.read_text(encoding="utf-8") for path in output]
        return subprocess.CompletedProcess(command, status, *said)

    subprocess.run = ran  # type: ignore[assignment]  # of the forms of calls, that which the suite has
