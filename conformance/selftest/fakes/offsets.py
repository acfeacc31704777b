"""Fakes whose offsets have too few bits: right until a tensor's elements are far apart."""

from __future__ import annotations

from typing import Any

import torch
import triton

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_l2_norm import CorrectL2Norm
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation, Sections
from conformance.selftest.fakes.correct_silu_and_mul import CorrectSiluAndMul
from conformance.selftest.fakes.correct_softmax import CorrectSoftmax
from conformance.selftest.fakes.kernels import sigmoid_rows_kernel
from conformance.selftest.fakes.kernels_rows import matrix
from conformance.selftest.fakes.memory_views import wrapped

FAR: tuple[str, ...] = ("large_index",)
WIDE = 1024


class OffsetsOf32Bits(Correct):
    """Offsets are unsigned and have 32 bits: elements past 2**32 are read from the beginning."""

    caught_by = FAR

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        return super().load(wrapped(x))


class OffsetsOf31Bits(Correct):
    """``row * stride`` is a product of 32-bit integers in the kernel: past 2**31 it points before the tensor."""

    ends_its_process = True
    caught_by = FAR

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Launch with the row stride, which by itself is small."""
        rows = matrix(gate)
        out = torch.empty(gate.shape, dtype=torch.float32)
        sigmoid_rows_kernel[(len(rows),)](
            gate_ptr=rows,
            out_ptr=out,
            gate_row_stride=rows.stride(0),
            n_cols=rows.shape[1],
            BLOCK=triton.next_power_of_2(rows.shape[1]),
        )
        return out if activation == "sigmoid" else gate.float() * out


class GroupedOffsetsOf32Bits(Correct):
    """Rows of several groups have a kernel of their own, in which offsets of x have 32 bits."""

    ends_its_process = True
    caught_by = FAR

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Gather x by offsets that wrap where rows have groups."""
        grouped = flags["group_size"] not in {None, 0, x.shape[-1]} and x.numel() > 0
        return super().rms_norm_gated(wrapped(x) if grouped else x, gate, weight, **flags)


class NormOffsetsOf32Bits(CorrectNorm):
    """Rows of x are found by a product of 32 bits."""

    caught_by = FAR

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Gather x by offsets that wrap."""
        return super().add(wrapped(x), residual)


class ResidualOffsetsOf32Bits(CorrectNorm):
    """Rows of x are found by 64 bits, rows of the residual by 32: the line was fixed once."""

    caught_by = FAR

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Gather the residual by offsets that wrap."""
        return super().add(x, wrapped(residual))


class NormStrideOf32Bits(CorrectNorm):
    """The row stride itself is passed in 32 bits: a stride past 2**32 is cut off."""

    caught_by = FAR

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Cut every stride."""
        return super().add(x.as_strided(x.shape, [stride % 2**32 for stride in x.stride()]), residual)


class NarrowRowsOffsetsOf32Bits(CorrectNorm):
    """A kernel of blocks of rows, for many rows of up to 256 columns, was forgotten when offsets got 64 bits."""

    caught_by = FAR

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where the kernel of blocks takes over."""
        return (32,)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap in the other kernel alone."""
        blocks = x.shape[-1] <= 256 and x.numel() // x.shape[-1] >= 32
        return super().add(wrapped(x) if blocks else x, residual)


class WideRowsOffsetsOf32Bits(CorrectNorm):
    """Rows that need several tiles have a kernel of their own, in which offsets of x have 32 bits."""

    caught_by = FAR

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap in the other kernel alone."""
        return super().add(wrapped(x) if x.shape[-1] > WIDE else x, residual)


class LayerOffsetsOf32Bits(CorrectLayerNorm):
    """The first column of a row is found by a product of 32 bits."""

    caught_by = FAR

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        return super().load(wrapped(x))


class L2OffsetsOf32Bits(CorrectL2Norm):
    """The number of a program has 32 bits, and so has its product with the row stride."""

    caught_by = FAR

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        return super().load(wrapped(x))


class SoftmaxOffsetsOf32Bits(CorrectSoftmax):
    """Scores are found by offsets of 32 bits."""

    caught_by = FAR

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        return super().load(wrapped(x))


class SiluOffsetsOf32Bits(CorrectSiluAndMul):
    """Gate and up are found by offsets of 32 bits."""

    caught_by = FAR

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gather by offsets that wrap."""
        return super().load(wrapped(tensor) if tensor.numel() else tensor)


class RotationOffsetsOf32Bits(CorrectRotation):
    """Tokens are found by a product of 32 bits, a year after the norms of the same library were repaired."""

    caught_by = FAR

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Gather q and k by offsets that wrap."""
        return super().heads(wrapped(x) if x.numel() else x, size)


class HeadOffsetsOf32Bits(CorrectRotation):
    """Tokens are found by 64 bits, and heads by 32: those of many tokens are too near to show it."""

    caught_by = FAR

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Gather the heads of each token by offsets that wrap."""
        far = x.dim() == 3 and x.numel() > 0
        return super().heads(torch.stack([wrapped(token) for token in x]) if far else x, size)


class InterleavedOffsetsOf32Bits(CorrectRotation):
    """The order of axes that came later has a kernel of its own, in which tokens are found by 32 bits."""

    caught_by = FAR

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Remember the order."""
        self.later = interleaved
        return super().axes(sections, interleaved=interleaved)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Gather q and k by offsets that wrap in the later order."""
        return super().heads(wrapped(x) if self.later and x.numel() else x, size)


class NarrowPositionsTimesStride(CorrectRotation):
    """Positions are multiplied by the stride of the tables in their own dtype: 64 bits are enough, 32 are not."""

    caught_by = FAR

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Remember whether positions are narrow."""
        self.narrow = positions.dtype == torch.int32
        return super().index(positions, axes)

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Gather rows by products that wrap."""
        if index.numel() == 0:
            return super().look_up(table, index)
        (rows, half), (row_stride, stride) = table.shape, table.stride()
        memory = table.as_strided(((rows - 1) * row_stride + (half - 1) * stride + 1,), (1,))
        first = index * row_stride
        return memory[(first % 2**32 if self.narrow else first) + torch.arange(half) * stride].float()


class Fp8OffsetsOf32Bits(CorrectFp8):
    """Rows of the norm that quantises are found by offsets of 32 bits."""

    operations = ("rms_norm_fp8",)
    caught_by = FAR

    def rms_norm_fp8(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Any) -> tuple[torch.Tensor, ...]:
        """Gather x by offsets that wrap."""
        return super().rms_norm_fp8(wrapped(x) if x.numel() else x, weight, **flags)
