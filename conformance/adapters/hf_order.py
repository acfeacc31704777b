"""The package of this repository with ``rounding="hf"``: Hugging Face's order, two roundings more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

import normkernels
from conformance.adapters.normkernels import Flag, NormKernels, Results
from conformance.oracle.contract import NAMED, Contract

HF = NAMED["hf"]


class HfOrder(NormKernels):
    """``normkernels`` with ``rounding="hf"``; with an offset it rounds once."""

    name = "normkernels-hf"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(HF | {"sum"}, "tile"),
        "gemma_rms_norm": Contract(frozenset({"sum"}), "tile"),
        "rms_norm_gated": Contract(HF, "tile"),
        "rms_norm_fp8": Contract(HF | {"sum", "unquantised"}, "tile"),
        "rms_norm_gated_fp8": Contract(HF | {"unquantised"}, "tile"),
    }
    # with an offset it is the contract of gemma_rms_norm
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "rms_norm": {"offset": "zero"},
        "gemma_rms_norm": {},
        "rms_norm_gated": {},
        "rms_norm_fp8": {"offset": "zero"},
        "rms_norm_gated_fp8": {},
    }
    reference = None

    def rms_norm(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation."""
        return super().rms_norm(*given, rounding="hf", **flags)

    def rms_norm_(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation with its outputs over x and the residual."""
        return super().rms_norm_(x, weight, rounding="hf", **flags)

    def gemma_rms_norm(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation, for which both orders are the same."""
        return super().gemma_rms_norm(*given, rounding="hf", **flags)

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return super().rms_norm_gated(*given, rounding="hf", **flags)

    def rms_norm_gated_(self, x: torch.Tensor, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation with its output over x."""
        return super().rms_norm_gated_(x, *given, rounding="hf", **flags)

    def rms_norm_fp8(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation."""
        return super().rms_norm_fp8(*given, rounding="hf", **flags)

    def rms_norm_fp8_(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation with its sum over the residual."""
        return super().rms_norm_fp8_(x, weight, rounding="hf", **flags)

    def rms_norm_gated_fp8(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return super().rms_norm_gated_fp8(*given, rounding="hf", **flags)

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Return the path that ``explain`` decides."""
        return normkernels.explain(operation, path=self.forced, rounding="hf", **arguments).name


class NativeHfOrder(HfOrder):
    """The same order in plain PyTorch."""

    name = "native-hf"
    forced = "native"
    batch_invariant = False
