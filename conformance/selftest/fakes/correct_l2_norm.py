"""Rows divided by their length, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import FLOATS


class CorrectL2Norm(Adapter):
    """Everything in fp32, rounded once at the store."""

    name = "correct_l2_norm"
    operations: ClassVar[tuple[str, ...]] = ("l2_norm",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"l2_norm": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"l2_norm": Contract(depth="tile")}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(x)
        if x.numel() == 0:
            return x.new_empty(x.shape)
        given = self.load(x)
        return self.store(self.scale(given, self.inverse_length(self.total(given), eps), x), x)

    def l2_norm_(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Write the result over x."""
        return x.copy_(self.l2_norm(x, eps=eps))

    def check(self, x: torch.Tensor) -> None:
        """Refuse an invalid call."""
        if x.dim() == 0 or x.dtype not in FLOATS:
            raise ValueError("l2_norm: the call has no meaning")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows in fp32."""
        return x.float()

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Return the sum of the squares of each row."""
        return given.square().sum(-1, keepdim=True)

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / sqrt(total + eps)``."""
        return torch.rsqrt(total + eps)

    def scale(self, given: torch.Tensor, inverse: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the rows divided by their lengths."""
        return given * inverse

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of x's dtype."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(y)
