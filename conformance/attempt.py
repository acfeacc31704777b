"""Runs work in a child process that may die: a crash or a hang costs one answer, and nothing else.

The child is forked once and asked over a pipe (0.1 ms), so it has the parent's imports; after a crash or a hang
the next question forks a fresh one (14 ms). Fork is only safe while the parent runs no threads of its own:
:func:`single_threaded` comes before its first tensor operation, and the parent never touches the GPU.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Generic, TypeVar

import torch

from conformance.adapter import Crashed, Hung
from conformance.budget import gib

Question = TypeVar("Question")
Answer = TypeVar("Answer")

_FORK = multiprocessing.get_context("fork")
_GLANCE = 0.25  # seconds between two looks at the memory of a process that has not answered yet


def single_threaded() -> None:
    """Keep torch from starting threads: a child forked after a parallel region never returns."""
    torch.set_num_threads(1)


@dataclass(slots=True, eq=False)
class Child(Generic[Question, Answer]):
    """A process that answers questions with ``work``.

    ``limit`` is in seconds a question; ``healthy`` says, after each, whether the process can go on: a GPU
    context may be beyond use although the process lives. ``memory`` is what it may add to what it began with, in
    bytes of physical memory: address space would also count what a sparse buffer only reserves, and what a GPU's
    driver maps.
    """

    work: Callable[[Question], Answer]
    limit: float
    healthy: Callable[[], bool] = lambda: True
    memory: int | None = None
    restarts: int = 0
    _process: ForkProcess | None = field(default=None, init=False)
    _pipe: Connection | None = field(default=None, init=False)
    _inherited: int = field(default=0, init=False)  # bytes that a new child shares with its parent

    def ask(self, question: Question, limit: float | None = None) -> Answer | Crashed | Hung:
        """The answer, or what became of the process instead. An exception of ``work`` itself is raised here."""
        pipe = self._started()
        try:
            pipe.send(question)
            instead = self._waited(pipe, limit or self.limit)
            if instead is None:
                alive, answer = pipe.recv()
                instead = self._greedy()
        except (EOFError, OSError):
            return Crashed(self._buried())
        if instead is not None:
            self.close()
            return instead
        if not alive:
            self.close()
        if isinstance(answer, Exception):
            raise answer
        result: Answer = answer
        return result

    def _waited(self, pipe: Connection, limit: float) -> Crashed | Hung | None:
        """Wait for an answer; what takes its place where none came in time, or waiting became dangerous."""
        until = time.monotonic() + limit
        while not pipe.poll(max(0.0, min(_GLANCE, until - time.monotonic()))):
            if time.monotonic() >= until:
                return Hung(limit)
            greedy = self._greedy()
            if greedy:
                return greedy
        return None

    def _greedy(self) -> Crashed | None:
        """What a process that holds too much is ended for: the next to ask for memory may be somebody else."""
        if self.memory is None or self._process is None:
            return None
        if _resident(self._process.pid) - self._inherited <= self.memory:
            return None
        return Crashed(f"held more than {gib(self.memory)} of memory")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._buried()

    def _started(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        if self._process is not None:
            self._buried()
        ours, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(theirs, ours, self.work, self.healthy), daemon=True)
        self._inherited = _resident(os.getpid())
        self._process.start()
        theirs.close()
        self._pipe = ours
        self.restarts += 1
        return ours

    def _buried(self) -> str:
        """How the process ended, in words."""
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is None:
            return "ended"
        process.join()
        code = process.exitcode or 0
        process.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended itself with status {code}"


def _resident(pid: int | None) -> int:
    """The physical memory of a process in bytes, files aside; nothing where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _serve(
    pipe: Connection, parents_end: Connection, work: Callable[[Question], Answer], healthy: Callable[[], bool]
) -> None:
    """Answer until the parent hangs up."""
    parents_end.close()
    # the parent decides about Ctrl-C; pytest's fault handler would print a stack for every expected crash
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    # renews the thread pool, which does not outlive a fork: of several threads that begin to compute at once
    # one renews it otherwise, and another may find none
    single_threaded()
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            os._exit(0)
        answer: Answer | Exception
        try:
            answer = work(question)
        except Exception as error:  # noqa: BLE001 - carried to the parent, which raises it
            answer = error
        fit = healthy()
        pipe.send((fit, answer))
        if not fit:
            os._exit(0)
