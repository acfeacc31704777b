"""Fakes that round in places other than their contract says, or not to nearest even."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import NAMED, Contract
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.summation import serial

ALL: tuple[str, ...] = ("values", "layout", "specials")


class TruncatesAtTheStore(Correct):
    """Cuts the low bits off instead of rounding: a bias that every tolerance accepts."""

    caught_by = ALL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Clear the bits that a bf16 does not have."""
        cut = y.contiguous().view(torch.int32) & -0x10000
        return super().store(cut.view(torch.float32) if x.dtype == torch.bfloat16 else y, x)


class RoundsBeforeTheWeight(Correct):
    """Rounding follows Hugging Face's order, declared as fp32."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round to x's dtype in between."""
        return super().normalise(stream, group, eps, x).to(x.dtype).float()


class HfDeclaredTwoStep(Correct):
    """Rounds the normalised and the weighted values, and declares the weighted and the activated ones."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": Contract(NAMED["two_step"], "tile")}
    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round to x's dtype in between, and keep it."""
        return super().normalise(stream, group, eps, x).to(x.dtype)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply in the dtype of the operands."""
        return (y * weight).float()


class Fp32DeclaredHf(Correct):
    """Rounds once, and declares Hugging Face's order."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": Contract(NAMED["hf"], "tile")}
    caught_by = ALL


class RoundsTheActivation(Correct):
    """The activated gate is stored in the gate's dtype before the product."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Round in between."""
        return super().activate(gate, activation, x).to(gate.dtype).float()


class RoundsInverseRms(Correct):
    """``1 / rms`` is saved in bf16 between two kernels."""

    caught_by = ALL

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Round in between."""
        return super().inverse_rms(grouped, eps).bfloat16().float()


class CoarseRsqrt(Correct):
    """The reciprocal root is an approximation of 12 bits without a Newton step."""

    caught_by = ALL

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Keep 12 bits."""
        exact = super().inverse_rms(grouped, eps)
        return (exact.view(torch.int32) & -0x800).view(torch.float32)


class SerialSum(Correct):
    """One running sum along the row, undeclared: its error grows with the width."""

    caught_by = ALL

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add one column after another in fp32."""
        return serial(grouped.pow(2)) / grouped.shape[-1]


class SigmoidFromTanh(Correct):
    """``0.5 * tanh(z / 2) + 0.5``: no relative accuracy is left at very negative gates."""

    caught_by = ALL

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Compute the sigmoid from tanh, which cancels."""
        z = gate.float()
        sigmoid = 0.5 * torch.tanh(0.5 * z) + 0.5
        return sigmoid if activation == "sigmoid" else z * sigmoid


class EagerArithmetic(Correct):
    """Every step in the tensors' own dtype, declared as fp32."""

    caught_by = ALL

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Do not convert."""
        return x

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Activate in the gate's dtype."""
        return super().activate(gate, activation, x).to(gate.dtype)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply in the dtype of the operands."""
        return y * weight
