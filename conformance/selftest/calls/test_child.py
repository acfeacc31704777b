"""A child that dies or hangs loses one answer; the next question is answered normally."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.adapter import Crashed, Hung
from conformance.calls.budget import fair_memory
from conformance.calls.child import Child, Prepared, Unprepared, begin

HOARD: list[bytes] = []  # in the child
PREPARED: list[int] = []  # in the child: the process that prepared


def _work(question: str) -> str:
    match question:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "astray":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "take your time":
            for _ in range(8):
                begin()
                time.sleep(0.2)
            return "done"
        case "hang later":
            begin()
            time.sleep(0.2)
            begin()
            time.sleep(60)
        case "hang":
            time.sleep(60)
        case "hang up":
            os.closerange(3, 200)
            time.sleep(60)
        case "end the host":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case "hoard":
            HOARD.append(b"x" * 2**26)
        case "reserve":
            mmap.mmap(-1, 2**34, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
        case "hoard for ever":
            while True:
                HOARD.append(b"x" * 2**24)
        case "raise":
            raise ValueError("no such thing")
        case "print":
            sys.stdout.write("said in Python\n")
            os.write(2, b"said without it\n")
    return f"{question}, prepared by {PREPARED}, said {os.getpid()}"


def _prepare() -> Prepared[str, str, str]:
    PREPARED.append(os.getpid())
    return Prepared("hello", _work)


def _prepare_with_a_thread() -> Prepared[str, str, str]:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return _prepare()


PREPARATIONS = [_prepare, _prepare_with_a_thread]
Questions = Child[str, str, str]


@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_answers_come_from_one_child(prepare: Callable[[], Prepared[str, str, str]]) -> None:
    """The child is started once and is not this process."""
    child = Questions(prepare, 10.0)
    first, second = child.ask("a"), child.ask("b")
    child.close()

    assert isinstance(first, str)
    assert isinstance(second, str)
    assert first.split()[-1] == second.split()[-1] != str(os.getpid())
    assert (1, 1) == (child.restarts, child.imports)
    assert [] == PREPARED


@pytest.mark.parametrize("prepare", PREPARATIONS)
@pytest.mark.parametrize(
    ("question", "how"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("astray", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("exit", "ended itself with status 7"),
    ],
)
def test_a_death_is_reported_and_survived(
    question: str, how: str, prepare: Callable[[], Prepared[str, str, str]]
) -> None:
    """The answer names the process's end and place; a fresh process gives the next answer."""
    child = Questions(prepare, 10.0)
    died, again = child.ask(question), child.ask("again")
    child.close()
    where = " at conformance/selftest/calls/test_child.py:" if how.startswith("killed") else ""

    assert isinstance(died, Crashed)
    assert died.how.startswith(f"{how}{where}")
    assert not where or died.how.endswith(", in _work")
    assert isinstance(again, str)


def test_a_fork_does_not_prepare_again() -> None:
    """A process with its own thread cannot be forked: after its death another process prepares."""
    forks, prepares = Questions(_prepare, 10.0), Questions(_prepare_with_a_thread, 10.0)
    for child in (forks, prepares):
        child.ask("exit")
        child.ask("again")
        child.close()

    assert (2, 1) == (forks.restarts, forks.imports)
    assert (2, 2) == (prepares.restarts, prepares.imports)


@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_each_part_of_an_answer_has_its_time(prepare: Callable[[], Prepared[str, str, str]]) -> None:
    """Many calls take longer than a limit, and none of them hangs; one that does is found in its own time."""
    child = Questions(prepare, 0.8)

    assert "done" == child.ask("take your time")
    began = time.monotonic()
    assert Hung(0.8) == child.ask("hang later")
    assert time.monotonic() - began < 10.0
    child.close()


@pytest.mark.parametrize("question", ["hang up", "end the host"])
def test_a_child_that_cuts_its_pipe_is_replaced(question: str) -> None:
    """A child is replaced if it closes its pipe and lives on, or ends the process that it was forked from."""
    child = Questions(_prepare, 10.0)
    cut, again = child.ask(question), child.ask("again")
    child.close()

    assert Crashed("killed by SIGKILL") == cut
    assert isinstance(again, str)


@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_a_hang_is_killed_in_time(prepare: Callable[[], Prepared[str, str, str]]) -> None:
    """Past the limit the child is killed, and the next question is answered."""
    child = Questions(prepare, 0.3)
    began = time.monotonic()

    assert Hung(0.3) == child.ask("hang")
    assert time.monotonic() - began < 5
    assert isinstance(child.ask("again"), str)
    child.close()


def test_closing_leaves_no_process() -> None:
    """Neither the answering process nor its parent is left, even if both hang."""
    child = Questions(_prepare, 0.1)
    pids = [int(str(child.ask("a")).split()[-1])]
    assert child._host is not None
    pids.append(child._host.pid or 0)
    child.close()

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_child_that_takes_too_much_memory_is_ended() -> None:
    """The child is killed before it answers, and the next one starts with none of its memory."""
    child = Questions(_prepare, 60.0, memory=2**29)

    assert isinstance(child.ask("before"), str)
    assert Crashed("held more than 0.5 GiB of memory") == child.ask("hoard for ever")
    assert isinstance(child.ask("again"), str)
    assert child.restarts == 2
    child.close()


def test_memory_that_answers_leave_behind_adds_up() -> None:
    """Small leaks of several questions reach the limit, although each question is answered immediately."""
    child = Questions(_prepare, 60.0, memory=2**29)
    answers = [child.ask("hoard") for _ in range(9)]
    child.close()

    assert isinstance(answers[0], str)
    assert 1 == answers.count(Crashed("held more than 0.5 GiB of memory"))


def test_address_space_that_is_only_reserved_is_no_memory() -> None:
    """A sparse buffer of many GiB, as for large offsets, counts only the touched memory."""
    child = Questions(_prepare, 60.0, memory=2**29)

    assert isinstance(child.ask("reserve"), str)
    assert child.restarts == 1
    child.close()


def test_workers_share_the_memory_of_the_machine() -> None:
    """All workers together leave a part of it to other processes."""
    assert 0 < 8 * fair_memory(8) <= fair_memory(1) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def test_an_exception_of_the_work_is_raised_here() -> None:
    """An error in the suite's own code is not a verdict on an implementation."""
    child = Questions(_prepare, 10.0)
    with pytest.raises(ValueError, match="no such thing"):
        child.ask("raise")
    child.close()


def test_an_unhealthy_child_is_replaced() -> None:
    """The answer is kept, and a process that cannot be trusted gets no more questions."""
    child = Questions(lambda: Prepared("hello", _work, lambda: False), 10.0)
    first, second = child.ask("a"), child.ask("b")
    child.close()

    assert isinstance(first, str)
    assert isinstance(second, str)
    assert first.split()[-1] != second.split()[-1]
    assert child.restarts == 2


# --- preparing ----------------------------------------------------------------------------------------------


def _exits() -> Prepared[str, str, str]:
    os._exit(0)


def _sleeps() -> Prepared[str, str, str]:
    time.sleep(60)
    return _prepare()


def _raises() -> Prepared[str, str, str]:
    raise LookupError("no such adapter")


def _leaves() -> Prepared[str, str, str]:
    sys.exit(0)


@pytest.mark.parametrize(
    ("prepare", "error", "said"),
    [
        (_exits, Unprepared, "ended itself with status 0"),
        (_sleeps, Unprepared, "took more than 0.3 s"),
        (_raises, LookupError, "no such adapter"),
        (_leaves, SystemExit, "0"),
    ],
)
def test_a_process_that_cannot_prepare_says_so(
    prepare: Callable[[], Prepared[str, str, str]], error: type[BaseException], said: str
) -> None:
    """The asking process receives the other one's end, timeout or exception."""
    child = Questions(prepare, 10.0, start=0.3)
    with pytest.raises(error, match=said):
        child.greeting()
    child.close()


def test_what_is_printed_goes_into_a_file_once_there_is_something(tmp_path: Path) -> None:
    """Output of Python and of C goes to a file, not to this process's streams; a silent child makes no file."""
    log = tmp_path / "output.log"
    child = Questions(_prepare, 10.0, log=log)
    child.ask("a")
    silent = not log.exists()
    child.ask("print")
    child.ask("exit")
    child.ask("print")
    child.close()

    assert silent
    assert 2 * "said in Python\nsaid without it\n" == log.read_text(encoding="utf-8")
    assert "said without it" == child.printed()
