"""Fakes that mistake ``silu(gate) * up``: the activation, which half is which, and memory."""

from __future__ import annotations

import torch
from torch.nn import functional

from conformance.selftest.fakes.correct_silu_and_mul import CorrectSiluAndMul
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class SiluOfTheOtherHalf(CorrectSiluAndMul):
    """The halves of the projection are swapped: silu(up) * gate."""

    caught_by = ALL

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Activate the other one."""
        return self.activate(up) * gate.float()


class SiluIsASigmoid(CorrectSiluAndMul):
    """The gate is a sigmoid, not multiplied by itself."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid."""
        return torch.sigmoid(gate)


class SiluIsAGelu(CorrectSiluAndMul):
    """The activation is GeGLU's: by the error function."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return a gelu."""
        return functional.gelu(gate)


class SiluIsQuick(CorrectSiluAndMul):
    """The sigmoid is of 1.702 times the gate, as in the quick form of a gelu."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Scale inside the sigmoid."""
        return gate * torch.sigmoid(1.702 * gate)


class SiluIsHard(CorrectSiluAndMul):
    """The sigmoid is piecewise linear."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return hard swish."""
        return functional.hardswish(gate)


class SiluDropped(CorrectSiluAndMul):
    """The gate is multiplied without an activation."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return it as it is."""
        return gate


class SiluOverflows(CorrectSiluAndMul):
    """The sigmoid is exp(z) / (1 + exp(z)), which is NaN for large z."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Divide infinity by infinity."""
        return gate * (torch.exp(gate) / (1 + torch.exp(gate)))


class SiluClamped(CorrectSiluAndMul):
    """The gate is clamped at 7, as another model's product has it."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Cut large gates off."""
        return super().activate(gate.clamp(max=7.0))


class SiluRounded(CorrectSiluAndMul):
    """The activation is rounded to float16 before the product, which the contract does not say."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor) -> torch.Tensor:
        """Round once more."""
        return super().activate(gate).half().float()


class SiluUpRounded(CorrectSiluAndMul):
    """A wider up is cast to the gate's dtype before the product."""

    caught_by = ALL

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Lose the bits that the gate's dtype does not have."""
        return act * up.to(gate.dtype).float()


class SiluUpPlusOne(CorrectSiluAndMul):
    """One is added to up, as another model's product has it."""

    caught_by = ALL

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Add one."""
        return act * (up + 1.0)


class SiluLastColumnNotWritten(CorrectSiluAndMul):
    """A mask is off by one: the last column of a row is left as it was allocated."""

    caught_by = ("values", "layout", "specials", "written")

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Leave the last column out."""
        out = torch.empty(gate.shape, dtype=gate.dtype)
        out[..., :-1].copy_(y[..., :-1])
        return out


class SiluTruncated(CorrectSiluAndMul):
    """The store cuts low bits off in place of rounding."""

    caught_by = ALL

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Clear the bits that bfloat16 does not have."""
        low = (y.view(torch.int32) & ~0xFFFF).view(torch.float32) if gate.dtype == torch.bfloat16 else y
        return super().store(low, gate)


class SiluUpStrideIgnored(CorrectSiluAndMul):
    """The strides of up are never looked at: it is read as if it were contiguous."""

    caught_by = WRONG_MEMORY

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Read neighbours in memory."""
        self.check(gate, up)
        return super().silu_and_mul(gate, reread(up, dense(up.shape)) if up.numel() else up)


class SiluGateStrideIgnored(CorrectSiluAndMul):
    """The strides of the gate are never looked at: it is read as if it were contiguous."""

    caught_by = WRONG_MEMORY

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Read neighbours in memory."""
        self.check(gate, up)
        return super().silu_and_mul(reread(gate, dense(gate.shape)) if gate.numel() else gate, up)


class SiluHidesNan(CorrectSiluAndMul):
    """A NaN of the product becomes a zero."""

    caught_by = ("specials",)

    def multiply(self, act: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return (act * up).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class SiluInTheWiderDtype(CorrectSiluAndMul):
    """The output has the promoted dtype of both."""

    caught_by = ("metadata",)

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Promote."""
        return super().silu_and_mul(gate, up).to(torch.promote_types(gate.dtype, up.dtype))


class SiluOutputHasStridesOfTheGate(CorrectSiluAndMul):
    """Allocates the product with ``empty_like``, which keeps the gate's strides."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Keep the gate's strides."""
        return torch.empty_like(gate).copy_(y)


class SiluOverwritesUp(CorrectSiluAndMul):
    """Leaves the product in up as well."""

    caught_by = ("memory", "values", "layout")

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Change the argument."""
        y = super().silu_and_mul(gate, up)
        if 0 not in up.stride():
            up.copy_(y)
        return y


class SiluTakesAnyUp(CorrectSiluAndMul):
    """An up that broadcasts is not refused."""

    caught_by = ("errors",)

    def check(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        """Let torch decide."""


class SiluInPlaceReturnsAFreshTensor(CorrectSiluAndMul):
    """The in-place form returns the product, and leaves the gate as it was."""

    caught_by = ("in_place",)

    def silu_and_mul_(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Write nothing."""
        return self.silu_and_mul(gate, up)
