"""A child that dies or hangs costs one answer; the next question is answered as if nothing had been."""

import mmap
import os
import signal
import time

import pytest

from conformance.adapter import Crashed, Hung
from conformance.attempt import Child
from conformance.budget import fair_memory

HOARD: list[bytes] = []  # in the child


def _work(question: str) -> str:
    match question:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "hang":
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
    return f"{question}, said {os.getpid()}"


def test_answers_come_from_one_child() -> None:
    """The child is forked once and is not this process."""
    child = Child(_work, 10.0)
    first, second = child.ask("a"), child.ask("b")
    child.close()

    assert isinstance(first, str)
    assert isinstance(second, str)
    assert first.split()[-1] == second.split()[-1] != str(os.getpid())
    assert child.restarts == 1


@pytest.mark.parametrize(
    ("question", "how"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("exit", "ended itself with status 7"),
    ],
)
def test_a_death_is_reported_and_survived(question: str, how: str) -> None:
    """The answer says how the process ended; the next one comes from a fresh process."""
    child = Child(_work, 10.0)

    assert Crashed(how) == child.ask(question)
    assert isinstance(child.ask("again"), str)
    child.close()


def test_a_hang_is_killed_in_time() -> None:
    """Past the limit the child is killed, and the next question is answered."""
    child = Child(_work, 0.3)
    begin = time.monotonic()

    assert Hung(0.3) == child.ask("hang")
    assert time.monotonic() - begin < 5
    assert isinstance(child.ask("again"), str)
    child.close()


def test_a_child_that_takes_too_much_memory_is_ended() -> None:
    """Without waiting for its answer, and the next one begins with nothing of it."""
    child = Child(_work, 60.0, memory=2**29)

    assert isinstance(child.ask("before"), str)
    assert Crashed("held more than 0.5 GiB of memory") == child.ask("hoard for ever")
    assert isinstance(child.ask("again"), str)
    assert child.restarts == 2
    child.close()


def test_memory_that_answers_leave_behind_adds_up() -> None:
    """A little at each question is too much after some, although every one is answered at once."""
    child = Child(_work, 60.0, memory=2**29)
    answers = [child.ask("hoard") for _ in range(9)]
    child.close()

    assert isinstance(answers[0], str)
    assert 1 == answers.count(Crashed("held more than 0.5 GiB of memory"))


def test_address_space_that_is_only_reserved_is_no_memory() -> None:
    """A sparse buffer of many GiB, as of large offsets, is the size of what is touched."""
    child = Child(_work, 60.0, memory=2**29)

    assert isinstance(child.ask("reserve"), str)
    assert child.restarts == 1
    child.close()


def test_workers_share_the_memory_of_the_machine() -> None:
    """All of them together leave a part of it to everybody else."""
    assert 0 < 8 * fair_memory(8) <= fair_memory(1) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def test_an_exception_of_the_work_is_raised_here() -> None:
    """What goes wrong in the suite's own code is no verdict on anybody."""
    child = Child(_work, 10.0)
    with pytest.raises(ValueError, match="no such thing"):
        child.ask("raise")
    child.close()


def test_an_unhealthy_child_is_replaced() -> None:
    """An answer is kept, and the process that can no longer be trusted is not asked again."""
    child = Child(_work, 10.0, healthy=lambda: False)
    first, second = child.ask("a"), child.ask("b")

    assert isinstance(first, str)
    assert isinstance(second, str)
    assert first.split()[-1] != second.split()[-1]
    assert child.restarts == 2
