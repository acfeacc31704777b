"""A ceiling moves all of its bytes, and is the fastest known way to move them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import ceilings
from benchmarks.timing import Timing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _took(median: float) -> Timing:
    return Timing(median, median, median, 3)


def test_the_best_way_is_the_ceiling() -> None:
    """A pattern has the time of its fastest way; the ways stay listed, and entries without ways are unchanged."""
    times = {
        "copy: memcpy": _took(3.0),
        "copy: torch": _took(2.0),
        "triad: torch": _took(4.0),
        "empty": _took(1.0),
    }
    found = ceilings.highest(times)

    assert (_took(2.0), _took(4.0), _took(1.0)) == (found["copy"], found["triad"], found["empty"])
    assert times.items() <= found.items()


@pytest.mark.parametrize("size", [96, 10_001, 1_573_120])
def test_all_bytes_are_moved(size: int) -> None:
    """Each way writes what it should from its inputs; parts begin at whole lines and omit hardly a byte."""
    for name, calls in ceilings.memory(size, 2, DEVICE).items():
        assert 2 == len(calls)
        for call in calls:
            read, written = _tensors(call)
            tensors = (*read, *written)
            assert size - 128 <= sum(tensor.nbytes for tensor in tensors) <= size + 128
            assert {0} == {(tensor.data_ptr() - tensors[0].data_ptr()) % ceilings.LINE for tensor in tensors}
            assert ceilings.PATTERNS[name.partition(":")[0]] == (len(read), len(written))


def _tensors(call: Any) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return the tensors that a call, a partial function, reads and writes."""
    if isinstance(call.args[0], tuple):
        return call.args[0], call.args[1]
    written = call.keywords["out"] if call.keywords else call.func.__self__
    return call.args, (written,)


def test_a_kernel_moves_what_it_is_told_to() -> None:
    """The kernel moves one or two tensors into one or two others, at sizes of whole blocks and others."""
    streams = pytest.importorskip("benchmarks.kernels.streams", reason="Triton moves them").streams
    for n in (16, 2048, 5008):
        a, b = (torch.randn(n, device=DEVICE) for _ in range(2))
        first, second = torch.zeros_like(a), torch.zeros_like(a)
        streams((a,), (first,))
        assert torch.equal(a, first)
        streams((a, b), (first, second))
        assert torch.equal(a + b, first)
        assert torch.equal(b, second)
