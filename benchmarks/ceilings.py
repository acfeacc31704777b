"""What no kernel can beat: memory that is only copied, and launches that do nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

Calls = dict[str, list[Callable[[], object]]]


def memory(size: int, sets: int, device: str) -> Calls:
    """Calls that move ``size`` bytes: half read and half written, and two thirds read of two tensors."""
    return {
        "copy": [_copy(size // 2, device) for _ in range(sets)],
        "triad": [_triad(size // 3, device) for _ in range(sets)],
    }


def launches(sets: int, device: str) -> Calls:
    """A kernel that does nothing; none where there is no GPU to launch it on."""
    if device == "cpu":
        return {}
    # imports Triton
    from benchmarks.kernels.empty import empty

    return {"empty": [empty] * sets}


def _numbers(size: int, device: str) -> torch.Tensor:
    return torch.ones(max(size // 2, 1), dtype=torch.bfloat16, device=device)


def _copy(size: int, device: str) -> Callable[[], object]:
    return functools.partial(_numbers(size, device).copy_, _numbers(size, device))


def _triad(size: int, device: str) -> Callable[[], object]:
    a, b, out = (_numbers(size, device) for _ in range(3))
    return functools.partial(torch.add, a, b, out=out)
