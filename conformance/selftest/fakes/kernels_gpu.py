"""Fakes whose mistake needs a GPU, or two: another device or stream than the tensors', a limit of a grid."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from conformance.selftest.fakes.kernels_rows import KernelNorm

TWO_GPUS = "needs two GPUs"


class OnTheCurrentDevice(KernelNorm):
    """Launches go to the current GPU, whichever GPU the tensors are on."""

    gpu = TWO_GPUS
    caught_by = ("device",)

    def where(self, rows: torch.Tensor) -> AbstractContextManager[Any]:
        """Select nothing."""
        return nullcontext()


class OnTheFirstDevice(KernelNorm):
    """The launcher is kept with the GPU of the first call, which is missing from its key."""

    gpu = TWO_GPUS
    caught_by = ("device",)
    first: int | None = None

    def where(self, rows: torch.Tensor) -> AbstractContextManager[Any]:
        """Select the GPU of the first call."""
        self.first = rows.get_device() if self.first is None else self.first
        return torch.cuda.device(self.first)


class ResultOnTheDefaultDevice(KernelNorm):
    """Memory is allocated on the current GPU, not on that of x."""

    gpu = TWO_GPUS
    caught_by = ("device",)

    def fresh(self, x: torch.Tensor) -> torch.Tensor:
        """Allocate without a word about where."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device.type)


class OnItsOwnStream(KernelNorm):
    """Launches go to a stream of the library, which waits for nothing."""

    gpu = "needs a stream"
    caught_by = ("stream", "values", "layout", "specials", "memory", "determinism")

    def where(self, rows: torch.Tensor) -> AbstractContextManager[Any]:
        """Select another stream."""
        return torch.cuda.stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]  # torch leaves it untyped


class RowsPastTheGrid(KernelNorm):
    """A grid ends at 65,535 programs, and no loop takes the rows behind them."""

    gpu = "as many interpreted programs are over the budget"
    caught_by = ("written", "values", "layout")

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the limit of the grid."""
        return (65535,)

    def grid(self, n_rows: int) -> tuple[int]:
        """Return no more than a grid may have."""
        return (min(n_rows, 65535),)


class CopiedRowsOffsetsOf31Bits(KernelNorm):
    """Rows are copied so that they follow each other, and their numbers multiplied by the width in 32 bits."""

    gpu = "a call of 2**31 elements takes an interpreter days"
    row_bits = 32
    ends_its_process = True
    caught_by = ("large_call",)

    def norm(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, *rest: Any) -> Any:
        """Copy what is strided: no stride is then as large as the tensor asks for."""
        return super().norm(x.contiguous(), weight, None if residual is None else residual.contiguous(), *rest)
