"""Child processes for work that may crash or hang: either costs one answer, and nothing else.

A *host* is forked from this process, which stays clean: only the host prepares (it imports an implementation),
and sends a greeting. If the host then has a single thread and no GPU, it forks a *judge* that answers; after
a crash or a hang the host forks another judge for the next question (14 ms). Otherwise the host answers itself,
and a fresh host prepares again after a crash. Questions go over a pipe (0.1 ms).

Fork is only safe while this process runs no threads of its own: :func:`single_threaded` comes before its first
tensor operation, and it never touches the GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch

from conformance.adapter import Crashed, Hung
from conformance.calls.budget import gib
from conformance.calls.location import of_fault
from conformance.calls.patience import Patience

Greeting = TypeVar("Greeting")
Question = TypeVar("Question")
Answer = TypeVar("Answer")

START = 300.0  # seconds that preparing may take: libraries compile while they are imported
_FORK = multiprocessing.get_context("fork")
_GLANCE = 0.25  # seconds between two checks of the memory of a process that has not answered yet
LINE = 4096  # bytes at the end of the output that are searched for its last line
_DYING = 5.0  # seconds that a process whose pipe is closed may still take to end
ROOM = 70_000  # entries of a frame: its chunk then has 1 MiB, and nearly half of that is left
_PARENT_DIED = 1  # PR_SET_PDEATHSIG
_DEVICES = re.compile(r"/dev/(?:nvidia|kfd|dri/)")


def single_threaded() -> None:
    """Keep torch from starting threads: a child forked after a parallel region never returns."""
    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Greeting, Question, Answer]):
    """A prepared process: its greeting, its answering function, and a check for use after an answer."""

    greeting: Greeting
    work: Callable[[Question], Answer]
    healthy: Callable[[], bool] = lambda: True


class Unprepared(Exception):
    """Raised where a process ended, or did not end, while it prepared. The message says how."""


class _Spool:
    """An unnamed file that child processes write, and that this process reads."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.number)

    def size(self) -> int:
        """Return the number of bytes written."""
        return os.fstat(self.number).st_size

    def read(self, start: int = 0) -> bytes:
        """Return the bytes from ``start`` on, at most 1 MiB."""
        return os.pread(self.number, 2**20, start)

    def empty(self) -> None:
        """Drop the content. All processes share one write position."""
        os.ftruncate(self.number, 0)
        os.lseek(self.number, 0, os.SEEK_SET)


@dataclass(slots=True, eq=False)
class Child(Generic[Greeting, Question, Answer]):
    """A process that prepares, and then answers questions.

    ``limit`` is in seconds a question, anew for each of its parts (:func:`begin`), ``start`` in seconds for
    preparing. ``memory`` is the limit on physical memory, in bytes, that answering may add to the process:
    address space would also count the reserved part of a sparse buffer, and the mappings of a GPU's driver.
    ``log`` receives the output of the process, if there is any.
    """

    prepare: Callable[[], Prepared[Greeting, Question, Answer]]
    limit: float
    memory: int | None = None
    start: float = START
    log: Path | None = None
    restarts: int = field(default=0, init=False)  # processes that answered
    imports: int = field(default=0, init=False)  # processes that prepared
    _host: ForkProcess | None = field(default=None, init=False)
    _control: Connection | None = field(default=None, init=False)
    _greeting: tuple[Greeting, bool] | None = field(default=None, init=False)
    _judge: int | None = field(default=None, init=False)  # the process that answers
    _pipe: Connection | None = field(default=None, init=False)  # pipe to the judge
    _inherited: int = field(default=0, init=False)  # bytes that the judge began with
    _printed: _Spool = field(default_factory=_Spool, init=False)
    _faults: _Spool = field(default_factory=_Spool, init=False)
    _parts: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, mmap.PAGESIZE), init=False)  # shared: a count
    _kept: int = field(default=0, init=False)  # bytes of the output that are in the log

    def greeting(self) -> Greeting:
        """Return the greeting of the prepared process. Raises the exception of preparing, or ``Unprepared``."""
        return self._greeted()[0]

    def ask(self, question: Question, limit: float | None = None) -> Answer | Crashed | Hung:
        """Return the answer, or the outcome of the process instead. An exception of ``work`` is raised here."""
        try:
            pipe = self._started()
        except Exception as error:  # noqa: BLE001 - preparing may raise anything
            return Crashed(f"could not be prepared again: {error}")
        try:
            pipe.send(question)
            instead = self._waited(pipe, limit or self.limit, self._judge)
            if instead is None:
                alive, answer = pipe.recv()
                instead = self._greedy(self._judge)
        except (EOFError, OSError):
            return Crashed(self._buried())
        if instead is not None:
            self._kill()
            return instead
        self._keep_printed()
        if not alive:
            self._kill()
        if isinstance(answer, BaseException):
            raise answer
        result: Answer = answer
        return result

    def printed(self) -> str:
        """Return the last line that the process printed, or nothing."""
        end = self._printed.read(max(0, self._printed.size() - LINE)).decode(errors="replace")
        return next((line.strip() for line in reversed(end.split("\n")) if line.strip()), "")

    def close(self) -> None:
        """End all processes, even while they work."""
        self._kill()
        if self._host is not None:
            self._host.kill()
            self._ended()

    def _greeted(self) -> tuple[Greeting, bool]:
        """Return the greeting of the running host, and whether it forks; start a host where none runs."""
        if self._greeting is not None and self._host is not None:
            return self._greeting
        self._control, theirs = _FORK.Pipe()
        given = self._parts, self._printed.number, self._faults.number
        self._host = _FORK.Process(target=_serve_host, args=(theirs, self._control, self.prepare, *given))
        self._host.daemon = True
        self._inherited = resident(os.getpid())
        self._host.start()
        self.imports += 1
        theirs.close()
        try:
            instead = self._waited(self._control, self.start, self._host.pid)
            found: Any = self._control.recv() if instead is None else None
        except (EOFError, OSError):
            raise Unprepared(self._ended()) from None
        except Exception as error:  # reading an object of a class that only the host has may raise anything
            self.close()
            raise Unprepared(f"said what no other process can read ({error})") from error
        self._keep_printed()
        if instead is not None or isinstance(found, BaseException):
            self._host.kill()
            self._ended()
            if isinstance(found, BaseException):
                raise found
            raise Unprepared(f"took more than {self.start:g} s" if isinstance(instead, Hung) else str(instead))
        greeted: tuple[Greeting, bool] = found
        self._greeting = greeted
        return greeted

    def _started(self) -> Connection:
        """Return the pipe to the process that answers; start that process where none runs."""
        if self._pipe is not None:
            return self._pipe
        for _ in range(2):
            _, forks = self._greeted()
            assert self._host is not None
            assert self._control is not None
            self._inherited = resident(self._host.pid)
            try:
                if forks:
                    self._control.send("judge")
                    self._pipe = Connection(recv_handle(self._control))
                    self._judge = self._control.recv()
                else:
                    self._judge, self._pipe = self._host.pid, self._control
            except (EOFError, OSError):
                # a judge may have ended the process that it was forked from
                self.close()
                continue
            self.restarts += 1
            return self._pipe
        raise Unprepared("it ends as soon as it is prepared")

    def _waited(self, pipe: Connection, limit: float, pid: int | None) -> Crashed | Hung | None:
        """Wait for an answer; return the outcome instead if the time or memory limit is exceeded."""
        patience, left, part = Patience(pid, limit), limit, self._parts[0]
        while not pipe.poll(min(_GLANCE, left)):
            if part != self._parts[0]:
                patience, part = Patience(pid, limit), self._parts[0]
            left = patience.left()
            if not left:
                return Hung(limit)
            greedy = self._greedy(pid)
            if greedy:
                return greedy
        return None

    def _greedy(self, pid: int | None) -> Crashed | None:
        """Return the outcome of a process over its limit: the system would refuse memory to another process."""
        if self.memory is None or resident(pid) - self._inherited <= self.memory:
            return None
        return Crashed(f"held more than {gib(self.memory)} of memory")

    def _kill(self) -> None:
        """End the process that answers."""
        if self._judge is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._judge, signal.SIGKILL)
            self._buried()

    def _buried(self) -> str:
        """Drop the process that answers, which is ending, and return how it ended, in words."""
        judge, control, pipe = self._judge, self._control, self._pipe
        self._judge = self._pipe = None
        if judge is None or control is None or pipe is None or pipe is control:
            return self._ended()
        pipe.close()
        try:
            if not control.poll(_DYING):
                # the judge closed its pipe, but still runs
                os.kill(judge, signal.SIGKILL)
            code = control.recv()
        except (EOFError, OSError):
            return self._ended()
        return self._said_of(code)

    def _ended(self) -> str:
        """Drop the host, which is ending, and return how it ended, in words."""
        host, self._host, self._greeting = self._host, None, None
        if self._control is not None:
            self._control.close()
            self._control = None
        if host is None:
            return "ended"
        host.join(_DYING)
        host.kill()
        host.join()
        code = host.exitcode or 0
        host.close()
        return self._said_of(code)

    def _said_of(self, code: int) -> str:
        """Return how a process with this exit code ended, and the place in the source if Python reported it."""
        self._keep_printed()
        place = of_fault(self._faults.read().decode(errors="replace"))
        self._faults.empty()
        if code >= 0:
            return f"ended itself with status {code}"
        return f"killed by {signal.Signals(-code).name}{f' at {place}' if place else ''}"

    def _keep_printed(self) -> None:
        """Append new output to the log."""
        if self.log is None or self._printed.size() <= self._kept:
            return
        with self.log.open("ab") as log:
            while part := self._printed.read(self._kept):
                self._kept += log.write(part)


def resident(pid: int | None) -> int:
    """Return the physical memory of a process in bytes, without files; zero where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


# --- in the processes that were forked ----------------------------------------------------------------------

# The count of begun parts that the parent looks at; None where this process answers no one.
_parts: mmap.mmap | None = None


def begin() -> None:
    """Begin a part of the answer, such as a call, which has the time of a whole question."""
    if _parts is not None:
        _parts[0] = (_parts[0] + 1) % 256


def _serve_host(
    control: Connection,
    parents_end: Connection,
    prepare: Callable[[], Prepared[Greeting, Question, Answer]],
    parts: mmap.mmap,
    printed: int,
    faults: int,
) -> None:
    """Prepare, send the greeting, and answer or fork processes that answer, until the parent hangs up."""
    global _parts  # noqa: PLW0603 - one for each process
    _parts = parts
    parents_end.close()
    die_with_the_parent()
    # the parent decides about Ctrl-C and about being ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _print_to(printed)
    faulthandler.enable(faults, all_threads=False)
    # renews the thread pool, which does not survive a fork: otherwise the first of several threads that compute at
    # once renews it, and another thread may find none
    single_threaded()
    try:
        prepared = prepare()
    except BaseException as error:  # noqa: BLE001 - carried to the parent, which raises it
        control.send(error)
        os._exit(0)
    forks = _forkable()
    control.send((prepared.greeting, forks))
    # modules are a million objects, which no answer has to search for garbage
    gc.freeze()
    if not forks:
        _answer(control, prepared)
    while True:
        try:
            control.recv()
        except EOFError:
            os._exit(0)
        ours, theirs = _FORK.Pipe()
        _flush()
        judge = os.fork()
        if judge == 0:
            control.close()
            ours.close()
            die_with_the_parent()
            single_threaded()
            _answer(theirs, prepared)
        theirs.close()
        send_handle(control, ours.fileno(), os.getppid())
        ours.close()
        control.send(judge)
        _, status = os.waitpid(judge, 0)
        control.send(os.waitstatus_to_exitcode(status))


def _roomy(function: Callable[[], Answer]) -> Answer:
    """Call a function with memory for the frames of all its calls.

    CPython keeps frames in chunks of 16 KiB, and returns a chunk to the system as soon as it is left: a loop whose
    calls cross the end of a chunk maps and clears memory at each of them. A frame that needs more gets a larger
    chunk, and the calls inside use the rest of it.
    """
    return function()


_roomy.__code__ = _roomy.__code__.replace(co_stacksize=ROOM)


def _answer(pipe: Connection, prepared: Prepared[Any, Question, Answer]) -> NoReturn:
    """Answer until the parent hangs up, or until this process can no longer be trusted."""
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            os._exit(0)
        answer: Answer | BaseException
        try:
            answer = _roomy(partial(prepared.work, question))
        except BaseException as error:  # noqa: BLE001 - carried to the parent, which raises it
            answer = error
        fit = prepared.healthy()
        _flush()
        pipe.send((fit, answer))
        if not fit:
            os._exit(0)


def _forkable() -> bool:
    """Return whether a fork of this process works as the process does: it has one thread, and no GPU."""
    tasks, files = Path("/proc/self/task"), Path("/proc/self/fd")
    if torch.cuda.is_initialized() or len(list(tasks.iterdir())) != 1:  # type: ignore[no-untyped-call]
        return False
    opened = []
    for number in list(files.iterdir()):
        with contextlib.suppress(OSError):  # the folder's own
            opened.append(str(number.readlink()))
    return not any(map(_DEVICES.match, opened))


def die_with_the_parent() -> None:
    """Have the system end this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)


def _print_to(file: int) -> None:
    """Redirect all output of this process, Python's and other, to an open file."""
    for number in (1, 2):
        os.dup2(file, number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115 - for as long as this process lives
            number, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _flush() -> None:
    """Write out the output that Python still buffers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # an implementation may have closed or replaced it
            stream.flush()
