"""Fakes that touch memory outside their outputs, or return memory that is not fresh."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.memory_views import reread


def spill(tensor: torch.Tensor, place: int) -> None:
    """Write one element at a place of the allocation, counted from the tensor's first, if it has that place."""
    memory = tensor.new_empty(0).set_(tensor.untyped_storage())
    if 0 <= tensor.storage_offset() + place < memory.numel():
        memory[tensor.storage_offset() + place] = 1.0


def writable(tensor: torch.Tensor) -> bool:
    """Return whether torch can write to the tensor: not where elements share memory."""
    return 0 not in tensor.stride()


class WritesPastTheEnd(Correct):
    """One element after the output is written: the last vector store has no mask."""

    caught_by = ("memory",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write one element too many."""
        out = super().store(y, x)
        spill(out, out.numel())
        return out


class WritesBeforeTheStart(Correct):
    """One element before the output is written: an index runs from minus one."""

    caught_by = ("memory",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write one element too early."""
        out = super().store(y, x)
        spill(out, -1)
        return out


class NormalisesInPlace(Correct):
    """``x.float()`` is x itself when x is fp32, and is then multiplied in place."""

    caught_by = ("memory",)

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Reuse memory to save an allocation."""
        y = super().normalise(stream, group, eps, x)
        return stream.copy_(y) if writable(stream) else y


class ActivatesGateInPlace(Correct):
    """The gate is activated in place: its owner finds other numbers."""

    caught_by = ("memory",)

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Leave the result in the gate as well."""
        act = super().activate(gate, activation, x)
        if writable(gate):
            gate.copy_(act)
        return act


class GateActivatedMeanwhile(Correct):
    """The gate is activated in place and put back at the end, which shows only where the gate is x."""

    caught_by = ("layout",)

    def __init__(self) -> None:
        self.put_back: tuple[torch.Tensor, torch.Tensor] | None = None

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Use the gate as scratch."""
        act = super().activate(gate, activation, x)
        if writable(gate):
            self.put_back = (gate, gate.clone())
            gate.copy_(act)
        return act

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Put the gate's numbers back."""
        if self.put_back is not None:
            gate, kept = self.put_back
            gate.copy_(kept)
            self.put_back = None
        return super().store(y, x)


class WeightRoundedInPlace(Correct):
    """An fp32 weight is rounded to bf16 in place at the first call: its digits are lost for good."""

    caught_by = ("memory",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Use the weight, then spoil it."""
        y = super().weigh(y, weight, group)
        if writable(weight):
            weight.copy_(weight.bfloat16())
        return y


class WritesTheGapOfX(Correct):
    """Pads x's rows with zeros in place: data between the rows of a view is lost."""

    caught_by = ("memory",)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Clear the element after the last row."""
        if not x.is_contiguous():
            spill(x, 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)))
        return super().load(x)


class MaskedLanesMultiplied(Correct):
    """Reads past the row and multiplies by zero instead of masking: a NaN next to the row spreads."""

    caught_by = ("memory", "specials", "layout")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Read one element after every row."""
        beyond = reread(x[..., :1], x.stride(), back=-x.shape[-1] * x.stride(-1))
        return super().load(x) + 0.0 * beyond.float()


class PaddingUninitialised(Correct):
    """All-zero rows are skipped as padding and left as allocated."""

    caught_by = ("written", "values", "layout", "specials")

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write the rows that are not all zeros."""
        out = torch.empty(x.shape, dtype=x.dtype)
        live = (x != 0).any(-1)
        out[live] = y[live].to(x.dtype)
        return out


class UninitialisedScratch(Correct):
    """Accumulates onto memory that was never set to zero."""

    caught_by = ("memory", "values", "layout", "specials")

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add to the old contents."""
        total = torch.empty((*grouped.shape[:-1], 1))
        return total.add_(super().mean_square(grouped))


class OutputBufferKept(Correct):
    """Every call of a shape returns the same buffer: a later call changes the result of an earlier one."""

    caught_by = ("determinism", "memory")

    def __init__(self) -> None:
        self.buffers: dict[object, torch.Tensor] = {}

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep the buffer."""
        return self.buffers.setdefault((x.shape, x.dtype), super().store(y, x)).copy_(y)


class ReturnsX(Correct):
    """Returns x, unchanged: a shortcut of a disabled layer that stayed on."""

    caught_by = ("values", "layout", "metadata", "specials")

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the argument."""
        return x
