"""``gelu(gate) * up``, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import FLOATS

CUBIC = 0.044715


class CorrectGeluAndMul(Adapter):
    """The formulas as they stand, in fp32, rounded once at the store."""

    name = "correct_gelu_and_mul"
    operations: ClassVar[tuple[str, ...]] = ("gelu_and_mul",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"gelu_and_mul": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"gelu_and_mul": "fp32"}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Check the call, then take the steps in order."""
        self.check(gate, up, approximate)
        act = self.activate(self.load(gate), approximate)
        return self.store(self.multiply(act, self.load(up), gate), gate)

    def gelu_and_mul_(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Write the result over the gate."""
        return gate.copy_(self.gelu_and_mul(gate, up, approximate=approximate))

    def check(self, gate: torch.Tensor, up: torch.Tensor, approximate: str) -> None:
        """Refuse an invalid call."""
        if gate.dim() == 0 or gate.shape != up.shape or not {gate.dtype, up.dtype} <= set(FLOATS):
            raise ValueError("gelu_and_mul: the call has no meaning")
        if approximate not in {"none", "tanh"}:
            raise ValueError("gelu_and_mul: the formula is unknown")

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an argument in fp32."""
        return tensor.float()

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return half the gate times what is raised by one."""
        return 0.5 * gate * self.raised(gate, approximate)

    def raised(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return one more than the function of the formula."""
        return 1.0 + (self.tanh(self.inner(gate)) if approximate == "tanh" else self.erf(gate * math.sqrt(0.5)))

    def inner(self, gate: torch.Tensor) -> torch.Tensor:
        """Return the argument of tanh."""
        return math.sqrt(2 / math.pi) * (gate + CUBIC * gate * gate * gate)

    def tanh(self, z: torch.Tensor) -> torch.Tensor:
        """Return tanh of numbers in fp32."""
        return torch.tanh(z)

    def erf(self, z: torch.Tensor) -> torch.Tensor:
        """Return erf, rounded once."""
        return torch.erf(z.double()).float()

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Return the product."""
        return act * up

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of the gate's dtype."""
        return torch.empty(gate.shape, dtype=gate.dtype).copy_(y)


class GeluWithoutCancelling(CorrectGeluAndMul):
    """The complement of erf, and a sigmoid in place of tanh: nothing is raised by one."""

    def raised(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return the same numbers, small ones with all their bits."""
        if approximate == "tanh":
            return 2.0 * torch.sigmoid(2.0 * self.inner(gate))
        raised: torch.Tensor = torch.special.erfc(gate / -math.sqrt(2))
        return raised


class GeluByASigmoid(CorrectGeluAndMul):
    """tanh is computed from a sigmoid, and the cube by Horner's rule, as kernels without libraries have them."""

    def inner(self, gate: torch.Tensor) -> torch.Tensor:
        """Multiply the gate last."""
        return gate * (math.sqrt(2 / math.pi) + math.sqrt(2 / math.pi) * CUBIC * (gate * gate))

    def tanh(self, z: torch.Tensor) -> torch.Tensor:
        """Take one from twice a sigmoid."""
        return 2.0 / (1.0 + torch.exp(-2.0 * z)) - 1.0


class GeluByAPolynomial(CorrectGeluAndMul):
    """erf is a polynomial times a power, right to 1.5e-7 (Abramowitz and Stegun, 7.1.26), as PyTorch has it."""

    def erf(self, z: torch.Tensor) -> torch.Tensor:
        """Take every step in float32, a product with the sum after it."""
        size = z.float().abs()
        t = 1.0 / fused(size, 0.3275911, 1.0)
        sums = torch.full_like(t, 1.061405429)
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            sums = fused(sums, t, coefficient)
        return fused(-(torch.exp(-size * size) * t), sums, 1.0).copysign(z)


def fused(a: torch.Tensor, b: torch.Tensor | float, c: float) -> torch.Tensor:
    """Return ``a * b + c`` of float32 numbers, rounded once."""
    single = torch.tensor(b, dtype=torch.float32) if isinstance(b, float) else b
    return (a.double() * single.double() + float(torch.tensor(c, dtype=torch.float32))).float()


class GeluInFloat64(CorrectGeluAndMul):
    """Everything is in float64 until the store."""

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an argument in float64."""
        return tensor.double()

    def erf(self, z: torch.Tensor) -> torch.Tensor:
        """Return erf in float64."""
        return torch.erf(z)


RIGHT = (CorrectGeluAndMul, GeluWithoutCancelling, GeluByASigmoid, GeluByAPolynomial, GeluInFloat64)
