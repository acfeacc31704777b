"""Right implementations that sum in different orders and precisions. None of them may ever fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch

from conformance.oracle.contract import Contract, round_once
from conformance.selftest.fakes.correct import Correct

LANES = 128


def _padded(squares: torch.Tensor, multiple: int) -> torch.Tensor:
    return torch.nn.functional.pad(squares, (0, -squares.shape[-1] % multiple))


def pairwise(squares: torch.Tensor) -> torch.Tensor:
    """Return the sum of the last dimension, kept: neighbours are added, then neighbouring sums."""
    squares = _padded(squares, 1 << (squares.shape[-1] - 1).bit_length())
    while squares.shape[-1] > 1:
        squares = squares[..., ::2] + squares[..., 1::2]
    return squares


def blocked(squares: torch.Tensor) -> torch.Tensor:
    """Return the sum of the last dimension, kept: 128 lanes that each add serially in fp32, then their tree.

    Each addition of a float64 number rounds once: a square in float64 is exact, and is added as a fused
    multiply-add does.
    """
    lanes = squares.new_zeros((*squares.shape[:-1], LANES), dtype=torch.float32)
    for block in torch.split(_padded(squares, LANES), LANES, -1):
        lanes = (lanes + block).float()
    return pairwise(lanes)


def serial(squares: torch.Tensor) -> torch.Tensor:
    """Return the sum of the last dimension, kept, added up from the first column to the last."""
    if squares.is_cpu:
        with np.errstate(over="ignore", invalid="ignore"):
            running = np.add.accumulate(squares.numpy(), axis=-1, dtype=np.float32)
        return torch.from_numpy(running[..., -1:].copy())
    # column after column in memory, as a GPU reads them
    columns = squares.movedim(-1, 0).contiguous()
    total = columns[0].clone()
    for column in columns[1:]:
        total += column
    return total[..., None]


class InFloat64(Correct):
    """The whole computation in float64, rounded once."""

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return x in float64."""
        return x.double()

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Return the activated gate in float64."""
        z = gate.double()
        sigmoid = torch.sigmoid(z)
        return sigmoid if activation == "sigmoid" else z * sigmoid

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Take eps as kernels do, in fp32."""
        return super().inverse_rms(grouped, float(np.float32(eps)))

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply in float64."""
        return y * weight.double()

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, where a cast would round to fp32 first."""
        return super().store(round_once(y, x.dtype), x)


class Pairwise(Correct):
    """A sum as an explicit tree of neighbours."""

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Sum as a tree."""
        return pairwise(grouped.pow(2)) / grouped.shape[-1]


class Blocked(Correct):
    """A sum of 128 lanes that each add serially, then a tree over the lanes."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": Contract(depth="lanes")}

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Sum lane by lane."""
        return blocked(grouped.pow(2)) / grouped.shape[-1]


class Serial(Correct):
    """One running sum along the row, which declares it."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": Contract(depth="serial")}

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add one column after another in fp32."""
        return serial(grouped.pow(2)) / grouped.shape[-1]


RIGHT = (Correct, InFloat64, Pairwise, Blocked, Serial)
