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
        "rope": "fp32",
        "gelu_and_mul": "fp32",
        "quantise_fp8": "fp32",
        "qk_norm_rope": "fp32",
        "rms_norm_int8": Contract(frozenset({"sum", "unquantised"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in contracts}
    # PyTorch chooses how to sum by the whole shape
    batch_invariant = False
    # a compiler sees the operations of the package whole, and writes its own code for plain PyTorch
    compiles: Mapping[str, bool] = dict.fromkeys(NormKernels.contracts, True)
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

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Compute in float32, and round once."""
        if x.dim() == 0 or not x.is_floating_point():
            raise ValueError("softmax: x must be rows of floats")
        if mask is not None and (mask.shape != x.shape or mask.dtype not in {x.dtype, torch.float32, torch.bool}):
            raise ValueError("softmax: the mask must be in x's shape, of bools, or floats in x's dtype or float32")
        rows = x.float() if scale is None else x.float() * scale
        if mask is not None:
            rows = rows.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else rows + mask.float()
        powers = torch.exp(rows - rows.amax(-1, keepdim=True)) if x.numel() else rows
        return (powers / powers.sum(-1, keepdim=True)).to(x.dtype).contiguous()

    def rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, ...]:
        """Compute in float32, and round once."""
        _check_rotation("rope", q, k, positions, cos, sin, head_dim, pairs)
        angles = _angles(positions, cos, sin)
        return tuple(_turned(_heads(x, head_dim), angles, pairs).reshape(x.shape) for x in (q, k))

    def qk_norm_rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        eps: float,
        weight_offset: float,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, ...]:
        """Compute in float32, and round once."""
        _check_rotation("qk_norm_rope", q, k, positions, cos, sin, head_dim, pairs)
        angles, out = _angles(positions, cos, sin), []
        for x, weight in ((q, q_weight), (k, k_weight)):
            heads = _heads(x, head_dim).float()
            if weight.shape != heads.shape[-1:] or weight.dtype not in {q.dtype, torch.float32}:
                raise ValueError("qk_norm_rope: weights must be as long as a head, in q's dtype or float32")
            scale = torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps)
            normed = heads * scale * (weight_offset + weight.float())
            out.append(_turned(normed, angles, pairs).to(x.dtype).reshape(x.shape))
        return tuple(out)

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


def _check_rotation(
    name: str,
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    head_dim: int | None,
    pairs: str,
) -> None:
    """Raise ``ValueError`` for an argument that does not go with the others; values are read on a CPU alone."""
    size = head_dim or q.shape[-1]
    whole = q.shape[-1] == k.shape[-1] == size if q.dim() == 3 else head_dim is not None
    if q.dim() not in {2, 3} or k.dim() != q.dim() or len(k) != len(q) or not whole:
        raise ValueError(f"{name}: q and k must be (tokens, heads, head_dim), or flat with head_dim given")
    if q.shape[-1] % size or k.shape[-1] % size or not (q.is_floating_point() and k.is_floating_point()):
        raise ValueError(f"{name}: q and k must be whole heads of floats")
    tables = cos.dim() == 2 and cos.shape == sin.shape and 2 * cos.shape[-1] <= size
    if not tables or not all(x.dtype in {torch.float32, q.dtype} for x in (cos, sin)):
        raise ValueError(f"{name}: cos and sin must be (positions, rotary_dim // 2), in q's dtype or float32")
    if pairs not in {"halves", "neighbours"}:
        raise ValueError(f"{name}: pairs={pairs!r}, must be 'halves' or 'neighbours'")
    if positions is None:
        if len(cos) != len(q):
            raise ValueError(f"{name}: without positions cos and sin must have a row a token")
        return
    if positions.shape != q.shape[:1] or positions.dtype not in {torch.int32, torch.int64}:
        raise ValueError(f"{name}: positions must be a whole number a token")
    readable = positions.is_cpu and not torch.compiler.is_compiling()
    if readable and bool(((positions < 0) | (positions >= len(cos))).any()):
        raise ValueError(f"{name}: positions must be rows of cos")


def _angles(positions: torch.Tensor | None, *tables: torch.Tensor) -> list[torch.Tensor]:
    """Return cosines and sines of the tokens, for all heads: ``(tokens, 1, half)`` in float32."""
    return [(table if positions is None else table[positions.long()]).float()[:, None] for table in tables]


def _heads(x: torch.Tensor, head_dim: int | None) -> torch.Tensor:
    """Return q or k as ``(tokens, heads, head_dim)``."""
    return x if head_dim is None or x.dim() == 3 else x.reshape(len(x), x.shape[1] // head_dim, head_dim)


def _turned(heads: torch.Tensor, angles: list[torch.Tensor], pairs: str) -> torch.Tensor:
    """Rotate every head, ``(tokens, heads, head_dim)``, by angles in float32."""
    cos, sin = angles
    half = cos.shape[-1]
    rotary, rest = heads.tensor_split([2 * half], -1)
    parts = rotary.float()
    if pairs == "halves":
        x1, x2 = parts.tensor_split([half], -1)
    else:
        x1, x2 = parts[..., ::2], parts[..., 1::2]
    turned = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    y = torch.cat(turned, -1) if pairs == "halves" else torch.stack(turned, -1).flatten(-2)
    return torch.cat((y.to(heads.dtype), rest), -1)
