"""A rotation that looks up its tables in a Triton kernel, wrongly."""

# Triton compiles the kernel; its arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from conformance.selftest.fakes.correct_rotation import CorrectRotation


@triton.jit
def look_up_kernel(
    table_ptr,  # [cache, half], rows table_row_stride apart
    index_ptr,  # [n_tokens, half] contiguous int64
    out_ptr,  # [n_tokens, half] contiguous fp32
    table_row_stride,
    half,
    BLOCK: tl.constexpr,
):
    """Store a token's number of the table for each frequency; twice as many are loaded."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    used = cols < half
    row = tl.load(index_ptr + token * half + tl.minimum(cols, half - 1))
    found = tl.load(table_ptr + row * table_row_stride + cols, mask=cols < 2 * half, other=0.0)
    tl.store(out_ptr + token * half + cols, found.to(tl.float32), mask=used)


class TableReadPastItsEnd(CorrectRotation):
    """A vector load takes twice the numbers of a row that are used: the last row is read past the table's end."""

    ends_its_process = True
    caught_by = ("values", "layout", "memory")

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Launch one program a token."""
        if index.numel() == 0:
            return super().look_up(table, index)
        rows = table if table.stride(1) == 1 else table.contiguous()
        tokens, half = index.shape
        out = torch.empty((tokens, half), dtype=torch.float32, device=table.device)
        look_up_kernel[(tokens,)](
            table_ptr=rows,
            index_ptr=index.contiguous(),
            out_ptr=out,
            table_row_stride=rows.stride(0),
            half=half,
            BLOCK=triton.next_power_of_2(2 * half),
        )
        return out
