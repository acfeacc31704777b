"""Shortcuts for norms with fp8 values."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import is_grad_enabled

from normkernels import launch
from normkernels.launch import ALIGNMENT
from normkernels.shortcuts import any_wants_gradient, contiguous, empty_beside, fits, keep, transforms

if TYPE_CHECKING:
    from collections.abc import Callable

    from normkernels.fp8 import Quantisation
    from normkernels.launch import Repeats
    from normkernels.shortcuts import Again, Like


def keep_rows_fp8(
    like: Like,
    repeats: Repeats,
    x: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor | None,
    *,
    how: Quantisation,
    spans: int,
    unquantised: bool,
    sums: bool | None,
) -> None:
    """Keep a shortcut for a norm with fp8 values and new outputs: its kernel counts ``spans`` for each row."""
    if like is None or weight is None or not fits(repeats, x, beside, sums=sums):
        return
    lone = beside is None or beside is x
    given = [x, weight] if beside is None or beside is x else [x, weight, beside]
    wanted = any_wants_gradient(given)
    index, dtype, sizes = x.device.index, x.dtype, tuple(x.shape[1:])
    inner, strides, empty = prod(sizes), contiguous(sizes), empty_beside(x)
    per, fitting, fp8_dtype, fp32 = prod(sizes[:-1]), repeats.fitting, how.dtype, torch.float32
    groups = -(-sizes[-1] // how.group)
    of_scales, columns = (*sizes[:-1], groups), how.layout == "column"
    apart = contiguous(sizes[:-1]) if columns else contiguous(of_scales)

    def make(alike: Callable[..., bool]) -> Again:
        def again(x: torch.Tensor, beside: torch.Tensor, weight: torch.Tensor) -> object:
            if not (alike(x, weight) if lone else alike(x, weight, beside)):
                return None
            if transforms._current_level >= 0 or (wanted and is_grad_enabled()):  # noqa: SLF001
                return None
            count = x.shape[0]
            rows = count * per
            ready = fitting(rows * spans)
            if ready is None or launch.current_device() != index:
                return None
            x_at, weight_at = x.data_ptr(), weight.data_ptr()
            beside_at = y_at = total_at = x_at
            if not lone:
                if beside.numel() != count * inner:
                    return None
                beside_at = beside.data_ptr()
            if (x_at | weight_at | beside_at) % ALIGNMENT:
                return None
            shape = count, *sizes
            values = empty(shape, strides, fp8_dtype)
            scales = empty((count, *of_scales), (*apart, rows) if columns else apart, fp32)
            results: tuple[torch.Tensor, ...] = (values, scales)
            if unquantised:
                y = empty(shape, strides, dtype)
                y_at = y.data_ptr()
                results += (y,)
            if sums:
                total = empty(shape, strides, dtype)
                total_at = total.data_ptr()
                results += (total,)
            values_at, scales_at = values.data_ptr(), scales.data_ptr()
            if (values_at | scales_at | y_at | total_at) % ALIGNMENT:
                return None
            pointers: tuple[int, ...] = (x_at, beside_at, weight_at, values_at, scales_at, y_at)
            if sums is not None:
                pointers += (total_at,)
            return results if ready.start(pointers, rows * spans, (rows,) if columns else ()) else None

        return again

    keep(like, repeats, given, (0, None, 0)[: len(given)], make)
