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

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(x)
        if x.numel() == 0:
            return x.new_empty(x.shape)
        given = self.load(x)
        powers = self.power(given - self.largest(given))
        return self.store(self.divide(powers, self.total(powers)), x)

    def softmax_(self, x: torch.Tensor) -> torch.Tensor:
        """Write the result over x."""
        return x.copy_(self.softmax(x))

    def check(self, x: torch.Tensor) -> None:
        """Refuse an invalid call."""
        if x.dim() == 0 or x.dtype not in FLOATS:
            raise ValueError("softmax: the call has no meaning")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows in fp32."""
        return x.float()

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
