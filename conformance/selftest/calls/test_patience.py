"""A process that waits for a processor has more time; one that waits for anything else has not."""

from __future__ import annotations

import os
import time

import pytest

from conformance.calls import patience
from conformance.calls.patience import Patience, progress

LIMIT, STEP = 2.0, 0.25


def _seconds(monkeypatch: pytest.MonkeyPatch, state: str, share: float) -> float:
    """Return the seconds on the wall until the time of a process is over that has a share of a processor."""
    passed = [100.0]
    monkeypatch.setattr(patience, "progress", lambda pid: (state, share * passed[0]))
    monkeypatch.setattr("conformance.calls.patience.time.monotonic", lambda: passed[0])
    clock = Patience(1, LIMIT)
    while clock.left():
        passed[0] += STEP
    return passed[0] - 100.0


@pytest.mark.parametrize(
    ("state", "share", "most"),
    [("R", 1.0, LIMIT), ("S", 0.0, LIMIT), ("D", 0.0, LIMIT), ("", 0.0, LIMIT), ("R", 0.0, 20 * LIMIT)],
)
def test_a_hang_is_one_in_time(monkeypatch: pytest.MonkeyPatch, state: str, share: float, most: float) -> None:
    """One that computes and one that waits end at the limit; one that never runs is given up."""
    assert most <= _seconds(monkeypatch, state, share) <= most + STEP


def test_a_busy_machine_makes_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fifth of a processor a process has five times the time, but for ticks of the clock."""
    assert 4.0 * LIMIT < _seconds(monkeypatch, "R", 0.2) <= 5.0 * LIMIT + STEP


def test_the_system_tells_what_a_process_did() -> None:
    """This process runs, and its time on a processor grows; of no process nothing is known."""
    state, before = progress(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass

    assert "R" == state
    assert 0.02 < progress(os.getpid())[1] - before
    assert ("", 0.0) == progress(None)
