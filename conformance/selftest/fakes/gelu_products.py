"""Fakes that mistake ``gelu(gate) * up``: the formula, which half is which, and memory."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from conformance.selftest.fakes.correct_gelu_and_mul import CorrectGeluAndMul
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class GeluOfTheOtherHalf(CorrectGeluAndMul):
    """The halves of the projection are swapped: gelu(up) * gate."""

    caught_by = ALL

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Activate the other one."""
        self.check(gate, up, approximate)
        return self.store(self.activate(self.load(up), approximate) * self.load(gate), gate)


class GeluIsASilu(CorrectGeluAndMul):
    """The activation is SwiGLU's."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return a silu."""
        return functional.silu(gate)


class GeluIsQuick(CorrectGeluAndMul):
    """The third formula of a gelu, the quick one, stands for both others."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Scale inside a sigmoid."""
        return gate * torch.sigmoid(1.702 * gate)


class GeluByTanhAlone(CorrectGeluAndMul):
    """The kernel has one formula, by tanh, and ignores which one is asked for."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Approximate always."""
        return super().activate(gate, "tanh")


class GeluByErfAlone(CorrectGeluAndMul):
    """The kernel has one formula, by erf, and ignores which one is asked for."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Approximate never."""
        return super().activate(gate, "none")


class GeluDropped(CorrectGeluAndMul):
    """The gate is multiplied as it is, and no gelu taken of it."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return the gate."""
        return gate


class GeluNotHalved(CorrectGeluAndMul):
    """The factor of one half is lost."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Return twice as much."""
        return gate * self.raised(gate, approximate)


class GeluRootOfTwoDropped(CorrectGeluAndMul):
    """The argument of erf is not divided by the root of two."""

    caught_by = ALL

    def erf(self, z: torch.Tensor) -> torch.Tensor:
        """Multiply it in again."""
        return super().erf(z * math.sqrt(2))


class GeluCubeDropped(CorrectGeluAndMul):
    """The argument of tanh lacks its cube."""

    caught_by = ALL

    def inner(self, gate: torch.Tensor) -> torch.Tensor:
        """Return the linear part."""
        return math.sqrt(2 / math.pi) * gate


class GeluCoefficientCutOff(CorrectGeluAndMul):
    """The coefficient of the cube has lost two digits: 0.0447."""

    caught_by = ALL

    def inner(self, gate: torch.Tensor) -> torch.Tensor:
        """Multiply by less."""
        return math.sqrt(2 / math.pi) * (gate + 0.0447 * gate**3)


class GeluTanhIsApproximate(CorrectGeluAndMul):
    """The GPU's own tanh (tanh.approx) is taken, which has eleven bits."""

    caught_by = ALL

    def tanh(self, z: torch.Tensor) -> torch.Tensor:
        """Round to eleven bits."""
        exact = torch.tanh(z)
        step = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 11)
        return torch.where(exact.abs() < 1, torch.round(exact / step) * step, exact)


class GeluTanhOverflows(CorrectGeluAndMul):
    """tanh is (exp(2z) - 1) / (exp(2z) + 1), which is NaN for large z."""

    caught_by = ALL

    def tanh(self, z: torch.Tensor) -> torch.Tensor:
        """Divide infinity by infinity."""
        power = torch.exp(2.0 * z)
        return (power - 1.0) / (power + 1.0)


class GeluErfIsAPolynomial(CorrectGeluAndMul):
    """erf is a polynomial of three terms, right to 2.5e-5 (Abramowitz and Stegun, 7.1.25)."""

    caught_by = ALL

    def erf(self, z: torch.Tensor) -> torch.Tensor:
        """Return the polynomial."""
        t = 1.0 / (1.0 + 0.47047 * z.abs())
        terms = t * (0.3480242 + t * (-0.0958798 + t * 0.7478556))
        return torch.sign(z) * (1.0 - terms * torch.exp(-z * z))


class GeluCutOff(CorrectGeluAndMul):
    """Gates below -3 give zero: the tail is taken for nothing."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Cut the tail off."""
        return torch.where(gate < -3.0, 0.0 * gate, super().activate(gate, approximate))


class GeluRounded(CorrectGeluAndMul):
    """The activation passes through float16, which the contract does not say."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, approximate: str) -> torch.Tensor:
        """Round once more."""
        return super().activate(gate, approximate).half().float()


class GeluUpRounded(CorrectGeluAndMul):
    """A wider up loses bits: it is cast to the gate's dtype before the product."""

    caught_by = ALL

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Cast it."""
        return act * up.to(gate.dtype).float()


class GeluLastColumnNotWritten(CorrectGeluAndMul):
    """A loop over pairs of columns leaves the last one of an odd row as it was allocated."""

    caught_by = ("values", "layout", "specials", "written")

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Write an even number of columns."""
        out = torch.empty(gate.shape, dtype=gate.dtype)
        even = gate.shape[-1] // 2 * 2
        out[..., :even].copy_(y[..., :even])
        return out


class GeluTruncated(CorrectGeluAndMul):
    """The store of a bfloat16 product takes the upper half of its bits."""

    caught_by = ALL

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Clear the lower half."""
        low = (y.view(torch.int32) & ~0xFFFF).view(torch.float32) if gate.dtype == torch.bfloat16 else y
        return super().store(low, gate)


class GeluHalvesInterleaved(CorrectGeluAndMul):
    """Gate and up are read as one contiguous buffer of both, whatever their strides."""

    caught_by = WRONG_MEMORY

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Read neighbours in memory."""
        self.check(gate, up, approximate)
        if gate.numel():
            gate, up = reread(gate, dense(gate.shape)), reread(up, dense(up.shape))
        return super().gelu_and_mul(gate, up, approximate=approximate)


class GeluUpHasStridesOfTheGate(CorrectGeluAndMul):
    """One row stride, the gate's, is used for both halves."""

    caught_by = WRONG_MEMORY

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Read up at the gate's places."""
        self.check(gate, up, approximate)
        return super().gelu_and_mul(gate, reread(up, gate.stride()) if up.numel() else up, approximate=approximate)


class GeluHidesNan(CorrectGeluAndMul):
    """A product that is NaN is stored as zero."""

    caught_by = ("specials",)

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return (act * up).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class GeluInTheWiderDtype(CorrectGeluAndMul):
    """The product has the dtype that torch promotes gate and up to."""

    caught_by = ("metadata",)

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Promote."""
        y = super().gelu_and_mul(gate, up, approximate=approximate)
        return y.to(torch.promote_types(gate.dtype, up.dtype))


class GeluOutputHasStridesOfTheGate(CorrectGeluAndMul):
    """The output is allocated like the gate, strides and all."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Keep the gate's strides."""
        return torch.empty_like(gate).copy_(y)


class GeluOverwritesTheGate(CorrectGeluAndMul):
    """The activation is left in the gate as well."""

    caught_by = ("memory", "values", "layout")

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Change the argument."""
        y = super().gelu_and_mul(gate, up, approximate=approximate)
        if 0 not in gate.stride():
            gate.copy_(self.activate(self.load(gate), approximate))
        return y


class GeluTakesAnyUp(CorrectGeluAndMul):
    """An up of another shape is not refused, as long as it broadcasts."""

    caught_by = ("errors",)

    def check(self, gate: torch.Tensor, up: torch.Tensor, approximate: str) -> None:
        """Look at the name of the formula alone."""
        if approximate not in {"none", "tanh"}:
            raise ValueError("gelu_and_mul: the formula is unknown")


class GeluTakesAnyApproximation(CorrectGeluAndMul):
    """A name that no formula has is taken for erf."""

    caught_by = ("errors",)

    def check(self, gate: torch.Tensor, up: torch.Tensor, approximate: str) -> None:
        """Look at the tensors alone."""
        super().check(gate, up, "none")


class GeluInPlaceReturnsAFreshTensor(CorrectGeluAndMul):
    """The in-place form returns a product, and leaves the gate alone."""

    caught_by = ("in_place",)

    def gelu_and_mul_(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Write nothing."""
        return self.gelu_and_mul(gate, up, approximate=approximate)
