"""Fakes that address the rows of one tensor as if it were another, or another layout."""

from __future__ import annotations

import math
from typing import Any

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
# wrong memory may hold a poison, and its change between two calls is noticed as well
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class LayerXTakenForContiguous(CorrectLayerNorm):
    """x has no stride argument: expanded rows read past the one that there is."""

    caught_by = WRONG_MEMORY

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().load(reread(x, dense(x.shape)))


class Fp8XTakenForContiguous(CorrectFp8):
    """The groups of x are found as if rows were packed: a projection of q and k gives the neighbour's."""

    operations = ("rms_norm_fp8",)
    caught_by = WRONG_MEMORY

    def rms_norm_fp8(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Any) -> tuple[torch.Tensor, ...]:
        """Read in storage order."""
        return super().rms_norm_fp8(reread(x, dense(x.shape)), weight, **flags)


class Fp8OuterStrideForAllRows(CorrectFp8):
    """The number of a row, over all leading dimensions, is multiplied by the stride of the first of them."""

    operations = ("rms_norm_fp8",)
    caught_by = ALL

    def rms_norm_fp8(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Any) -> tuple[torch.Tensor, ...]:
        """Flatten the rows of a contiguous tensor, and read them by the outermost stride."""
        if x.is_contiguous() and x.dim() > 1:
            x = reread(x.flatten(0, -2), (x.stride(0), 1)).reshape(x.shape)
        return super().rms_norm_fp8(x, weight, **flags)


class RowAddressRoundedDown(CorrectNorm):
    """Vector loads start where a row's address is rounded down to 16 bytes: only the first row is aligned."""

    caught_by = ("values", *WRONG_MEMORY)

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Begin each row of a matrix at the aligned address."""
        if residual is not None or x.dim() != 2:
            return super().load(s, x, residual)
        rows = [reread(row, row.stride(), back=row.data_ptr() % 16 // row.element_size()) for row in x]
        return super().load(torch.stack(rows), x, residual)


class QLastStrideIgnored(CorrectRotation):
    """Tokens and heads of q and k have strides, the numbers of a head are taken to be neighbours."""

    caught_by = WRONG_MEMORY

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Read with a last stride of one."""
        return super().heads(reread(x, (*x.stride()[:-1], 1)), size)


class TablesAreHalfTheHead(CorrectRotation):
    """Rows of the tables are taken to be half a head wide, whichever part of the head is rotated."""

    caught_by = ALL

    def turn(self, x: torch.Tensor, size: int, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Remember the head, which the tables are read by."""
        cos, sin, index, q = self.given
        strides = size // 2, 1
        tables = (reread(cos, strides), reread(sin, strides))
        return super().turn(x, size, super().angles(*tables, index, q))

    def angles(
        self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember the tables."""
        self.given = cos, sin, index, q
        return super().angles(cos, sin, index, q)


class GroupOffsetTwice(Correct):
    """The offset of a group is in the pointer, and added to its columns again."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Take the numbers of group ``2 g`` for those of group ``g``, around the end."""
        grouped = stream.reshape(*stream.shape[:-1], -1, group)
        places = 2 * torch.arange(grouped.shape[-2]) % grouped.shape[-2]
        return super().normalise(grouped[..., places, :].reshape(stream.shape), group, eps, x)


class MisalignedTakesAnotherKernel(CorrectLayerNorm):
    """The fallback for misaligned tensors is looked up in another table, where it finds an RMSNorm."""

    caught_by = ("layout", "specials")

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Subtract nothing in a misaligned call."""
        return super().mean(given) if self.aligned else torch.zeros_like(given[..., :1])

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Look at the address."""
        self.aligned = x.data_ptr() % 16 == 0
        return super().load(x)


class RowsOfTheFirstDimension(CorrectLayerNorm):
    """The number of rows is that of the first dimension: the others are never written."""

    caught_by = ("written", *ALL)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write as many rows as the first dimension has."""
        rows = x.shape[0] if x.dim() > 1 else 1
        out = torch.empty(x.shape, dtype=x.dtype)
        out.view(-1, x.shape[-1])[:rows] = y.reshape(-1, x.shape[-1])[:rows]
        return out


class WidthOfTheSecondDimension(CorrectLayerNorm):
    """The width is measured before rows are flattened: in three dimensions it is the number of rows."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Divide by the second dimension."""
        width = given.shape[1] if given.dim() > 1 else given.shape[0]
        return super().variance(given) * (given.shape[-1] / width)


class SumStoredInStorageOrder(CorrectNorm):
    """The sum is stored at the row stride of x, wrapped inside the output."""

    caught_by = ("layout", "specials", "memory", "written")

    def store_sum(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Scatter by x's strides."""
        out = super().store_sum(s, x, residual)
        places = torch.zeros((), dtype=torch.int64)
        for size, stride in zip(x.shape, x.stride(), strict=True):
            places = places[..., None] + torch.arange(size) * stride
        out.view(-1)[places.flatten() % math.prod(x.shape)] = s.flatten()
        return out
