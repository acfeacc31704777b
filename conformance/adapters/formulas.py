"""The operations in plain PyTorch: arithmetic in float32, each result rounded once, nothing rounded between.

Users give such formulas to ``torch.compile``. The sum with a residual is normalised before it is rounded, as
inductor does with a formula that rounds it: this says so, and the same holds in eager mode.
"""

from __future__ import annotations

import torch
from torch.nn import functional

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
FLOOR = 1e-10  # floor of a group's largest magnitude, as in the operation's definition


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    residual: torch.Tensor | None,
    weight_offset: float,
    eps: float,
) -> Norm:
    """Return ``s * rsqrt(mean(s²) + eps) * (weight_offset + weight)``, in x's dtype, and ``s = x + residual``."""
    total, y = _normed(x, weight, residual, weight_offset, eps)
    return y.to(x.dtype) if residual is None else (y.to(x.dtype), total.to(x.dtype))


def rms_norm_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,
    activation: str,
) -> torch.Tensor:
    """Return each group's norm times weight and activated gate, or the norm of x times that gate; in x's dtype."""
    return _gated(x, gate, weight, eps, group_size, activation, norm_before_gate=norm_before_gate).to(x.dtype)


def rms_norm_fp8(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    residual: torch.Tensor | None,
    weight_offset: float,
    eps: float,
    quant_group: int | None,
    scale_layout: str,
    fp8_dtype: torch.dtype,
    also_unquantised: bool,
) -> tuple[torch.Tensor, ...]:
    """Return values and scales of the norm, y itself if asked for, and s."""
    total, y = _normed(x, weight, residual, weight_offset, eps)
    outputs = quantised(y, quant_group, scale_layout, fp8_dtype)
    wanted = (y.to(x.dtype),) if also_unquantised else ()
    return (*outputs, *wanted, *(() if residual is None else (total.to(x.dtype),)))


def rms_norm_gated_fp8(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,
    activation: str,
    quant_group: int | None,
    scale_layout: str,
    fp8_dtype: torch.dtype,
    also_unquantised: bool,
) -> tuple[torch.Tensor, ...]:
    """Return values and scales of the gated norm, and y itself if asked for."""
    y = _gated(x, gate, weight, eps, group_size, activation, norm_before_gate=norm_before_gate)
    outputs = quantised(y, quant_group, scale_layout, fp8_dtype)
    return (*outputs, y.to(x.dtype)) if also_unquantised else outputs


def quantised(
    y: torch.Tensor, group: int | None, layout: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``y`` over its scale, and the scale: a group's largest magnitude over ``dtype``'s largest number.

    ``y`` is ``(*leading, n)``; the scales are float32, ``(*leading, groups)``, a shorter last group among them.
    """
    n, largest = y.shape[-1], torch.finfo(dtype).max
    size = min(group or n, n)
    groups = torch.unflatten(functional.pad(y.float(), (0, -n % size)), -1, (-1, size))
    scales = groups.abs().amax(-1).clamp(min=FLOOR) / largest
    values = (groups / scales[..., None]).clamp(-largest, largest).to(dtype).flatten(-2)[..., :n].contiguous()
    if layout == "column" and scales.dim() > 1:
        leading = scales.shape[:-1]
        scales = torch.unflatten(scales.flatten(0, -2).t().contiguous().t(), 0, leading)
    return values, scales


def mrope(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: tuple[int, int, int],
    head_dim: int | None,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate every head in halves by the angles at its token's three positions; copy the rest of the head."""
    axes = axis_of_frequency(cos.shape[1], sections, q.device, interleaved=interleaved)
    index = positions.expand(3, -1)[axes].t().long()
    c, s = (table.float().gather(0, index)[:, None] for table in (cos, sin))
    return _turned(q, c, s, head_dim), _turned(k, c, s, head_dim)


def axis_of_frequency(
    half: int, sections: tuple[int, int, int], device: torch.device, *, interleaved: bool
) -> torch.Tensor:
    """Return each frequency's position axis: section after section, or interleaved as long as sections last.

    The result is computed on the device: a graph could not record a copy from the host.
    """
    frequency = torch.arange(half, device=device)
    if not interleaved:
        return (frequency >= sections[0]).long() + (frequency >= sections[0] + sections[1])
    turn = frequency % 3
    lasts = ((turn == 1) & (frequency < 3 * sections[1])) | ((turn == 2) & (frequency < 3 * sections[2]))
    return torch.where(lasts, turn, 0)


def _normed(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    offset: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum and its norm, both in float32."""
    total = x.float() if residual is None else x.float() + residual.float()
    y = _scaled(total, eps)
    # without a weight the factor is one
    return total, y * (offset + (1.0 if weight is None else weight.float()))


def _gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    group_size: int | None,
    activation: str,
    *,
    norm_before_gate: bool,
) -> torch.Tensor:
    y, factor = x.float(), None if gate is None else _activated(gate.float(), activation)
    if factor is not None and not norm_before_gate:
        y = y * factor
    y = _scaled(torch.unflatten(y, -1, (-1, group_size or x.shape[-1])), eps).flatten(-2) * weight.float()
    return y if factor is None or not norm_before_gate else y * factor


def _activated(gate: torch.Tensor, activation: str) -> torch.Tensor:
    return torch.sigmoid(gate) if activation == "sigmoid" else functional.silu(gate)


def _scaled(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, head_dim: int | None) -> torch.Tensor:
    heads = x if head_dim is None else torch.unflatten(x, -1, (-1, head_dim))
    half = cos.shape[-1]
    first, second, rest = torch.split(heads, [half, half, heads.shape[-1] - 2 * half], -1)
    y1 = (first.float() * cos - second.float() * sin).to(x.dtype)
    y2 = (second.float() * cos + first.float() * sin).to(x.dtype)
    return torch.cat((y1, y2, rest), -1).reshape(x.shape)
