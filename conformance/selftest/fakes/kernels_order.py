"""Kernels that are right in one order of programs or threads, and fakes that rely on it."""

# Triton compiles the kernels; their arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.kernels_layers import KernelLayer
from conformance.selftest.fakes.kernels_rows import matrix

ALL: tuple[str, ...] = ("values", "layout", "specials")


@triton.jit
def weigh_rows_kernel(
    y_ptr,  # [n_rows, n_cols] contiguous fp32, overwritten
    weight_ptr,  # [n_cols]
    scale_ptr,  # [n_cols] fp32, of all programs
    n_cols,
    offset,
    BLOCK: tl.constexpr,
):
    """Multiply rows by ``offset + weight``, which the first program forms for all; nothing waits for it."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    if row == 0:
        weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(scale_ptr + cols, offset + weight, mask=mask)
    scale = tl.load(scale_ptr + cols, mask=mask, other=0.0)
    y = tl.load(y_ptr + row * n_cols + cols, mask=mask, other=0.0)
    tl.store(y_ptr + row * n_cols + cols, y * scale, mask=mask)


@triton.jit
def halves_of_rows_kernel(
    x_ptr,  # [n_rows, n_cols] contiguous fp32, overwritten
    n_cols,
    eps,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalise rows in place, each by two programs, which sum the whole row and write one half."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * n_cols + cols, mask=mask, other=0.0)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / n_cols + eps)
    mine = (cols >= tl.program_id(1) * HALF) & (cols < tl.program_id(1) * HALF + HALF)
    tl.store(x_ptr + row * n_cols + cols, y, mask=mask & mine)


@triton.jit
def shift_rows_kernel(
    rows_ptr,  # [n_rows + 1, n_cols] contiguous, the first row free
    n_cols,
    BLOCK: tl.constexpr,
):
    """Move every row one place to the front, a row per program."""
    at = rows_ptr + tl.program_id(0).to(tl.int64) * n_cols + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < n_cols
    tl.store(at, tl.load(at + n_cols, mask=mask, other=0.0), mask=mask)


@triton.jit
def reversed_twice_kernel(
    x_ptr,  # [n_rows, n_cols] contiguous fp32
    scratch_ptr,  # [n_rows, BLOCK] fp32
    out_ptr,  # [n_rows, n_cols] contiguous fp32
    n_cols,
    BLOCK: tl.constexpr,
):
    """Copy rows by way of a scratch that other threads of the program read back without waiting."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=cols < n_cols, other=0.0)
    tl.store(scratch_ptr + row * BLOCK + cols, x)
    places = BLOCK - 1 - cols
    back = tl.load(scratch_ptr + row * BLOCK + places)
    tl.store(out_ptr + row * n_cols + places, back, mask=places < n_cols)


class ScaleOfTheFirstProgram(CorrectNorm):
    """One program writes what all of them read, without a signal that it has: right if it happens to be early."""

    caught_by = ("memory", *ALL)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Launch one program a row."""
        n = y.shape[-1]
        given = torch.ones(n, device=y.device) if weight is None else weight.contiguous()
        weighed = y.reshape(-1, n).clone(memory_format=torch.contiguous_format)
        weigh_rows_kernel[(len(weighed),)](
            y_ptr=weighed,
            weight_ptr=given,
            scale_ptr=torch.empty(n, dtype=torch.float32, device=y.device),
            n_cols=n,
            offset=offset,
            BLOCK=triton.next_power_of_2(n),
        )
        return weighed.view(y.shape)


class TwoProgramsARow(CorrectNorm):
    """Two programs normalise a row in place: the later one sums a half that is normalised already."""

    caught_by = ("memory", *ALL)

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Launch two programs a row."""
        n = stream.shape[-1]
        rows = stream.reshape(-1, n).clone(memory_format=torch.contiguous_format)
        block = triton.next_power_of_2(n)
        halves_of_rows_kernel[(len(rows), 2)](x_ptr=rows, n_cols=n, eps=eps, HALF=max(1, block // 2), BLOCK=block)
        return rows.view(stream.shape)


class RowsMovedWithoutWaiting(CorrectLayerNorm):
    """Rows are moved over each other in place, each by a program that reads the place of the one after it."""

    caught_by = ("memory", "row_independence", *ALL)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Pack the rows behind a free one, and move them to the front."""
        n = x.shape[-1]
        rows = super().load(x).reshape(-1, n)
        packed = torch.cat((torch.zeros_like(rows[:1]), rows))
        shift_rows_kernel[(len(rows),)](rows_ptr=packed, n_cols=n, BLOCK=triton.next_power_of_2(n))
        return packed[:-1].view(x.shape)


class ReadBackWithoutBarrier(CorrectLayerNorm):
    """A tile is stored to scratch and read back by other threads of the program, which do not wait."""

    gpu = "the interpreter runs all threads of a program in step"
    caught_by = (*ALL, "memory", "determinism")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Copy the rows by way of the scratch."""
        rows = matrix(super().load(x)).contiguous()
        block = triton.next_power_of_2(rows.shape[1])
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        reversed_twice_kernel[(len(rows),)](
            x_ptr=rows,
            scratch_ptr=torch.empty((len(rows), block), dtype=torch.float32, device=x.device),
            out_ptr=out,
            n_cols=rows.shape[1],
            BLOCK=block,
            num_warps=8,
        )
        return out


class TileByBatch(KernelLayer):
    """The tile of a row's sum is chosen by the number of rows: its bits change with the batch."""

    gpu = "in the interpreter a row's sum does not depend on its tile"
    caught_by = ("batch_invariance", "position_invariance", "padding_invariance")

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Choose the tile."""
        self.block = 64 if given.numel() // given.shape[-1] < 16 else 256
        return super().normalise(given, eps, x)
