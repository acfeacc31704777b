"""Times of calls: on the device by replaying CUDA graphs, on the host by a clock around one call.

All calls of a comparison are timed in one process, round by round in an order that changes, so that a clock that
drifts or another process on the machine affects all of them alike. Without CUDA a clock of the host stands in for
the device: enough to see that everything runs, and no measurement of anything.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]
Clock = Callable[[], float]  # runs a call once and returns its duration in microseconds

REPLAY = 200.0  # microseconds that one replay should last, compared with which its two events are negligible
LONG = 1000.0  # microseconds after which a replay is long enough with any number of calls
PROBE_CALLS = 16  # a graph of fewer calls that is no longer than its events says little about one call
PATIENCE = 0.25  # seconds that all rounds of one call may take, a limit for slow calls
FEWEST = 10  # least number of rounds of a slow call
# several times the size of any L2 today: writing this much evicts all inputs from L2
L2_FLUSH = 256 * 2**20
WARM_UPS = 3  # calls before the graph, for compilation, tuning and allocations that happen once


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds a call over several rounds: their median and quartiles."""

    median: float
    low: float
    high: float
    rounds: int


class Uncapturable(Exception):
    """Calls that no CUDA graph could record: the reason of each by its name, and the timings of all others."""

    def __init__(self, reasons: Mapping[str, str], timings: Mapping[str, Timing]) -> None:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(f"device_times: no graph could record {told}")
        self.reasons = dict(reasons)
        self.timings = dict(timings)


@contextlib.contextmanager
def noted(spent: MutableMapping[str, float], what: str) -> Iterator[None]:
    """Add the seconds that something lasts to those of its kind."""
    begun = time.monotonic()
    try:
        yield
    finally:
        spent[what] = spent.get(what, 0.0) + time.monotonic() - begun


def device_times(
    calls: Mapping[str, Sequence[Call]],
    *,
    rounds: int = 40,
    calls_per_graph: int | None = None,
    spent: MutableMapping[str, float] | None = None,
) -> dict[str, Timing]:
    """Return the device time of one call of each implementation, in microseconds.

    An implementation is a sequence of calls that do the same with different memory. Each becomes one graph that
    runs through its sequence, as often as a replay of 200 µs wants (for at least ``calls_per_graph`` calls where
    that is given). Results stay alive for one pass: a sequence writes as many outputs as it reads inputs.

    A sequence of several calls is timed cold: L2 is written over before each replay. Let its calls' memory exceed
    twice what L2 holds, or be so many that one pass is long enough. A sequence of one is timed warm.

    An implementation whose rounds would take over a quarter of a second has fewer rounds, and at least ten.
    ``spent`` gets the seconds spent on ``capturing`` and on ``timing``.

    Raises :class:`Uncapturable` where calls raise, when all others are timed, and ``ValueError`` for an empty
    sequence.
    """
    for name, sequence in calls.items():
        if not sequence:
            raise ValueError(f"device_times: {name!r} has no calls, must have at least one")
    prepare = _replay_clock if torch.cuda.is_available() else _wall_clock
    clocks, reasons = {}, {}
    spent = {} if spent is None else spent
    with noted(spent, "capturing"):
        for name, sequence in calls.items():
            try:
                clocks[name] = prepare(sequence, calls_per_graph)
            except Exception as error:  # noqa: BLE001 - third-party code may raise anything
                reasons[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    with noted(spent, "timing"):
        timings = _interleaved(clocks, rounds)
    if reasons:
        raise Uncapturable(reasons, timings)
    return timings


def host_times(calls: Mapping[str, Call], *, rounds: int = 200) -> dict[str, Timing]:
    """Return the host time of one eager call of each, in microseconds, while the device is idle.

    The clock stops when the call returns, before the device is waited for. Raises what a call raises.
    """
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    with undisturbed():
        return _interleaved({name: _host_clock(call) for name, call in calls.items()}, rounds)


def _interleaved(clocks: Mapping[str, Clock], rounds: int) -> dict[str, Timing]:
    """Run every clock once a round, each round in another order; a clock that has used up its time stops."""
    order = random.Random(0)  # noqa: S311 - reproducible, not secret
    seen: dict[str, list[float]] = {name: [] for name in clocks}
    spent: dict[str, float] = {}
    for _ in range(rounds):
        for name in order.sample(list(clocks), len(clocks)):
            if len(seen[name]) < FEWEST or spent[name] < PATIENCE:
                with noted(spent, name):
                    seen[name].append(clocks[name]())
    return {name: summary(times) for name, times in seen.items()}


def summary(times: Sequence[float]) -> Timing:
    """Return the median and quartiles of at least one time."""
    if len(times) == 1:
        return Timing(times[0], times[0], times[0], 1)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high, len(times))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Disable garbage collection while calls are timed."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _host_clock(call: Call) -> Clock:
    """Time one call with an empty queue; its result is released after the clock has stopped."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else _nothing

    def clock() -> float:
        wait()
        start = time.perf_counter_ns()
        kept = call()
        stop = time.perf_counter_ns()
        wait()
        del kept
        return (stop - start) / 1e3

    return clock


def _nothing() -> None:
    """Do nothing: without CUDA there is no queue to wait for."""


def _wall_clock(sequence: Sequence[Call], calls_per_graph: int | None) -> Clock:
    """Time one pass on a machine without CUDA: a replacement for the device's clock, so that everything runs."""
    sequence[0]()

    def clock() -> float:
        start = time.perf_counter_ns()
        for call in sequence:
            call()
        return (time.perf_counter_ns() - start) / 1e3 / len(sequence)

    return clock


def _replay_clock(sequence: Sequence[Call], calls_per_graph: int | None) -> Clock:
    """Time a graph with enough passes for a long replay, divided by its calls."""
    for _ in range(WARM_UPS):
        sequence[0]()
    cold = len(sequence) > 1
    passes = math.ceil((calls_per_graph or 1) / len(sequence))
    graph = _recorded(sequence, passes)
    probed = math.ceil(PROBE_CALLS / len(sequence))
    for enough in () if calls_per_graph else (probed, None):
        # a probe includes its own overhead, so it gives too few passes rather than too many
        shortest = min(_replayed(graph, cold=cold) for _ in range(WARM_UPS))
        wanted = _more(passes, shortest, enough)
        if wanted > passes:
            passes, graph = wanted, _recorded(sequence, wanted)
    count = passes * len(sequence)
    return lambda: _replayed(graph, cold=cold) / count


def _more(passes: int, lasting: float, enough: int | None) -> int:
    """Return the passes that a graph should have if some last this long; ``enough`` for a probe."""
    if enough is not None:
        return min(enough, math.ceil(passes * LONG / lasting))
    return math.ceil(passes * REPLAY / lasting)


def _recorded(sequence: Sequence[Call], passes: int) -> torch.cuda.CUDAGraph:
    """Return a graph of ``passes`` through the sequence."""
    graph = torch.cuda.CUDAGraph()
    # the last result of every call: without, all calls would write the same memory, warm in L2
    results: list[object] = [None] * len(sequence)
    # the outer context: a recording that fails would leave its own stream as the current one
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        for _ in range(passes):
            for place, call in enumerate(sequence):
                results[place] = call()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph, *, cold: bool) -> float:
    """Return the microseconds of one replay, by the device's own clock.

    Another replay goes before: the device is busy until the host has queued the timed replay.
    """
    graph.replay()
    if cold:
        _flush_l2()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    stop.record()
    stop.synchronize()
    return 1e3 * float(start.elapsed_time(stop))


def _flush_l2() -> None:
    """Write more than L2 holds. The allocator hands out the same memory every time."""
    torch.empty(L2_FLUSH, dtype=torch.uint8, device="cuda").zero_()
