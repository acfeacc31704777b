"""A child that dies or hangs costs one answer; the next question is answered as if nothing had been."""

import os
import signal
import time

import pytest

from conformance.adapter import Crashed, Hung
from conformance.attempt import Child


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
