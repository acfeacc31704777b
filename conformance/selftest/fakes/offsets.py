"""Fakes whose offsets have too few bits: right until a tensor's elements are far apart."""

from __future__ import annotations

import torch
import triton

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.kernels import sigmoid_rows_kernel


class OffsetsOf32Bits(Correct):
    """Offsets are unsigned and have 32 bits: elements past 2**32 are read from the beginning."""

    caught_by = ("large_index",)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        offsets = torch.zeros((), dtype=torch.int64)
        for size, stride in zip(x.shape, x.stride(), strict=True):
            offsets = offsets[..., None] + torch.arange(size) * stride
        reach = int(offsets.max()) + 1
        return x.as_strided((reach,), (1,))[offsets % 2**32].float()


class OffsetsOf31Bits(Correct):
    """``row * stride`` is a product of 32-bit integers in the kernel: past 2**31 it points before the tensor."""

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Launch with the row stride, which by itself is small."""
        out = torch.empty(gate.shape, dtype=torch.float32)
        sigmoid_rows_kernel[(gate.shape[0],)](
            gate_ptr=gate,
            out_ptr=out,
            gate_row_stride=gate.stride(0),
            n_cols=gate.shape[-1],
            BLOCK=triton.next_power_of_2(gate.shape[-1]),
        )
        return out if activation == "sigmoid" else gate.float() * out
