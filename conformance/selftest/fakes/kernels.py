"""Fakes whose mistake needs a kernel: masks and strides of loads and stores, launches, hidden copies."""

# Triton compiles the kernels; their arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import triton
import triton.language as tl

import normkernels
from conformance.selftest.fakes.correct import Correct

# where loads and stores are masked: at the end of the row, or wrongly at the end of the whole tensor
ROW, TENSOR = "row", "tensor"


@triton.jit
def normalise_rows_kernel(
    x_ptr,  # [n_rows, n_cols] contiguous
    out_ptr,  # [n_rows, n_cols] contiguous fp32
    n_rows,
    n_cols,
    eps,
    LOAD_MASK: tl.constexpr,
    STORE_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store ``x / rms(x)``, one row per program, from the last row to the first."""
    row = n_rows - 1 - tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    offsets = row * n_cols + cols
    inside_row = cols < n_cols
    inside_tensor = offsets < n_rows * n_cols
    mask = inside_row if LOAD_MASK == "row" else inside_tensor
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / n_cols + eps)
    tl.store(out_ptr + offsets, y, mask=inside_row if STORE_MASK == "row" else inside_tensor)


@triton.jit
def sigmoid_rows_kernel(
    gate_ptr,  # [n_rows, n_cols], rows gate_row_stride apart
    out_ptr,  # [n_rows, n_cols] contiguous fp32
    gate_row_stride,
    n_cols,
    BLOCK: tl.constexpr,
):
    """Store ``sigmoid(gate)``, one row per program."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    gate = tl.load(gate_ptr + row * gate_row_stride + cols, mask=mask, other=0.0)
    tl.store(out_ptr + row * n_cols + cols, tl.sigmoid(gate.to(tl.float32)), mask=mask)


@triton.jit
def inverse_rms_kernel(
    x_ptr,  # [N_ROWS, n_cols] contiguous
    out_ptr,  # [N_ROWS] fp32
    n_cols,
    N_ROWS: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store ``1 / sqrt(mean + EPS)`` of each row, with sizes that the compiler knows."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=(cols < n_cols) & (row < N_ROWS), other=0.0)
    tl.store(out_ptr + row, tl.rsqrt(tl.sum(x * x, axis=0) / n_cols + EPS))


class Kernel(Correct):
    """A right implementation that normalises in a kernel."""

    load_mask = ROW
    store_mask = ROW

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Launch over the rows of all groups."""
        rows = stream.contiguous().view(-1, group)
        out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        normalise_rows_kernel[(len(rows),)](
            x_ptr=rows,
            out_ptr=out,
            n_rows=len(rows),
            n_cols=group,
            eps=eps,
            LOAD_MASK=self.load_mask,
            STORE_MASK=self.store_mask,
            BLOCK=triton.next_power_of_2(group),
        )
        return out.view(stream.shape)


class LoadMaskedAtTheEndOfTheTensor(Kernel):
    """The last block's load is masked at the end of the tensor: a row sums the start of the next one."""

    load_mask = TENSOR
    caught_by = ("values", "layout")


class StoreMaskedAtTheEndOfTheTensor(Kernel):
    """The last block's store is masked at the end of the tensor: it writes zeros into the next row."""

    store_mask = TENSOR
    caught_by = ("values", "layout")


class GateRowStrideIsWidth(Correct):
    """``row * n_cols`` addresses the rows of a gate that is a slice of a wider buffer."""

    caught_by = ("layout", "specials", "memory")

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Launch with the width for a row stride."""
        n = gate.shape[-1]
        # a gate that the kernel cannot read at all is copied; rows may only be farther apart than it assumes
        fits = gate.dim() == 2 and gate.stride(1) == 1 and gate.stride(0) >= n
        source = gate if fits else gate.contiguous()
        out = torch.empty(gate.shape, dtype=torch.float32, device=gate.device)
        sigmoid_rows_kernel[(gate.numel() // n,)](
            gate_ptr=source,
            out_ptr=out,
            gate_row_stride=n,
            n_cols=n,
            BLOCK=triton.next_power_of_2(n),
        )
        return out if activation == "sigmoid" else gate.float() * out


class SaysNativeLaunches(Kernel):
    """Reports the native path for a call that runs in a kernel."""

    caught_by = ("path",)

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Report the path that was asked for."""
        return "native"


class KernelNeverRuns(Correct):
    """The guard of its kernel is the wrong way around: plain PyTorch runs every call, and is right."""

    launches = MappingProxyType({"rms_norm_gated": {}})
    caught_by = ("path",)


class StridedRowsLeaveTheKernel(Kernel):
    """A check of strides is too strict: rows with gaps run in plain PyTorch, and no call says so."""

    launches = MappingProxyType({"rms_norm_gated": {}})
    caught_by = ("path",)

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Launch where x is contiguous."""
        if x.is_contiguous():
            return super().normalise(stream, group, eps, x)
        return Correct.normalise(self, stream, group, eps, x)


class HiddenCopy(Correct):
    """Makes x contiguous before a kernel that takes any strides: a copy that no decision shows."""

    caught_by = ("path",)

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Copy, then run our kernel."""
        return normkernels.rms_norm_gated(x.contiguous(), gate, weight, **flags)

    def path(self, operation: str, arguments: Mapping[str, Any]) -> str:
        """Report the path that ran, without the copy."""
        return normkernels.explain(operation, **{**arguments, "x": arguments["x"].contiguous()}).name


class RowsConstexpr(Correct):
    """The number of rows is a constexpr: every batch size compiles a kernel of its own."""

    caught_by = ("variants",)

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Add eps outside the kernel, so that only rows are constants."""
        # 1 / sqrt(m) -> 1 / sqrt(m + eps)
        return self.launch(grouped, grouped.numel() // grouped.shape[-1], 0.0).pow(-2).add(eps).rsqrt()

    def launch(self, grouped: torch.Tensor, rows: int, eps: float) -> torch.Tensor:
        """Run one program a row."""
        source = grouped.contiguous()
        out = torch.empty(grouped.shape[:-1], dtype=torch.float32, device=grouped.device)
        inverse_rms_kernel[(out.numel(),)](
            x_ptr=source,
            out_ptr=out,
            n_cols=source.shape[-1],
            N_ROWS=rows,
            EPS=eps,
            BLOCK=triton.next_power_of_2(source.shape[-1]),
        )
        return out[..., None]


class EpsConstexpr(RowsConstexpr):
    """eps is a constexpr: every model compiles a kernel of its own, and every change of eps another one."""

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Pass the kernel a constant for the number of rows."""
        return self.launch(grouped, 2**30, eps)
