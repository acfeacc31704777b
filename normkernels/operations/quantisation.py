"""Fp8 results: how values are quantised, the layout of scales, and the native form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from normkernels import checks
from normkernels.call import FP8
from normkernels.errors import InvalidCall

LAYOUTS = ("row", "column")
# The least amax that a scale is made of: a group of zeros has a scale, and one that is no subnormal.
FLOOR = 1e-10


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the rows of a result become values and scales."""

    dtype: torch.dtype
    group: int  # columns that share a scale; the last group of a row may be shorter
    layout: str
    unquantised: bool  # whether the norm is returned as well

    @property
    def max(self) -> float:
        """Return the largest number of the type."""
        return torch.finfo(self.dtype).max


def resolve(operation: str, given: Mapping[str, Any]) -> Quantisation:
    """Return how a call quantises."""
    columns = given["quant_group"]
    if columns is not None and not checks.is_count(columns):
        raise InvalidCall(f"{operation}: quant_group={columns!r}, must be None or a number of columns, at least 1")
    checks.choice(operation, "scale_layout", given["scale_layout"], LAYOUTS)
    checks.choice(operation, "fp8_dtype", given["fp8_dtype"], tuple(FP8))
    checks.choice(operation, "also_unquantised", given["also_unquantised"], (True, False))
    n = given["x"].shape[-1]
    group = n if columns is None else min(columns, n)
    return Quantisation(given["fp8_dtype"], group, given["scale_layout"], given["also_unquantised"])


def no_gradient(operation: str, needs: str) -> InvalidCall:
    """Return the refusal of a call that would have to be differentiated."""
    return InvalidCall(
        f"{operation}: {needs} needs a gradient, must not, for fp8 values have none: call it under torch.no_grad()"
    )


def empty_scales(x: torch.Tensor, how: Quantisation) -> torch.Tensor:
    """Return memory for the scales of ``x``: fp32, ``(*leading, groups)``.

    Layout ``row`` is contiguous. In ``column`` the groups are outermost: the scales of one group are neighbours over
    all rows, the leading sizes collapse to one with stride 1, and the last stride is the number of rows.
    """
    *leading, n = x.shape
    groups = -(-n // how.group) if how.group else 0
    if how.layout == "row":
        return x.new_empty((*leading, groups), dtype=torch.float32)
    return x.new_empty((groups, *leading), dtype=torch.float32).movedim(0, -1)


def native(y: torch.Tensor, how: Quantisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of y, contiguous, and their scales.

    ``scale = max(amax(|y|), FLOOR) / max`` and ``y / scale``, in fp32 (float64 for float64), rounded to nearest.
    """
    scales = empty_scales(y, how)
    if not y.numel():
        return y.to(how.dtype), scales
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    groups = functional.pad(wide, (0, -y.shape[-1] % how.group)).reshape(*y.shape[:-1], -1, how.group)
    amax = groups.abs().amax(-1).clamp(min=FLOOR)
    # a tensor: by a number PyTorch divides otherwise on a GPU, multiplying by its reciprocal
    scales.copy_(amax / wide.new_full((), how.max))
    values = (groups / scales.unsqueeze(-1)).clamp(-how.max, how.max)
    return values.flatten(-2)[..., : y.shape[-1]].contiguous().to(how.dtype), scales
