"""Gated RMSNorm, forward: ``norm(x) * weight * act(gate)`` or ``norm(x * act(gate)) * weight``.

Arithmetic is fp32. ``NORMALISED`` and ``WEIGHTED`` are the dtypes of the two rounding points;
fp32 there rounds nothing.
"""

import torch
import triton
import triton.language as tl

from normkernels.kernels.pairwise_sum import pairwise_sum
from normkernels.kernels.plans import MAX_LEADING, Plan
from normkernels.launch import launch
from normkernels.strides import leading

DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@triton.jit
def gated_norm(
    x,  # [rows, block] fp32, zero in the padding
    gate,  # the same; unused where GATE is "none"
    weight,  # the same
    eps,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Return the formula's fp32 value of every element of a tile, its rounding points applied."""
    if GATE == "none":
        act = gate
    elif ACTIVATION == "silu":
        act = gate * tl.sigmoid(gate)
    elif ACTIVATION == "sigmoid":
        act = tl.sigmoid(gate)
    else:
        tl.static_assert(False, "unhandled ACTIVATION")

    if GATE == "before":
        x = x * act
    inv_rms = tl.rsqrt(pairwise_sum(x * x, LEVELS) / WIDTH + eps)
    y = (x * inv_rms).to(NORMALISED).to(tl.float32)
    y = (y * weight).to(WEIGHTED).to(tl.float32)
    if GATE == "after":
        y = y * act
    return y


@triton.jit(do_not_specialize=["n_rows"])
def rms_norm_gated_128_kernel(
    x_ptr,  # [n_rows, 128] contiguous
    gate_ptr,  # [n_rows, 128] contiguous
    weight_ptr,  # [128]
    out_ptr,  # [n_rows, 128] contiguous
    weight_stride,
    n_rows,
    eps,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Norm, weight, then gate, of ``ROWS`` contiguous rows of 128 a program."""
    # int64: row * 128 passes 2**31 on tensors that fit in memory
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, 128)[None, :]
    mask = rows < n_rows - first
    # 32 bits within the tile: the 64-bit part of an address is the same for all of it
    offsets = rows * 128 + cols
    # a 2-D load: a 1-D one would have to change its layout to meet the tile
    weight_offsets = tl.broadcast_to(cols * weight_stride, [ROWS, 128])

    # a branch, not a constexpr of the launch: a new row count must not compile anything
    even = first + ROWS <= n_rows
    if even:
        x = tl.load(x_ptr + first * 128 + offsets)
        gate = tl.load(gate_ptr + first * 128 + offsets)
        weight = tl.load(weight_ptr + weight_offsets)
    else:
        x = tl.load(x_ptr + first * 128 + offsets, mask=mask, other=0.0)
        gate = tl.load(gate_ptr + first * 128 + offsets, mask=mask, other=0.0)
        weight = tl.load(weight_ptr + weight_offsets, mask=mask, other=0.0)

    y = gated_norm(
        x.to(tl.float32),
        gate.to(tl.float32),
        weight.to(tl.float32),
        eps,
        GATE="after",
        ACTIVATION=ACTIVATION,
        NORMALISED=NORMALISED,
        WEIGHTED=WEIGHTED,
        WIDTH=128,
        LEVELS=7,
    ).to(out_ptr.dtype.element_ty)
    if even:
        tl.store(out_ptr + first * 128 + offsets, y)
    else:
        tl.store(out_ptr + first * 128 + offsets, y, mask=mask)


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


@triton.jit(do_not_specialize=["n_rows", "size_1", "size_2"])
def rms_norm_gated_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; gate and out likewise
    gate_ptr,
    weight_ptr,  # [n_groups * WIDTH]
    out_ptr,
    x_stride_0,
    x_stride_1,
    x_stride_2,
    x_col_stride,
    gate_stride_0,
    gate_stride_1,
    gate_stride_2,
    gate_col_stride,
    out_stride_0,
    out_stride_1,
    out_stride_2,
    out_col_stride,
    weight_stride,
    n_rows,  # size_0 * size_1 * size_2
    size_1,
    size_2,
    n_groups,
    eps,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    LEADING: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise ``ROWS`` rows a program; a row is one group, so its group is ``row % n_groups``."""
    BLOCK: tl.constexpr = 2**LEVELS
    # int64: row * stride and column * stride pass 2**31 on tensors that fit in memory
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :].to(tl.int64)
    mask = (row < n_rows) & (cols < WIDTH)

    x_rows = row_offsets(row, size_1, size_2, x_stride_0, x_stride_1, x_stride_2, LEADING)
    x = tl.load(x_ptr + x_rows + cols * x_col_stride, mask=mask, other=0.0).to(tl.float32)
    if GATE == "none":
        gate = x
    else:
        gate_rows = row_offsets(row, size_1, size_2, gate_stride_0, gate_stride_1, gate_stride_2, LEADING)
        gate = tl.load(gate_ptr + gate_rows + cols * gate_col_stride, mask=mask, other=0.0).to(tl.float32)
    weight_cols = row % n_groups * WIDTH + cols
    weight = tl.load(weight_ptr + weight_cols * weight_stride, mask=mask, other=0.0).to(tl.float32)

    y = gated_norm(x, gate, weight, eps, GATE, ACTIVATION, NORMALISED, WEIGHTED, WIDTH, LEVELS)
    out_rows = row_offsets(row, size_1, size_2, out_stride_0, out_stride_1, out_stride_2, LEADING)
    tl.store(out_ptr + out_rows + cols * out_col_stride, y.to(out_ptr.dtype.element_ty), mask=mask)


def rms_norm_gated_fwd(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    eps: float,
    width: int,
    gated: str,
    activation: str,
    rounding: str,
    plan: Plan,
) -> None:
    """Write the gated norm into ``out``. Arguments were validated in ``normkernels.ops``."""
    normalised, weighted = rounding_points(x, gate if gated == "before" else None, weight, rounding)
    args = {
        "x_ptr": x,
        "gate_ptr": x if gate is None else gate,
        "weight_ptr": weight,
        "out_ptr": out,
        "weight_stride": weight.stride(0),
        "n_rows": x.numel() // width,
        "eps": eps,
        "ACTIVATION": activation,
        "NORMALISED": normalised,
        "WEIGHTED": weighted,
        "ROWS": plan.rows,
    }
    kernel = rms_norm_gated_128_kernel
    if plan.name == "general":
        kernel = rms_norm_gated_kernel
        args |= general_args(x, gate, out, width)
        args |= {"GATE": gated, "WIDTH": width, "LEVELS": plan.levels}
    launch(kernel, (triton.cdiv(args["n_rows"], plan.rows),), args, plan, x.device)


def general_args(x: torch.Tensor, gate: torch.Tensor | None, out: torch.Tensor, width: int) -> dict[str, int]:
    """Return the sizes and strides of the general kernel; unused leading ones are 1 and 0."""
    tensors = {"x": x, "gate": x if gate is None else gate, "out": out}
    rows = leading(tuple(tensors.values()), width)
    unused = MAX_LEADING - len(rows.sizes)
    sizes = (1,) * unused + rows.sizes
    args = {"size_1": sizes[1], "size_2": sizes[2], "n_groups": x.shape[-1] // width}
    for (name, tensor), strides in zip(tensors.items(), rows.strides, strict=True):
        for axis, stride in enumerate((0,) * unused + strides):
            args[f"{name}_stride_{axis}"] = stride
        args[f"{name}_col_stride"] = tensor.stride(-1)
    return args | {"LEADING": len(rows.sizes)}


def rounding_points(
    x: torch.Tensor, early_gate: torch.Tensor | None, weight: torch.Tensor, rounding: str
) -> tuple[tl.dtype, tl.dtype]:
    """Return the dtypes that the normalised and the weighted value are rounded to."""
    if rounding == "fp32":
        return tl.float32, tl.float32
    normalised = x.dtype if early_gate is None else torch.promote_types(x.dtype, early_gate.dtype)
    return DTYPES[normalised], DTYPES[torch.promote_types(normalised, weight.dtype)]
