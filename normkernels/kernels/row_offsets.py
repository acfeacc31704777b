"""Rows of tensors with up to three leading sizes and any strides: where each one begins."""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from normkernels.kernels.plans import MAX_LEADING
from normkernels.strides import leading


@triton.jit
def row_offsets(
    row,  # [rows, 1] int64
    size_1,
    size_2,
    stride_0,
    stride_1,
    stride_2,
    LEADING: tl.constexpr,
):
    """Return the offset of each row of a tensor with ``LEADING`` leading sizes, the last one innermost."""
    if LEADING == 1:
        offset = row * stride_2
    elif LEADING == 2:
        offset = row // size_2 * stride_1 + row % size_2 * stride_2
    elif LEADING == 3:
        outer = row // size_2
        offset = outer // size_1 * stride_0 + outer % size_1 * stride_1 + row % size_2 * stride_2
    else:
        tl.static_assert(False, "unhandled LEADING")
    return offset


def row_args(tensors: Mapping[str, torch.Tensor], width: int) -> dict[str, int]:
    """Return the kernel arguments about sizes and strides; unused leading ones are 1 and 0."""
    rows = leading(tuple(tensors.values()), width)
    unused = MAX_LEADING - len(rows.sizes)
    sizes = (1,) * unused + rows.sizes
    args = {"size_1": sizes[1], "size_2": sizes[2], "LEADING": len(rows.sizes)}
    for (name, tensor), strides in zip(tensors.items(), rows.strides, strict=True):
        for axis, stride in enumerate((0,) * unused + strides):
            args[f"{name}_stride_{axis}"] = stride
        args[f"{name}_col_stride"] = tensor.stride(-1)
    return args
