"""Fakes that mistake a norm's weight or its offset."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.memory import writable
from conformance.selftest.fakes.memory_views import reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class OffsetInDtypeOfWeight(CorrectNorm):
    """``1 + w`` is formed in bf16: a small weight is lost."""

    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Add in the weight's dtype."""
        return (offset + weight).float()


class OffsetOmitted(CorrectNorm):
    """Llama's norm replaces Gemma's: nothing is added."""

    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Add nothing."""
        return weight.float()


class OffsetTwice(CorrectNorm):
    """The checkpoint's converter has added the offset already."""

    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Add twice."""
        return super().scale(weight, 2.0 * offset)


class OffsetAfterRounding(CorrectNorm):
    """The weighted values are rounded to x's dtype, then the normalised ones are added."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, eps, x)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Round one of two products."""
        return super().weigh(y, weight, 0.0).to(self.x_dtype).float() + offset * y


class OffsetCached(CorrectNorm):
    """``1 + w`` is cached by the first call: a reloaded weight is never used."""

    caught_by = ALL

    def __init__(self) -> None:
        self.scales: dict[object, torch.Tensor] = {}

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Add once per width and offset."""
        return self.scales.setdefault((len(weight), offset), super().scale(weight, offset).clone())


class OffsetOnlyForDtypeOfX(CorrectNorm):
    """An fp32 weight takes a branch without the offset."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, eps, x)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Take the other branch."""
        return super().scale(weight, offset if weight.dtype == self.x_dtype else 0.0)


class OffsetLeftInTheWeight(CorrectNorm):
    """The offset is added to the weight in place: every call adds another."""

    caught_by = ("memory", *ALL)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Spoil the weight."""
        scale = super().scale(weight, offset)
        if writable(weight):
            weight.copy_(scale)
        return scale


class OffsetIsAFlag(CorrectNorm):
    """Every offset but zero is taken for one."""

    operations = ("rms_norm",)
    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Test only whether there is an offset."""
        return super().scale(weight, float(offset != 0.0))


class OffsetAlwaysOne(CorrectNorm):
    """A single kernel for Llama and Gemma adds one for both."""

    operations = ("rms_norm",)
    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Ignore the argument."""
        return super().scale(weight, 1.0)


class NoWeightIsZeros(CorrectNorm):
    """A missing weight is taken for zeros."""

    operations = ("rms_norm",)
    caught_by = ALL

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Make up a weight."""
        return super().weigh(y, torch.zeros(y.shape[-1]) if weight is None else weight, offset)


class NoWeightNoOffset(CorrectNorm):
    """Without a weight the whole product is left out, and the offset with it."""

    operations = ("rms_norm",)
    caught_by = ALL

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Leave y alone."""
        return y if weight is None else super().weigh(y, weight, offset)


class NoWeightKeepsTheLastOne(CorrectNorm):
    """Without a weight the pointer of the call before is passed."""

    operations = ("rms_norm",)
    caught_by = ALL

    def __init__(self) -> None:
        self.last: dict[int, torch.Tensor] = {}

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Use the weight of the call before."""
        if weight is not None:
            self.last[len(weight)] = weight.clone()
        return super().weigh(y, self.last.get(y.shape[-1]), offset)


class NormWeightSkipped(CorrectNorm):
    """The weight is never applied: a fresh parameter stands in its place."""

    caught_by = ALL

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Take ones, or Gemma's zeros."""
        return torch.ones(len(weight))


class NormWeightBytesReadAsXs(CorrectNorm):
    """The bytes of an fp32 weight are read in x's dtype: a guard looks at the shape alone."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, eps, x)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Reinterpret the first bytes."""
        return super().scale(weight.contiguous().view(self.x_dtype)[: len(weight)], offset)


class NormWeightRounded(CorrectNorm):
    """An fp32 weight is cast to x's dtype before anything is added."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, eps, x)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Lose the weight's digits."""
        return super().scale(weight.to(self.x_dtype), offset)


class NormWeightTakenForContiguous(CorrectNorm):
    """The weight has no stride argument: a step or an expanded weight makes it read its neighbours."""

    caught_by = WRONG_MEMORY

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Read with step one."""
        return super().scale(reread(weight, (1,)), offset)


class LlamaOrder(CorrectNorm):
    """The normalised values are rounded before ``offset + weight``, undeclared: Llama's order in Gemma's norm."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round in between."""
        return super().normalise(stream, eps, x).to(x.dtype).float()
