"""Lower bounds on times: plain memory traffic by the fastest way, and launches that do nothing.

A pattern is timed in several ways, since none of them is the fastest at every size: from a gigabyte on a copy by
the device's own engine takes half again as long as one by a kernel on an H200.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import torch

from benchmarks.timing import Timing

Call = Callable[[], object]
Calls = dict[str, list[Call]]

# reads and writes of each pattern; shapes assigns patterns to workloads
PATTERNS = {"copy": (1, 1), "triad": (2, 1), "quad": (2, 2)}
LINE = 256  # bytes: every part of a set begins at a multiple of a 16-byte load and of a cache line


def memory(size: int, sets: int, device: str) -> Calls:
    """Return calls that move ``size`` bytes, named by the pattern and, after a colon, the way.

    ``copy`` reads half and writes half; ``triad`` reads two tensors and writes one; ``quad``, as a norm with a
    residual does, reads two and writes two.
    """
    calls: Calls = {}
    for _ in range(sets):
        whole = torch.ones(size + 4 * LINE, dtype=torch.uint8, device=device)
        for pattern, (reads, writes) in PATTERNS.items():
            parts = _parts(whole, size, reads + writes)
            for way, call in _ways(parts[:reads], parts[reads:], device):
                calls.setdefault(f"{pattern}: {way}", []).append(call)
    return calls


def highest(times: Mapping[str, Timing]) -> dict[str, Timing]:
    """Return the times of all ways and, under each pattern's name, the time of its fastest way."""
    best: dict[str, Timing] = {}
    for name, timing in times.items():
        pattern = name.partition(":")[0]
        if pattern not in best or timing.median < best[pattern].median:
            best[pattern] = timing
    return {**best, **times}


def launches(sets: int, device: str) -> Calls:
    """Return the launch of a kernel that does nothing; without a GPU, none."""
    if device == "cpu":
        return {}
    # imports Triton
    from benchmarks.kernels.empty import empty

    return {"empty": [empty] * sets}


def _parts(whole: torch.Tensor, size: int, count: int) -> list[torch.Tensor]:
    """Return tensors of equal size, each with at least one element, of ``size`` bytes in all or slightly less."""
    # multiples of 16 elements: Triton then knows that no load is partial
    length = max(size // count // 32 * 32, 32)
    step = -(-length // LINE) * LINE
    return [whole[place * step :][:length].view(torch.bfloat16) for place in range(count)]


def _ways(read: list[torch.Tensor], written: list[torch.Tensor], device: str) -> Iterator[tuple[str, Call]]:
    if len(read) == len(written) == 1:
        yield "memcpy", functools.partial(written[0].copy_, read[0])
        yield "torch", functools.partial(torch.neg, read[0], out=written[0])
    elif len(written) == 1:
        yield "torch", functools.partial(torch.add, read[0], read[1], out=written[0])
    if device != "cpu":
        # imports Triton
        from benchmarks.kernels.streams import streams

        yield "triton", functools.partial(streams, tuple(read), tuple(written))
