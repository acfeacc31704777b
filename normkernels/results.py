"""Memory for results."""

from __future__ import annotations

import torch


def memory(given: torch.Tensor | None, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the tensor to write a result into: the one given, or a contiguous one in x's shape, device and dtype.

    What autograd has kept of a given one is no longer what it holds: its version goes up, as in any operation of
    PyTorch that writes to it.
    """
    if given is None:
        # half the time of torch.empty, which is told all that x knows
        return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    torch.autograd.graph.increment_version(given)
    return given
