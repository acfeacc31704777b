"""``silu(gate) * up``, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import FLOATS


class CorrectSiluAndMul(Adapter):
    """Both factors in fp32, rounded once at the store."""

    name = "correct_silu_and_mul"
    operations: ClassVar[tuple[str, ...]] = ("silu_and_mul",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"silu_and_mul": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"silu_and_mul": "fp32"}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(gate, up)
        return self.store(self.multiply(self.activate(self.load(gate)), self.load(up), gate), gate)

    def silu_and_mul_(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Write the result over the gate."""
        return gate.copy_(self.silu_and_mul(gate, up))

    def check(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        """Refuse an invalid call."""
        if gate.dim() == 0 or gate.shape != up.shape or not {gate.dtype, up.dtype} <= set(FLOATS):
            raise ValueError("silu_and_mul: the call has no meaning")

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an argument in fp32."""
        return tensor.float()

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return the gate times its sigmoid."""
        return gate * torch.sigmoid(gate)

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Return the product."""
        return act * up

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of the gate's dtype."""
        return torch.empty(gate.shape, dtype=gate.dtype).copy_(y)
