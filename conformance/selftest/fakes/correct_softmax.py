"""Softmax, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import FLOATS


class CorrectSoftmax(Adapter):
    """Two passes in fp32, rounded once at the store."""

    name = "correct_softmax"
    operations: ClassVar[tuple[str, ...]] = ("softmax",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"softmax": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"softmax": Contract(depth="tile")}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(x, mask)
        if x.numel() == 0:
            return x.new_empty(x.shape)
        y = self.shares(self.masked(self.scaled(self.load(x), scale), mask))
        return self.store(y, x)

    def softmax_(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Write the result over x."""
        return x.copy_(self.softmax(x, mask=mask, scale=scale))

    def check(self, x: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Refuse an invalid call."""
        fits = mask is None or (mask.shape == x.shape and mask.dtype in {*FLOATS, torch.bool})
        if x.dim() == 0 or x.dtype not in FLOATS or not fits:
            raise ValueError("softmax: the call has no meaning")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows in fp32."""
        return x.float()

    def scaled(self, given: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Return the rows times the scale, if there is one."""
        return given if scale is None else given * scale

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the rows with the mask, if there is one."""
        if mask is None:
            return given
        return torch.where(mask, given, -torch.inf) if mask.dtype == torch.bool else given + mask.float()

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the powers of each row over their sum."""
        powers = self.power(scores - self.largest(scores))
        return self.divide(powers, self.total(powers))

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Return the maximum of each row."""
        return given.amax(-1, keepdim=True)

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """Return the power of each number."""
        return torch.exp(difference)

    def total(self, powers: torch.Tensor) -> torch.Tensor:
        """Return the sum of each row."""
        return powers.sum(-1, keepdim=True)

    def divide(self, powers: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Return the quotients."""
        return powers / total

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of x's dtype."""
        return torch.empty(x.shape, dtype=x.dtype).copy_(y)
