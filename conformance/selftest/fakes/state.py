"""Fakes whose result depends on other calls, other rows or chance, or that report a wrong path."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.semantics import GroupIgnored

ALL: tuple[str, ...] = ("values", "layout", "specials")


class WeightCached(Correct):
    """The converted weight of the first call is cached: a reloaded weight is never used."""

    caught_by = ALL

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Convert once per width."""
        return super().weigh(y, self.weights.setdefault(len(weight), weight.float().clone()), group)


class GradModeSwitchedOff(Correct):
    """Gradients are switched off for the call, and stay off."""

    caught_by = ("state_left_behind",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Forget to switch them on again."""
        torch.set_grad_enabled(False)
        return super().store(y, x)


class ConstantReturned(Correct):
    """Every result is zero."""

    caught_by = ALL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Compute nothing."""
        return torch.zeros(x.shape, dtype=x.dtype)


class OutputCached(Correct):
    """Results are remembered by shape and dtype, not by content."""

    caught_by = ALL

    def __init__(self) -> None:
        self.outputs: dict[object, torch.Tensor] = {}

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Compute once per shape."""
        return self.outputs.setdefault((x.shape, x.dtype), super().store(y, x)).clone()


class EpsCached(Correct):
    """A compiled kernel is kept by width: eps is baked in and missing from the key."""

    caught_by = ALL

    def __init__(self) -> None:
        self.eps: dict[int, float] = {}

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Use the first eps of a width."""
        return super().inverse_rms(grouped, self.eps.setdefault(grouped.shape[-1], eps))


class ManyRowsSkipTheWeight(Correct):
    """From 16 rows on another kernel runs, whose weight argument was forgotten."""

    caught_by = ALL

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Take the other kernel for many rows."""
        return y if y.numel() // y.shape[-1] >= 16 else super().weigh(y, weight, group)


class Noisy(Correct):
    """Sums race: an ulp more or less by chance."""

    caught_by = ("determinism", "memory", *ALL)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add noise, in a tenth of the elements."""
        noise = (torch.rand(y.shape) < 0.1) * torch.finfo(torch.float32).eps
        return super().store(y * (1.0 + noise), x)


class NanSpreadsToOtherRows(Correct):
    """Rows are summed by a product with a block of ones and zeros: NaN times zero reaches every row."""

    caught_by = ("row_independence", "specials")

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add every other row, times zero."""
        mean = super().mean_square(grouped)
        return mean + 0.0 * mean.sum()


class ScaledByTheBatch(Correct):
    """Rows are scaled by the largest number of the batch before they are squared, to avoid overflow."""

    caught_by = ("row_independence", *ALL)

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Scale down to fp16's range, by the batch."""
        scale = grouped.abs().amax().clamp(min=1e-20)
        return super().mean_square((grouped / scale).half().float()) * scale * scale


class EmptyFails(Correct):
    """A grid without programs is refused by the launcher."""

    caught_by = ("empty",)

    def empty(self, x: torch.Tensor) -> torch.Tensor:
        """Raise as a launcher does."""
        message = f"invalid grid ({x.numel()},)"
        raise RuntimeError(message)


class EmptyLosesItsShape(Correct):
    """An early return for nothing to do gives one empty dimension."""

    caught_by = ("empty",)

    def empty(self, x: torch.Tensor) -> torch.Tensor:
        """Return an empty tensor of another shape."""
        return x.new_empty(0)


class SaysRowsRunsTorch(Correct):
    """Reports the fused path for every call while plain torch runs: a fast path that is dead."""

    caught_by = ("path",)

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Report the path that should have run."""
        return "rows/general"


class PathsDisagree(GroupIgnored):
    """The fused path ignores groups, the native one it is compared with does not."""

    reference = "native"
    caught_by = ("parity",)
