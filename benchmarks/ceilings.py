"""What no kernel can beat: memory that is only moved, by whoever moves it fastest, and launches that do nothing.

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

# reads and writes of each; what is judged by them is in shapes
PATTERNS = {"copy": (1, 1), "triad": (2, 1), "quad": (2, 2)}
LINE = 256  # bytes: every part of a set begins where loads of 16 bytes and whole lines do


def memory(size: int, sets: int, device: str) -> Calls:
    """Calls that move ``size`` bytes, named by the pattern and, behind a colon, the way.

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
    """The times of all ways, and under the name of its pattern alone that of the fastest."""
    best: dict[str, Timing] = {}
    for name, timing in times.items():
        pattern = name.partition(":")[0]
        if pattern not in best or timing.median < best[pattern].median:
            best[pattern] = timing
    return {**best, **times}


def launches(sets: int, device: str) -> Calls:
    """A kernel that does nothing; none where there is no GPU to launch it on."""
    if device == "cpu":
        return {}
    # imports Triton
    from benchmarks.kernels.empty import empty

    return {"empty": [empty] * sets}


def _parts(whole: torch.Tensor, size: int, count: int) -> list[torch.Tensor]:
    """So many tensors of as many bytes, ``size`` together or hardly less, none of them without an element."""
    # whole sixteens of elements: Triton then knows that no load is cut short
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
