"""Tensors of calls: values that depend only on a name, layouts, and the device that runs the kernels."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from normkernels.call import interpreting

Arguments = dict[str, Any]

# with --device cpu kernels are interpreted, GPU or not
DEVICE = "cuda" if torch.cuda.is_available() and not interpreting() else "cpu"
LAYOUTS = ("contiguous", "row gap", "step", "transposed")


def values(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normal values that depend only on the name and the shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values with gaps between the rows."""
    wider = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 16), torch.nan, dtype=tensor.dtype)
    return wider.to(tensor.device)[..., 8:-8].copy_(tensor)


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """Return the same values in the layout named."""
    if layout == "row gap":
        return strided(tensor)
    if layout == "step":
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    return tensor.clone()


def split(arguments: Arguments) -> tuple[dict[str, torch.Tensor], Arguments]:
    """Return the tensors of a call, and the flags."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in arguments.items() if name not in tensors}
