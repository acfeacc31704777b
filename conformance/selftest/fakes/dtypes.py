"""Fakes that have the wrong dtype somewhere."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct import Correct

ALL: tuple[str, ...] = ("values", "layout", "specials")


class OutputFloat32(Correct):
    """Forgets to cast back: the next layer gets fp32."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the result without a cast."""
        return y.contiguous()


class OutputBfloat16(Correct):
    """The kernel's cast is hard-coded to bf16, the model is not."""

    caught_by = ALL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round to bf16 on the way."""
        return super().store(y.bfloat16(), x)


class OutputPromoted(Correct):
    """Returns the promoted dtype of x and weight: an fp32 weight makes the output fp32."""

    caught_by = ("metadata",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Remember the weight's dtype."""
        self.weight_dtype = weight.dtype
        return super().weigh(y, weight, group)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Cast to the dtype that torch would promote to."""
        return y.to(torch.promote_types(x.dtype, self.weight_dtype)).contiguous()


class WeightBytesReadAsXs(Correct):
    """The bytes of an fp32 weight are read in x's dtype."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, group, eps, x)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Reinterpret the first bytes."""
        return super().weigh(y, weight.contiguous().view(self.x_dtype)[: len(weight)], group)


class WeightRounded(Correct):
    """An fp32 weight is cast to bf16 before it is used, to suit a kernel that knows one dtype."""

    caught_by = ALL

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Lose the weight's digits."""
        return super().weigh(y, weight.bfloat16(), group)


class GateCastToDtypeOfX(Correct):
    """A gate of another dtype is rounded to x's first."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Round the gate."""
        return super().activate(gate.to(x.dtype), activation, x)


class SquaresInDtypeOfX(Correct):
    """Squares x in its own dtype: fp16 overflows from 256 on."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, group, eps, x)

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Square low, sum high."""
        return grouped.to(self.x_dtype).pow(2).float().mean(-1, keepdim=True)


class SumsInLowPrecision(Correct):
    """Partial sums of 32 columns are kept in bf16."""

    caught_by = ALL

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Round the accumulator once in a while."""
        partial = [part.pow(2).sum(-1, keepdim=True).bfloat16() for part in torch.split(grouped, 32, -1)]
        return torch.stack(partial).sum(0).float() / grouped.shape[-1]
