"""Fakes that mistake the residual of a norm: how it is read, and what becomes of it."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.memory import writable
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
# wrong memory may hold a poison, and its change between two calls is noticed as well
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class ResidualHasStridesOfX(CorrectNorm):
    """One row stride, x's, addresses the residual as well."""

    caught_by = WRONG_MEMORY

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Read the residual with x's strides."""
        return super().add(x, reread(residual, x.stride()))


class XHasStridesOfResidual(CorrectNorm):
    """One row stride, the residual's, addresses x as well."""

    caught_by = WRONG_MEMORY

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Read x with the residual's strides."""
        return super().add(reread(x, residual.stride()), residual)


class ResidualTakenForContiguous(CorrectNorm):
    """The residual's strides are never looked at, x's are."""

    caught_by = WRONG_MEMORY

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().add(x, reread(residual, dense(residual.shape)))


class NormWithoutResidual(CorrectNorm):
    """The residual is added to the returned sum, but x alone is normalised."""

    caught_by = ALL

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Normalise x."""
        return x.float()


class StatisticsOfX(CorrectNorm):
    """The sum is divided by the root mean square of x: the loop of the squares ran before the addition."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Take the statistics too early."""
        return stream * self.inverse_rms(x.float(), eps)


class SumLeftInX(CorrectNorm):
    """The sum is formed in x, which changes the caller's numbers."""

    caught_by = ("memory",)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Reuse memory to save an allocation."""
        s = super().add(x, residual)
        return x.copy_(s) if writable(x) else s


class OutputLeftInX(CorrectNorm):
    """The norm is written over x and copied out: the in-place form runs in a functional call."""

    caught_by = ("memory",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write x first."""
        out = super().store(y, x)
        if writable(x):
            x.copy_(out)
        return out


class ResidualAddedAfterTheNorm(CorrectNorm):
    """The residual is added to the norm of x: a post-norm where a pre-norm was asked for."""

    caught_by = ALL

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Add last."""
        result = super().norm(x, weight, residual, offset, eps)
        if residual is None or x.numel() == 0:
            return result
        y = self.weigh(self.normalise(x.float(), eps, x), weight, offset)
        return self.store(y + residual.float(), x), result[1]


class ResidualAddedTwice(CorrectNorm):
    """The residual is added by the caller and again by the kernel."""

    caught_by = ALL

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Add once more."""
        return (x.float() + 2.0 * residual.float()).to(x.dtype)


class NanOfResidualRemoved(CorrectNorm):
    """A NaN in the residual becomes zero, which hides an earlier fault."""

    caught_by = ("specials",)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return super().add(x, torch.where(residual.isnan(), 0.0, residual))


class ResidualThatIsXIgnored(CorrectNorm):
    """A residual that is x itself is taken for the first layer's, which has none: the sum is x."""

    caught_by = ("layout",)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Compare objects."""
        return x if residual is x else super().add(x, residual)


class ResidualBroadcasts(CorrectNorm):
    """A residual of one row is broadcast, which a kernel would have read past its end."""

    caught_by = ("errors",)

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> None:
        """Do not compare shapes, let torch broadcast."""
        super().check(x, weight, None)


class WeightLeftElsewhere(CorrectNorm):
    """A weight on another device than x is taken for one that is not loaded yet: the norm goes without."""

    caught_by = ("errors",)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Leave such a weight out."""
        here = weight is not None and weight.device == x.device
        return super().norm(x, weight if here else None, residual, offset, eps)
