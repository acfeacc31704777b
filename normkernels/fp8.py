"""What fp8 results are: their types, the scales of a row and where they lie, the order of results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each type with Triton's name for it. Their largest numbers are torch.finfo's: 448, and 240 for fnuz.
TYPES: Mapping[torch.dtype, str] = {torch.float8_e4m3fn: "fp8e4nv", torch.float8_e4m3fnuz: "fp8e4b8"}
LAYOUTS = ("row", "column")
# The least amax that a scale is made of: a group of zeros has a scale, and one that is no subnormal.
FLOOR = 1e-10


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the rows of a result become values and scales."""

    dtype: torch.dtype
    group: int  # columns that share a scale; the last group of a row may be shorter
    layout: str

    @property
    def max(self) -> float:
        """Return the largest number of the type."""
        return torch.finfo(self.dtype).max


def name(dtype: torch.dtype) -> str:
    """Return a dtype's name without torch's."""
    return str(dtype).removeprefix("torch.")


def group_columns(quant_group: int | None, n: int) -> int:
    """Return the columns of a whole group in a row of ``n``."""
    return n if quant_group is None else min(quant_group, n)


def empty_scales(x: torch.Tensor, how: Quantisation) -> torch.Tensor:
    """Return memory for the scales of ``x``: fp32, ``(*leading, groups)``, in the layout asked for.

    ``row`` is contiguous. ``column`` is so with the groups outermost: the scales of one group lie beside each
    other over all rows, the leading sizes collapse to one with stride 1, and the last stride is the row count.
    """
    *leading, n = x.shape
    groups = -(-n // how.group) if how.group else 0
    if how.layout == "row":
        return x.new_empty((*leading, groups), dtype=torch.float32)
    return x.new_empty((groups, *leading), dtype=torch.float32).movedim(0, -1)


def results(
    values: torch.Tensor, scales: torch.Tensor, y: torch.Tensor | None, total: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """Return what a call returns, in order: the unquantised y and the sum where there are any."""
    return tuple(tensor for tensor in (values, scales, y, total) if tensor is not None)
