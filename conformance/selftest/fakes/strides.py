"""Fakes that assume the strides of another tensor, or strides that suit them."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.memory_views import dense, reread

# wrong memory may hold a poison, and its change between two calls is noticed as well
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class GateHasStridesOfX(Correct):
    """One row stride, x's, addresses the gate as well."""

    caught_by = WRONG_MEMORY

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Read the gate with x's strides."""
        return super().activate(reread(gate, x.stride()), activation, x)


class XTakenForContiguous(Correct):
    """Flattens x by its storage: strides are never looked at."""

    caught_by = WRONG_MEMORY

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().load(reread(x, dense(x.shape)))


class GateTakenForContiguous(Correct):
    """The gate's strides are never looked at, x's are."""

    caught_by = WRONG_MEMORY

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().activate(reread(gate, dense(gate.shape)), activation, x)


class WeightTakenForContiguous(Correct):
    """The weight has no stride argument: a step or an expanded weight reads its neighbours."""

    caught_by = WRONG_MEMORY

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Read with step one."""
        return super().weigh(y, reread(weight, (1,)), group)


class UnitLastStride(Correct):
    """Rows are addressed correctly, columns with step one."""

    caught_by = WRONG_MEMORY

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Ignore the last stride."""
        return super().load(reread(x, (*x.stride()[:-1], 1)))


class OneRowStride(Correct):
    """Leading dimensions are flattened to rows of one stride, that of the last of them."""

    caught_by = WRONG_MEMORY

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Derive the outer strides from the inner one."""
        row = x.stride(-2) if x.dim() > 1 else 1
        outer = tuple(stride * row for stride in dense(x.shape[:-1]))
        return super().load(reread(x, (*outer, x.stride(-1))))


class AddressRoundedDown(Correct):
    """Vector loads start at the address rounded down to 16 bytes: a shifted view reads its neighbours."""

    caught_by = WRONG_MEMORY

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Start at the aligned address."""
        return super().load(reread(x, x.stride(), back=x.data_ptr() % 16 // x.element_size()))


class OutputHasStridesOfX(Correct):
    """Allocates the output with ``empty_like``, which keeps the strides of a transposed x."""

    caught_by = ("metadata", *WRONG_MEMORY)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(y)
