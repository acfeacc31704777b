"""RMSNorm with a residual, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
Result = torch.Tensor | tuple[torch.Tensor, ...]

SUM = Contract(frozenset({"sum"}), "tile")


class CorrectNorm(Adapter):
    """The sum rounded to x's dtype, its norm in fp32, rounded once at the store."""

    name = "correct_norm"
    operations: ClassVar[tuple[str, ...]] = ("rms_norm", "gemma_rms_norm")
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in operations}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm": SUM, "gemma_rms_norm": SUM}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Result:
        """Run with any offset, or without a weight."""
        return self.norm(x, weight, residual, weight_offset, eps)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Result:
        """Run with one added to the weight."""
        return self.norm(x, weight, residual, 1.0, eps)

    def rms_norm_(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Result | None:
        """Run in place with any offset, or without a weight."""
        return self.overwrite(self.norm(x, weight, residual, weight_offset, eps), x, residual)

    def gemma_rms_norm_(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Result | None:
        """Run in place with one added to the weight."""
        return self.overwrite(self.norm(x, weight, residual, 1.0, eps), x, residual)

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Write y over x and the sum over the residual, and return x and the residual."""
        if residual is None or isinstance(result, torch.Tensor):
            return self.write(x, result if isinstance(result, torch.Tensor) else result[0])
        return self.write(x, result[0]), self.write(residual, result[1])

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Write one result over one argument."""
        return over.copy_(result)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Check the call, then take the steps in order."""
        self.check(x, weight, residual)
        if x.numel() == 0:
            return self.empty(x, residual)
        s = x if residual is None else self.add(x, residual)
        y = self.weigh(self.normalise(self.load(s, x, residual), eps, x), weight, offset)
        out = self.store(y, x)
        return out if residual is None else self.pair(out, self.store_sum(s, x, residual))

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> None:
        """Refuse an invalid call."""
        valid = (
            x.dim() > 0
            and x.dtype in FLOATS
            and (residual is None or (residual.shape == x.shape and residual.dtype in FLOATS))
            and (weight is None or (weight.shape == x.shape[-1:] and weight.dtype in {x.dtype, torch.float32}))
        )
        if not valid:
            raise ValueError("rms_norm: the call has no meaning")

    def empty(self, x: torch.Tensor, residual: torch.Tensor | None) -> Result:
        """Return the results of a call without elements."""
        return x.new_empty(x.shape) if residual is None else (x.new_empty(x.shape), x.new_empty(x.shape))

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the sum, formed in fp32 and rounded to x's dtype."""
        return (x.float() + residual.float()).to(x.dtype)

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Return the rounded sum, which is normalised, in fp32."""
        return s.float()

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Divide each row by its root mean square."""
        return stream * self.inverse_rms(stream, eps)

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / sqrt(mean + eps)`` of each row."""
        return torch.rsqrt(self.mean_square(stream) + eps)

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squares of each row."""
        return stream.pow(2).mean(-1, keepdim=True)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Multiply each column by the offset and its weight."""
        return y * self.scale(torch.ones(y.shape[-1], device=y.device) if weight is None else weight, offset)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Return ``offset + weight``, formed in fp32."""
        return offset + weight.float()

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of x's dtype."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(y)

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the sum in a fresh contiguous tensor of x's dtype."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(s)

    def pair(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return both results in their order."""
        return y, s
