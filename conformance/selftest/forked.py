"""Commands that a command runs with ``subprocess.run``, forked as it begins, with what it has imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Given:
    """A command: its folder, files for its output and errors, arguments of Python, and environment.

    Where it is ``nested`` its own commands are forked, too.
    """

    folder: Path
    output: Sequence[Path]
    arguments: Sequence[str]
    environment: dict[str, str]
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
