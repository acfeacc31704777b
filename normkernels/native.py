"""Every operation in plain PyTorch, in the kernels' contract: the last path, and the one with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from normkernels import fp8
from normkernels.strides import by_heads

_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    eps: float,
    offset: float,
    rounding: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the norm of x, or of its rounded sum with the residual, and that sum; both contiguous.

    Arithmetic is fp32, or float64 for float64; ``rounding="hf"`` rounds after the norm and the weight.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    total = None
    if residual is not None:
        x = total = (x.to(wide) + residual.to(wide)).to(x.dtype).contiguous()
    narrow = x.dtype

    y = x.to(wide)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    if weight is not None:
        narrow = torch.promote_types(narrow, weight.dtype)
    factor = x.new_ones((), dtype=wide) if weight is None else weight.to(wide)
    # only where there is one: 0.0 + weight would lose the sign of a zero
    y = y * (factor + offset if offset else factor)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    return y.to(x.dtype).contiguous(), total


def rms_norm_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    width: int,
    gated: str,
    activation: str,
    rounding: str,
) -> torch.Tensor:
    """Return the gated norm of groups of ``width`` columns, contiguous and in x's dtype.

    Arithmetic is fp32, or float64 for float64; ``rounding="hf"`` rounds after the norm and the weight.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y, narrow = x.to(wide), x.dtype
    if gate is not None:
        act = _ACTIVATIONS[activation](gate.to(wide))
        if gated == "before":
            y, narrow = y * act, torch.promote_types(narrow, gate.dtype)

    groups = y.reshape(*x.shape[:-1], x.shape[-1] // width if width else 0, width)
    inv_rms = torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)
    y = (groups * inv_rms).flatten(-2)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    y = y * weight.to(wide)
    if rounding == "hf":
        y = y.to(torch.promote_types(narrow, weight.dtype)).to(wide)

    if gate is not None and gated == "after":
        y = y * act
    return y.to(x.dtype).contiguous()


def mrope(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: tuple[int, int, int],
    head_dim: int,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q and k rotated, contiguous and each in its shape and dtype.

    Arithmetic is fp32, or float64 for float64. A token with a position outside the cache becomes NaN where it
    is rotated, and nothing is read there.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    inside = (positions >= 0) & (positions < cos.shape[0])
    rows = torch.where(inside, positions, 0).expand(3, -1)
    known = inside.expand(3, -1).all(0)[:, None]

    def angles(table: torch.Tensor) -> torch.Tensor:
        # an empty cache has no row to read either
        table = table if table.shape[0] else table.new_zeros(1, table.shape[1])
        t, h, w = table[rows].to(wide)
        row = _by_axis(t, h, w, sections, interleaved=interleaved)
        return torch.where(known, row, torch.nan)[:, None]

    c, s, half = angles(cos), angles(sin), cos.shape[1]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        by_head = by_heads(x, head_dim)
        x1, x2 = (by_head[..., columns].to(wide) for columns in (slice(half), slice(half, 2 * half)))
        parts = ((x1 * c - x2 * s).to(x.dtype), (x2 * c + x1 * s).to(x.dtype), by_head[..., 2 * half :])
        return torch.cat(parts, -1).view(x.shape)

    return rotated(q), rotated(k)


def _by_axis(
    t: torch.Tensor, h: torch.Tensor, w: torch.Tensor, sections: tuple[int, int, int], *, interleaved: bool
) -> torch.Tensor:
    """Return rows of frequencies, each taken from its axis; by slices, which tensors of every kind have."""
    of_t, of_h, of_w = sections
    if not interleaved:
        return torch.cat((t[:, :of_t], h[:, of_t : of_t + of_h], w[:, of_t + of_h :]), -1)
    for first, axis, count in ((1, h, of_h), (2, w, of_w)):
        turns = slice(first, max(first, 3 * count), 3)
        t = torch.slice_scatter(t, axis[:, turns], -1, turns.start, turns.stop, 3)
    return t


def rms_norm_fp8(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    eps: float,
    offset: float,
    rounding: str,
    how: fp8.Quantisation,
    unquantised: bool,
) -> tuple[torch.Tensor, ...]:
    """Return values and scales of ``rms_norm``, then it and the sum where there are any."""
    y, total = rms_norm(x, weight, residual, eps=eps, offset=offset, rounding=rounding)
    return fp8.results(*_quantised(y, how), y if unquantised else None, total)


def rms_norm_gated_fp8(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    width: int,
    gated: str,
    activation: str,
    rounding: str,
    how: fp8.Quantisation,
    unquantised: bool,
) -> tuple[torch.Tensor, ...]:
    """Return values and scales of ``rms_norm_gated``, then it where it was asked for."""
    y = rms_norm_gated(
        x, gate, weight, eps=eps, width=width, gated=gated, activation=activation, rounding=rounding
    )
    return fp8.results(*_quantised(y, how), y if unquantised else None, None)


def _quantised(y: torch.Tensor, how: fp8.Quantisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of y, contiguous, and their scales."""
    scales = fp8.empty_scales(y, how)
    if not y.numel():
        return y.to(how.dtype), scales
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    groups = functional.pad(wide, (0, -y.shape[-1] % how.group)).reshape(*y.shape[:-1], -1, how.group)
    amax = groups.abs().amax(-1).clamp(min=fp8.FLOOR)
    # a tensor: by a number PyTorch divides otherwise on a GPU, multiplying by its reciprocal
    scales.copy_(amax / wide.new_full((), how.max))
    values = (groups / scales.unsqueeze(-1)).clamp(-how.max, how.max)
    return values.flatten(-2)[..., : y.shape[-1]].contiguous().to(how.dtype), scales
