"""Every operation in plain PyTorch, in the kernels' contract: the last path, and the one with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


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
