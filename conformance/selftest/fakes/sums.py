"""Fakes that mistake the sum of a norm's input and residual: its rounding, or how it is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import SUM, CorrectNorm, Result
from conformance.selftest.fakes.memory import writable

ALL: tuple[str, ...] = ("values", "layout", "specials")


class SumHasStridesOfX(CorrectNorm):
    """Allocates the sum with ``empty_like``, which keeps the strides of a transposed x."""

    caught_by = ("metadata",)

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(s)


class XReturnedForTheSum(CorrectNorm):
    """The sum is normalised, but x is returned for the residual stream."""

    caught_by = ALL

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return x."""
        return super().store_sum(x, x, residual)


class ResidualReturnedUnchanged(CorrectNorm):
    """The sum is normalised and thrown away: the residual is returned unchanged."""

    caught_by = ALL

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the residual."""
        return super().store_sum(residual.to(x.dtype), x, residual)


class ResidualReturnedItself(CorrectNorm):
    """The argument is updated in place and returned, as vLLM's kernel does, where a fresh sum was asked for."""

    caught_by = ("memory", "metadata")

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Write the sum over the residual."""
        if residual.dtype != x.dtype or not writable(residual):
            return super().store_sum(s, x, residual)
        return residual.copy_(s)


class SumInFloat32(CorrectNorm):
    """The sum is returned as it was formed, in fp32."""

    caught_by = ("metadata",)

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Forget to cast back."""
        return (x.float() + residual.float()).contiguous()


class SumInDtypeOfResidual(CorrectNorm):
    """The sum has the residual's dtype: the residual's buffer was reused."""

    caught_by = ("metadata",)

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Keep the residual's dtype."""
        return s.to(residual.dtype).contiguous()


class NormOfTheUnroundedSum(CorrectNorm):
    """The sum in fp32 is normalised, not the returned sum; the contract says ``sum``."""

    caught_by = ALL

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Do without the rounding."""
        return x.float() if residual is None else x.float() + residual.float()


class RoundedSumUndeclared(CorrectNorm):
    """The rounded sum is normalised, but the declared contract rounds only at the store."""

    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        CorrectNorm.operations, Contract(depth=SUM.depth)
    )
    caught_by = ALL


class StatisticsOfTheUnroundedSum(NormOfTheUnroundedSum):
    """Squares are summed before the sum is rounded, but the rounded sum is divided: two loops, two numbers."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Divide the returned sum."""
        return stream.to(x.dtype).float() * self.inverse_rms(stream, eps)


class StatisticsOfTheRoundedSum(NormOfTheUnroundedSum):
    """Squares are taken of the stored sum, but the sum in registers is divided."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Divide the numbers that are not returned."""
        return stream * self.inverse_rms(stream.to(x.dtype).float(), eps)


class OverflowingSumNormalised(CorrectNorm):
    """Where the rounded sum overflows, the exact sum is normalised: the row hides the overflow."""

    caught_by = ("specials",)

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Rescue the row."""
        stored = super().load(s, x, residual)
        if residual is None:
            return stored
        return torch.where(stored.isinf().any(-1, keepdim=True), x.float() + residual.float(), stored)


class ResidualRoundedFirst(CorrectNorm):
    """A residual of another dtype is cast to x's before the addition: rounded twice."""

    caught_by = ALL

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Round the residual."""
        return super().add(x, residual.to(x.dtype))


class SumFormedInDtypeOfResidual(CorrectNorm):
    """x is cast to the residual's dtype and added there: fp16 overflows, bf16 loses digits."""

    caught_by = ALL

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Add in the residual's dtype."""
        return (x.to(residual.dtype) + residual).to(x.dtype)


class SumTruncated(CorrectNorm):
    """The sum's low bits are cut off at its store: a stream that shrinks layer by layer."""

    caught_by = ALL

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Clear the bits that a bf16 does not have."""
        exact = (x.float() + residual.float()).contiguous()
        cut = (exact.view(torch.int32) & -0x10000).view(torch.float32)
        return (cut if x.dtype == torch.bfloat16 else exact).to(x.dtype)


class SumSaturates(CorrectNorm):
    """A sum that overflows is clamped to the largest number of its dtype."""

    caught_by = ("specials",)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Clamp to the largest number."""
        largest = torch.finfo(x.dtype).max
        return (x.float() + residual.float()).clamp(-largest, largest).to(x.dtype)


class ResultsSwapped(CorrectNorm):
    """Returns the sum first."""

    caught_by = ALL

    def pair(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the results in reverse order."""
        return s, y


class SumNotReturned(CorrectNorm):
    """Returns y alone: the residual stream is lost."""

    caught_by = ("metadata",)

    def pair(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Drop the sum."""
        return (y,)


class SumAliasesOutput(CorrectNorm):
    """Both results share one buffer, and the norm is written last."""

    caught_by = ALL

    def pair(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Use one buffer for both."""
        return y, s.copy_(y)


class PairWithoutResidual(CorrectNorm):
    """Returns a pair even without a residual."""

    caught_by = ("metadata",)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Return x for the sum of nothing."""
        result = super().norm(x, weight, residual, offset, eps)
        return (result, x.contiguous()) if isinstance(result, torch.Tensor) else result


class SumOfLastRowNotWritten(CorrectNorm):
    """The last tile writes its norm and not its sum: a mask of the second store is off by one row."""

    caught_by = ("written", *ALL)

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Leave a row as allocated."""
        out = torch.empty(x.shape, dtype=x.dtype)
        out.view(-1, x.shape[-1])[:-1] = s.reshape(-1, x.shape[-1])[:-1]
        return out


class SumBufferKept(CorrectNorm):
    """The sum is in a buffer that every call of a shape shares: a later layer changes an earlier layer's sum."""

    caught_by = ("determinism", "memory")

    def __init__(self) -> None:
        self.buffers: dict[object, torch.Tensor] = {}

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Keep the buffer."""
        made = super().store_sum(s, x, residual)
        return self.buffers.setdefault((x.shape, x.dtype), made).copy_(s)


class EmptyLosesItsSum(CorrectNorm):
    """An early return for nothing to do forgets the second result."""

    caught_by = ("empty",)

    def empty(self, x: torch.Tensor, residual: torch.Tensor | None) -> Result:
        """Return one empty tensor."""
        return x.new_empty(x.shape)
