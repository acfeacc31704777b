"""LayerNorm, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import FLOATS

LANES = 128


class CorrectLayerNorm(Adapter):
    """Two passes in fp32, rounded once at the store."""

    name = "correct_layer_norm"
    operations: ClassVar[tuple[str, ...]] = ("layer_norm",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"layer_norm": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"layer_norm": Contract(depth="tile")}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(x, weight, bias)
        if x.numel() == 0:
            return x.new_empty(x.shape)
        given = self.load(x)
        y = self.normalise(given, eps, x)
        return self.store(self.affine(y, weight, bias), x)

    def layer_norm_(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Write the result over x."""
        return x.copy_(self.layer_norm(x, weight, bias, eps=eps))

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        """Refuse an invalid call."""
        vectors = [vector for vector in (weight, bias) if vector is not None]
        fit = (v.shape == x.shape[-1:] and v.dtype in {x.dtype, torch.float32} for v in vectors)
        if x.dim() == 0 or x.dtype not in FLOATS or not all(fit):
            raise ValueError("layer_norm: the call has no meaning")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows in fp32."""
        return x.float()

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Subtract the mean of each row, and divide by its standard deviation."""
        return self.centre(given, self.mean(given)) * self.inverse_deviation(given, eps)

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Return the mean of each row."""
        return given.mean(-1, keepdim=True)

    def centre(self, given: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Subtract the mean."""
        return given - mean

    def inverse_deviation(self, given: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / sqrt(variance + eps)`` of each row."""
        return torch.rsqrt(self.variance(given) + eps)

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the variance of each row, over n."""
        return (given - given.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)

    def affine(self, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Multiply by the weight, then add the bias."""
        return self.shift(y if weight is None else y * weight.float(), bias)

    def shift(self, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Add the bias."""
        return y if bias is None else y + bias.float()

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of x's dtype."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(y)


class FusedLayerNorm(CorrectLayerNorm):
    """The bias is added by a fused multiply-add, which does not round the product with the weight."""

    def affine(self, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Add to an exact product."""
        return self.shift(y if weight is None else y.double() * weight.double(), bias).float()


class RunningLayerNorm(CorrectLayerNorm):
    """Means and variances of 128 lanes that run along the row (Welford), then of pairs of lanes (Chan)."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"layer_norm": "fp32"}
    running_variance = True

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Return the running mean."""
        return running(given)[0]

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Divide the running sum of squares."""
        return running(given)[1] / given.shape[-1]


def running(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of the last dimension, kept, and the sum of the squared differences from it."""
    n = given.shape[-1]
    blocks = torch.split(torch.nn.functional.pad(given, (0, -n % LANES)), LANES, -1)
    lane = torch.arange(LANES, device=given.device)
    mean, squares, seen = torch.zeros_like(blocks[0]), torch.zeros_like(blocks[0]), torch.zeros_like(lane)
    for place, block in enumerate(blocks):
        inside = place * LANES + lane < n
        seen = seen + inside
        apart = block - mean
        updated = mean + apart / seen
        squares = torch.where(inside, squares + apart * (block - updated), squares)
        mean = torch.where(inside, updated, mean)
    while len(seen) > 1:
        ours, theirs = seen[::2], seen[1::2]
        seen = ours + theirs
        apart = mean[..., 1::2] - mean[..., ::2]
        share = theirs / seen.clamp(min=1)
        squares = squares[..., ::2] + squares[..., 1::2] + apart * apart * (ours * share)
        mean = mean[..., ::2] + apart * share
    return mean, squares


RIGHT = (CorrectLayerNorm, FusedLayerNorm, RunningLayerNorm)
