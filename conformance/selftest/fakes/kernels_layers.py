"""LayerNorms and l2 norms that run in a Triton kernel, and fakes with one mistake in its masks or loops."""

# Triton compiles the kernels; their arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from conformance.selftest.fakes.correct_l2_norm import CorrectL2Norm
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.kernels_rows import matrix

ALL: tuple[str, ...] = ("values", "layout", "specials")


@triton.jit
def centre_rows_kernel(
    x_ptr,  # [n_rows, n_cols], rows x_row_stride apart
    out_ptr,  # [n_rows, n_cols] contiguous fp32
    x_row_stride,
    n_rows,
    n_cols,
    eps,
    MASK_CENTRED: tl.constexpr,
    ADVANCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store ``(x - mean) / deviation`` of every row, a row at a time, each in tiles of columns."""
    first = tl.program_id(0)
    for step in range(tl.cdiv(n_rows - first, tl.num_programs(0))):
        row = (first + (step * tl.num_programs(0) if ADVANCE else 0)).to(tl.int64)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, n_cols, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            total += tl.load(x_ptr + row * x_row_stride + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
        mean = tl.sum(total, axis=0) / n_cols
        squares = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, n_cols, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            x = tl.load(x_ptr + row * x_row_stride + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
            centred = tl.where(cols < n_cols, x - mean, 0.0) if MASK_CENTRED else x - mean
            squares += centred * centred
        inverse = tl.rsqrt(tl.sum(squares, axis=0) / n_cols + eps)
        for start in range(0, n_cols, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            x = tl.load(x_ptr + row * x_row_stride + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
            tl.store(out_ptr + row * n_cols + cols, (x - mean) * inverse, mask=cols < n_cols)


@triton.jit
def length_rows_kernel(
    x_ptr,  # [T, n_cols] contiguous fp32
    out_ptr,  # [T] fp32
    n_cols,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the sum of the squares of each row."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=(cols < n_cols) & (row < T), other=0.0)
    tl.store(out_ptr + row, tl.sum(x * x, axis=0))


class KernelLayer(CorrectLayerNorm):
    """A right norm that centres and divides in a kernel."""

    mask_centred = True
    advance = True
    block = 0  # columns of a tile, 0 for all in one

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Launch as many programs as there are rows, up to eight."""
        rows = matrix(given)
        out = torch.empty(given.shape, dtype=torch.float32, device=given.device)
        centre_rows_kernel[(min(len(rows), 8),)](
            x_ptr=rows,
            out_ptr=out,
            x_row_stride=rows.stride(0),
            n_rows=len(rows),
            n_cols=rows.shape[1],
            eps=eps,
            MASK_CENTRED=self.mask_centred,
            ADVANCE=self.advance,
            BLOCK=self.block or triton.next_power_of_2(rows.shape[1]),
        )
        return out


class KernelLayerMaskedLanes(KernelLayer):
    """Masked lanes hold zero, and after the mean is subtracted its square enters the variance."""

    mask_centred = False
    caught_by = ALL


class KernelLayerMaskedTile(KernelLayer):
    """The lanes past the row in the last of its tiles enter the variance as the square of the mean."""

    mask_centred = False
    block = 64
    caught_by = ALL


class KernelLayerRowsNotAdvanced(KernelLayer):
    """A program takes several rows, and the pointer is not advanced: it normalises its first row again."""

    advance = False
    caught_by = ("written", *ALL)


class KernelL2RowsConstexpr(CorrectL2Norm):
    """The number of rows is a constexpr of the sum's kernel: a sequence of a new length compiles."""

    caught_by = ("variants",)

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Launch one program a row."""
        rows = given.reshape(-1, given.shape[-1]).contiguous()
        out = torch.empty((*given.shape[:-1], 1), dtype=torch.float32, device=given.device)
        length_rows_kernel[(len(rows),)](
            x_ptr=rows,
            out_ptr=out,
            n_cols=rows.shape[1],
            T=len(rows),
            BLOCK=triton.next_power_of_2(rows.shape[1]),
        )
        return out
