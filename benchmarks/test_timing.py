"""The clocks: order and number of timings, and the handling of calls that cannot be timed."""

from __future__ import annotations

import functools
import time
from collections import Counter

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Timing, Uncapturable, device_times, host_times, summary

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _call() -> torch.Tensor:
    return torch.ones(8, device=DEVICE) + 1


def test_the_middle_and_the_quarters_of_all_rounds_are_kept() -> None:
    """Half of the rounds are between both quartiles."""
    assert Timing(3.0, 2.0, 4.0, 5) == summary([5.0, 1.0, 3.0, 2.0, 4.0])
    assert Timing(7.0, 7.0, 7.0, 1) == summary([7.0])


def test_everybody_is_timed_as_often() -> None:
    """Device and host times have a timing for each name, over the requested number of rounds."""
    on_device = device_times({"a": [_call] * 3, "b": [_call]}, rounds=4)
    on_host = host_times({"a": _call, "b": _call}, rounds=5)

    assert {"a": 4, "b": 4} == {name: found.rounds for name, found in on_device.items()}
    assert {"a": 5, "b": 5} == {name: found.rounds for name, found in on_host.items()}
    assert all(found.median > 0 for found in (*on_device.values(), *on_host.values()))


def test_rounds_are_interleaved_in_other_orders() -> None:
    """Each name runs once a round, at changing places."""
    seen: list[str] = []
    clocks = {name: functools.partial(_noted, seen, name) for name in "abc"}

    timing._interleaved(clocks, 12)

    rounds = [tuple(seen[start : start + 3]) for start in range(0, len(seen), 3)]
    assert all(Counter("abc") == Counter(one) for one in rounds)
    assert len(set(rounds)) > 1


def test_who_is_slow_has_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow call still has enough rounds for a median; the others have all of theirs."""

    def slow() -> float:
        time.sleep(0.01)
        return 1.0

    monkeypatch.setattr(timing, "PATIENCE", 0.05)
    found = timing._interleaved({"slow": slow, "quick": lambda: 1.0}, 40)

    assert {"slow": timing.FEWEST, "quick": 40} == {name: times.rounds for name, times in found.items()}


def _noted(seen: list[str], name: str) -> float:
    seen.append(name)
    return 1.0


def test_a_call_that_raises_is_named_and_the_others_are_timed() -> None:
    """A call that no graph can record is reported by name, and does not affect the others."""

    def wrong() -> object:
        raise RuntimeError("waits for the host\nat length")

    with pytest.raises(Uncapturable, match=r"wrong: RuntimeError: waits for the host$") as caught:
        device_times({"right": [_call], "wrong": [wrong]}, rounds=2)

    assert ["right"] == list(caught.value.timings)
    assert {"wrong": "RuntimeError: waits for the host"} == caught.value.reasons


def test_an_implementation_without_calls_is_refused() -> None:
    """A sequence without calls would divide by zero."""
    with pytest.raises(ValueError, match="'none' has no calls"):
        device_times({"none": []})


@pytest.mark.parametrize(
    ("calls", "replay", "asked", "passes"),
    [
        (1, 50.0, None, 64),  # a probe of 16 takes a quarter of a replay's intended duration
        (1, 400.0, None, 16),  # the probe is long enough
        (4, 50.0, None, 16),  # whole passes: the probe has four
        (100, 90.0, None, 3),  # one pass of many calls is a probe
        (100, 90.0, 150, 2),  # the requested calls, in whole passes, without a probe
        (1, 32000.0, None, 1),  # a call of two milliseconds is a replay
        (2, 4800.0, None, 2),  # two passes of two calls last a millisecond
    ],
)
def test_a_graph_runs_through_its_sequence_until_it_lasts(
    monkeypatch: pytest.MonkeyPatch, calls: int, replay: float, asked: int | None, passes: int
) -> None:
    """A graph has as many passes as fill a replay, and the time is that of one call."""
    recorded: list[int] = []

    def record(sequence: list[timing.Call], count: int) -> int:
        recorded.append(count)
        return count

    per_pass = replay / max(16 // calls, 1)
    monkeypatch.setattr(timing, "_recorded", record)
    monkeypatch.setattr(timing, "_replayed", lambda graph, cold: graph * per_pass)

    clock = timing._replay_clock([_call] * calls, asked)

    assert passes == recorded[-1]
    assert pytest.approx(per_pass / calls) == clock()


@pytest.mark.parametrize(("calls", "cold"), [(1, False), (2, True)])
def test_only_what_has_other_memory_each_time_is_cold(
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    cold: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """L2 is overwritten before a replay of several sets, and left unchanged for one."""
    asked: list[bool] = []

    def replay(graph: object, *, cold: bool) -> float:
        asked.append(cold)
        return 1000.0

    monkeypatch.setattr(timing, "_recorded", lambda sequence, passes: None)
    monkeypatch.setattr(timing, "_replayed", replay)
    timing._replay_clock([_call] * calls, None)()

    assert {cold} == set(asked)
