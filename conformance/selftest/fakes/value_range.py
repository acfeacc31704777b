"""Fakes that fail on numbers that are not ordinary: infinities, NaN, saturation, underflow."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct import Correct

SPECIAL: tuple[str, ...] = ("specials", "values", "layout")


class NanRemoved(Correct):
    """NaN becomes zero, which hides a broken earlier layer."""

    caught_by = ("specials",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return super().store(torch.where(y.isnan(), 0.0, y), x)


class InfinityClamped(Correct):
    """Results are clamped to the largest finite number."""

    caught_by = SPECIAL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Clamp to the largest number."""
        largest = torch.finfo(x.dtype).max
        return super().store(y.clamp(-largest, largest), x)


class OverflowRescued(Correct):
    """A sum of squares that overflows is clamped: the row comes out tiny instead of zero."""

    caught_by = SPECIAL

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Clamp the mean to a million."""
        return super().mean_square(grouped).clamp(max=1e6)


class GateClamped(Correct):
    """Gates are clamped to ten on both sides, to keep an exponential small."""

    caught_by = SPECIAL

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Clamp the gate."""
        return super().activate(gate.float().clamp(-10.0, 10.0), activation, x)


class ExponentialOverflows(Correct):
    """``exp(z) / (1 + exp(z))``: NaN for gates above 88."""

    caught_by = SPECIAL

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Divide infinity by infinity."""
        z = gate.float()
        sigmoid = z.exp() / (1.0 + z.exp())
        return sigmoid if activation == "sigmoid" else z * sigmoid


class SmallResultsFlushed(Correct):
    """Results below the smallest normal number of the dtype become zero, undeclared."""

    caught_by = SPECIAL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Flush small numbers to zero."""
        return super().store(torch.where(y.abs() < torch.finfo(x.dtype).tiny, 0.0, y), x)


class ZeroRowDivided(Correct):
    """Groups whose mean is below eps are divided by the bare root: an all-zero row becomes NaN."""

    caught_by = SPECIAL

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Use eps as a threshold."""
        return torch.rsqrt(self.mean_square(grouped))
