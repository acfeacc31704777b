"""Norms in one Triton kernel, and fakes with one mistake in how it addresses, masks or shares out rows."""

# Triton compiles the kernels; their arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl

from conformance.selftest.fakes.correct_norm import CorrectNorm, Result


@triton.jit
def norm_rows_kernel(
    x_ptr,  # [n_rows, n_cols], rows x_row_stride apart
    residual_ptr,  # [n_rows, n_cols], rows residual_row_stride apart
    weight_ptr,  # [n_cols]
    y_ptr,  # [n_rows, n_cols], contiguous
    sum_ptr,  # [n_rows, n_cols], rows sum_row_stride apart
    x_row_stride,
    residual_row_stride,
    sum_row_stride,
    n_rows,
    n_cols,
    eps,
    offset,
    HAS_RESIDUAL: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    ROW_BITS: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGNED: tl.constexpr,
    COUNT: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the norm of ``x + residual`` and the sum, a tile of rows per program.

    COUNT is not used: a launch that passes it compiles a kernel for each number.
    """
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    rows = (row.to(tl.int64) if ROW_BITS == 64 else row)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (cols < n_cols) & (rows < n_rows) if MASK_ROWS else cols < n_cols + rows * 0
    x_at = x_ptr + rows * x_row_stride + cols
    if ALIGNED:
        x_at = tl.multiple_of(x_at, [1, 16])
    s = tl.load(x_at, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        s += tl.load(residual_ptr + rows * residual_row_stride + cols, mask=mask, other=0.0).to(tl.float32)
        rounded = s.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + rows * sum_row_stride + cols, rounded, mask=mask)
        s = rounded.to(tl.float32)
    y = s * tl.rsqrt(tl.sum(s * s, axis=1) / n_cols + eps)[:, None]
    if HAS_WEIGHT:
        y *= offset + tl.load(weight_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
    else:
        y *= offset + 1.0
    # two elements a store, whether or not the row has an even number
    written = mask if not PAIRS else (cols < n_cols + n_cols % 2) & (rows < n_rows)
    tl.store(y_ptr + rows * n_cols + cols, y.to(y_ptr.dtype.element_ty), mask=written)


class KernelNorm(CorrectNorm):
    """A right norm in a kernel; a tensor that is not a matrix with neighbouring columns is copied first."""

    mask_rows = True
    row_bits = 64
    pairs = False
    aligned = False
    tile = 1

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Check the call, then launch over its rows."""
        self.check(x, weight, residual)
        if x.numel() == 0:
            return self.empty(x, residual)
        y = self.fresh(x)
        s = y if residual is None else self.fresh(x)
        rows, added = matrix(x), matrix(x if residual is None else residual)
        with self.where(rows):
            self.launch(rows, added, weight, y, s, offset, eps, has_residual=residual is not None)
        return y if residual is None else (y, s)

    def where(self, rows: torch.Tensor) -> AbstractContextManager[Any]:
        """Select the GPU of the tensors."""
        return torch.cuda.device_of(rows)

    def fresh(self, x: torch.Tensor) -> torch.Tensor:
        """Allocate a result."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def launch(
        self,
        rows: torch.Tensor,
        added: torch.Tensor,
        weight: torch.Tensor | None,
        y: torch.Tensor,
        s: torch.Tensor,
        offset: float,
        eps: float,
        **given: Any,
    ) -> None:
        """Launch one program for each tile of rows."""
        n_rows, n_cols = rows.shape
        norm_rows_kernel[self.grid(n_rows)](
            x_ptr=rows,
            residual_ptr=added,
            weight_ptr=rows if weight is None else weight.contiguous(),
            y_ptr=y,
            sum_ptr=s,
            x_row_stride=rows.stride(0),
            residual_row_stride=self.residual_stride(rows, added),
            sum_row_stride=self.sum_stride(rows),
            n_rows=n_rows,
            n_cols=n_cols,
            eps=eps,
            offset=offset,
            HAS_RESIDUAL=given["has_residual"],
            HAS_WEIGHT=weight is not None,
            MASK_ROWS=self.mask_rows,
            ROW_BITS=self.row_bits,
            PAIRS=self.pairs,
            ALIGNED=self.aligned,
            COUNT=self.count(n_rows),
            TILE=self.tile,
            # one more than the row where pairs are stored
            BLOCK=max(2, triton.next_power_of_2(n_cols)),
        )

    def grid(self, n_rows: int) -> tuple[int]:
        """Return the number of programs."""
        return (triton.cdiv(n_rows, self.tile),)

    def residual_stride(self, rows: torch.Tensor, added: torch.Tensor) -> int:
        """Return the distance of the residual's rows."""
        return added.stride(0)

    def sum_stride(self, rows: torch.Tensor) -> int:
        """Return the distance of the rows of the sum, which is contiguous."""
        return rows.shape[1]

    def count(self, n_rows: int) -> int:
        """Return a number to compile a kernel for: the same for all calls."""
        return 0


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return the rows of a tensor, with neighbouring columns."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


class RowMaskMissing(KernelNorm):
    """Tiles of four rows have a mask of columns alone: the last tile reads and writes past the tensor."""

    mask_rows = False
    tile = 4
    ends_its_process = True
    caught_by = ("values", "memory")


class ProgramsBeyondTheRows(KernelNorm):
    """Each multiprocessor has a program, also where there are fewer rows: the rest writes past the end."""

    mask_rows = False
    ends_its_process = True
    caught_by = ("values", "memory")

    def grid(self, n_rows: int) -> tuple[int]:
        """Return as many programs as a small GPU has multiprocessors, at least."""
        return (max(n_rows, 132),)


class PairStoresOfOddRows(KernelNorm):
    """Stores of two elements: an odd row writes the next one's first column, and the last row past the end."""

    pairs = True
    ends_its_process = True
    caught_by = ("values", "memory")


class SumHasRowStrideOfX(KernelNorm):
    """The residual is read and the sum written at x's row stride: with x in a wider buffer, past their ends."""

    ends_its_process = True
    caught_by = ("layout", "memory")

    def residual_stride(self, rows: torch.Tensor, added: torch.Tensor) -> int:
        """Return x's."""
        return rows.stride(0)

    def sum_stride(self, rows: torch.Tensor) -> int:
        """Return x's."""
        return rows.stride(0)


class RowOffsetsOf31Bits(KernelNorm):
    """The number of a program has 32 bits and is multiplied by a row stride: past 2**31 it is negative."""

    row_bits = 32
    ends_its_process = True
    caught_by = ("large_index",)


class UnusedRowsConstexpr(KernelNorm):
    """A constexpr with the number of rows, which the kernel does not even use."""

    caught_by = ("variants",)

    def count(self, n_rows: int) -> int:
        """Return the number of rows."""
        return n_rows


class ProgramsConstexpr(KernelNorm):
    """The number of programs is a constexpr: the number of rows, up to that of a GPU's units."""

    caught_by = ("variants",)

    def count(self, n_rows: int) -> int:
        """Return the number of programs."""
        return min(n_rows, 304)


class TunedNorm(KernelNorm):
    """A right norm that tries four kernels in the first call of a width and takes one, as autotuners do."""

    def __init__(self) -> None:
        super().__init__()
        self.tuned: set[tuple[int, ...]] = set()
        self.kernel = 0

    def launch(self, rows: torch.Tensor, *given: Any, **flags: Any) -> None:
        """Launch all kernels where none was chosen, then the chosen one."""
        key = self.key(rows)
        kernels = (0,) if key in self.tuned else (3, 2, 1, 0)
        self.tuned.add(key)
        for self.kernel in kernels:
            super().launch(rows, *given, **flags)

    def key(self, rows: torch.Tensor) -> tuple[int, ...]:
        """Return the numbers that a kernel is chosen for: the width."""
        return tuple(rows.shape[1:])

    def count(self, n_rows: int) -> int:
        """Return the number of the kernel."""
        return self.kernel


class TunedForEveryBatch(TunedNorm):
    """An autotuner has the number of rows in its key: each new one tries all kernels again."""

    caught_by = ("variants",)

    def key(self, rows: torch.Tensor) -> tuple[int, ...]:
        """Return the number of rows as well."""
        return tuple(rows.shape)


class AlignmentPromised(KernelNorm):
    """The compiler is told that rows begin at multiples of 16 elements, which a shifted view does not."""

    gpu = "the interpreter has no use for a hint to the compiler"
    aligned = True
    caught_by = ("layout", "claim")
