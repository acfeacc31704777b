"""The native PyTorch path of ``normkernels``, with which every other path is compared.

Operations that ``normkernels`` does not have are plain PyTorch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapters.normkernels import NormKernels
from conformance.oracle.contract import Contract


class Native(NormKernels):
    """``normkernels`` with ``path="native"``, and in plain PyTorch what that does not have."""

    name = "native"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        **NormKernels.contracts,
        "layer_norm": "fp32",
        "silu_and_mul": "fp32",
        "l2_norm": "fp32",
        "softmax": "fp32",
        "gelu_and_mul": "fp32",
        "quantise_fp8": "fp32",
        "rms_norm_int8": Contract(frozenset({"sum", "unquantised"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in contracts}
    # PyTorch chooses how to sum by the whole shape
    batch_invariant = False
    reference = None
    forced = "native"

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Compute in float32, in two passes, and round once."""
        vectors = [vector for vector in (weight, bias) if vector is not None]
        fit = (v.shape == x.shape[-1:] and v.dtype in {x.dtype, torch.float32} for v in vectors)
        if x.dim() == 0 or not x.is_floating_point() or not all(fit):
            raise ValueError(
                "layer_norm: x must be rows of floats, weight and bias as long, in x's dtype or float32"
            )
        rows = x.float()
        centred = rows - rows.mean(-1, keepdim=True)
        y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        y = y if weight is None else y * weight.float()
        y = y if bias is None else y + bias.float()
        return y.to(x.dtype).contiguous()

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Compute in float32, and round once."""
        if gate.dim() == 0 or gate.shape != up.shape or not (gate.is_floating_point() and up.is_floating_point()):
            raise ValueError("silu_and_mul: gate and up must be rows of floats in one shape")
        return (torch.nn.functional.silu(gate.float()) * up.float()).to(gate.dtype).contiguous()

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Compute in float32, and round once."""
        if x.dim() == 0 or not x.is_floating_point():
            raise ValueError("l2_norm: x must be rows of floats")
        rows = x.float()
        return (rows * torch.rsqrt(rows.square().sum(-1, keepdim=True) + eps)).to(x.dtype).contiguous()

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        """Compute in float32, and round once."""
        if x.dim() == 0 or not x.is_floating_point():
            raise ValueError("softmax: x must be rows of floats")
        rows = x.float()
        powers = torch.exp(rows - rows.amax(-1, keepdim=True)) if x.numel() else rows
        return (powers / powers.sum(-1, keepdim=True)).to(x.dtype).contiguous()

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Compute in float32, and round once; by the complement of erf, which does not cancel."""
        if gate.dim() == 0 or gate.shape != up.shape or not (gate.is_floating_point() and up.is_floating_point()):
            raise ValueError("gelu_and_mul: gate and up must be rows of floats in one shape")
        if approximate not in {"none", "tanh"}:
            raise ValueError(f"gelu_and_mul: approximate={approximate!r}, must be 'none' or 'tanh'")
        z = gate.float()
        if approximate == "tanh":
            act = torch.nn.functional.gelu(z, approximate="tanh")
        else:
            act = 0.5 * z * torch.special.erfc(z * -math.sqrt(0.5))
        return (act * up.float()).to(gate.dtype).contiguous()

    def quantise_fp8(
        self, x: torch.Tensor, *, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure and divide in float32, and round once."""
        if x.dim() == 0 or not x.is_floating_point():
            raise ValueError("quantise_fp8: x must be rows of floats")
        if fp8_dtype.itemsize != 1 or not fp8_dtype.is_floating_point:
            raise ValueError(f"quantise_fp8: fp8_dtype={fp8_dtype}, must have 8 bits")
        if scale_layout not in {"row", "column"} or (quant_group is not None and quant_group < 1):
            raise ValueError(f"quantise_fp8: quant_group={quant_group}, scale_layout={scale_layout!r}")
        *leading, n = x.shape
        group = min(quant_group or n, n) or 1
        filled = torch.nn.functional.pad(x.float(), (0, -n % group))
        groups = filled.reshape(*leading, filled.shape[-1] // group, group)
        largest = torch.finfo(fp8_dtype).max
        amax = groups.abs().amax(-1) if x.numel() else groups.sum(-1)
        scales = amax.clamp(min=1e-10) / largest
        quotients = (groups / scales[..., None]).reshape(filled.shape)[..., :n]
        values = quotients.clamp(-largest, largest).to(fp8_dtype).contiguous()
        if scale_layout == "column":
            scales = scales.movedim(-1, 0).contiguous().movedim(0, -1)
        return values, scales

    def rms_norm_int8(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, ...]:
        """Quantise what ``rms_norm`` returns, which is rounded to x's dtype."""
        made = self.rms_norm(x, weight, residual=residual, weight_offset=0.0, eps=eps)
        y, *s = (made,) if isinstance(made, torch.Tensor) else made
        stream = y.float()
        amax = stream.abs().amax(-1, keepdim=True) if x.numel() else stream.sum(-1, keepdim=True)
        scales = amax.clamp(min=1e-10) / 127.0
        # no integer stands for NaN: the scale shows it
        values = (stream / scales).round().clamp(-127.0, 127.0).nan_to_num(nan=0.0)
        return (values.to(torch.int8), scales, *s)

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Return ``native``, also for what ``normkernels`` does not have."""
        return super().path(operation, arguments) if operation in NormKernels.contracts else "native"

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return nothing: no plans."""
        return ()

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return nothing: no plans."""
        return ()
