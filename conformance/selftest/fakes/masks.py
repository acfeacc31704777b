"""Fakes that lose or spill the edge of a row, a tile or a block."""

from __future__ import annotations

import math

import torch

from conformance.selftest.fakes.correct import Correct

EVERYWHERE: tuple[str, ...] = ("values", "layout")
BLOCK = 1024
TILE = 16  # rows


def padded(n: int) -> int:
    """Return the block that holds ``n`` columns."""
    return 1 << (n - 1).bit_length()


class LastColumnNotSummed(Correct):
    """``cols < n - 1`` as the mask of the load: the last column is missing from the mean."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Leave the last column out of the sum, not out of the count."""
        return grouped[..., :-1].pow(2).sum(-1, keepdim=True) / grouped.shape[-1]


class PaddedWidth(Correct):
    """Divides by the width of the block, not of the row: right for powers of two alone."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Count the padding."""
        return grouped.pow(2).sum(-1, keepdim=True) / padded(grouped.shape[-1])


class BeyondTheBlockNotSummed(Correct):
    """One block of 1024 columns and no loop: the rest of a wide row is missing from the mean."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Sum the first block."""
        return grouped[..., :BLOCK].pow(2).sum(-1, keepdim=True) / grouped.shape[-1]


class LastPartialBlockNotSummed(Correct):
    """A loop over ``n // 128`` whole blocks: the partial one at the end is missing from the mean."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Sum whole blocks, where there are any."""
        n = grouped.shape[-1]
        return grouped[..., : n // 128 * 128 or n].pow(2).sum(-1, keepdim=True) / n


class GroupSpills(Correct):
    """A group's lanes are rounded up to a power of two and take in the start of the next group."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add the neighbour's first columns."""
        group = grouped.shape[-1]
        spill = grouped[..., 1:, : padded(group) - group].pow(2).sum(-1, keepdim=True)
        total = grouped.pow(2).sum(-1, keepdim=True)
        total[..., :-1, :] += spill
        return total / group


class LastColumnNotWritten(Correct):
    """``cols < n - 1`` as the mask of the store."""

    caught_by = ("written", *EVERYWHERE)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write all columns but one."""
        out = torch.empty_like(y, dtype=x.dtype)
        out[..., :-1] = y[..., :-1]
        return out


class LastRowNotWritten(Correct):
    """A grid of ``rows // 2`` programs with two rows each: an odd row at the end is never written."""

    caught_by = ("written", *EVERYWHERE)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write an even number of rows."""
        out = torch.empty(x.shape, dtype=x.dtype)
        rows, from_ = out.view(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])
        even = len(rows) // 2 * 2
        rows[:even] = from_[:even]
        return out


class BeyondTheBlockNotWritten(Correct):
    """One block of 1024 columns and no loop at the store."""

    caught_by = ("written", *EVERYWHERE)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write the first block."""
        out = torch.empty(x.shape, dtype=x.dtype)
        out[..., :BLOCK] = y[..., :BLOCK]
        return out


class OddWidthSpills(Correct):
    """Stores of two elements: an odd row's last pair overwrites the first column of the next row."""

    caught_by = EVERYWHERE

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write rows from last to first, each one element too far if odd."""
        out = super().store(y, x)
        if x.shape[-1] % 2:
            out.view(-1, x.shape[-1])[1:, 0] = 0.0
        return out


class NextTileOverwritten(Correct):
    """A tile writes one row too many: the first row of the next tile gets its last row."""

    caught_by = EVERYWHERE

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Overwrite every sixteenth row with the one before."""
        out = super().store(y, x)
        rows = out.view(-1, x.shape[-1])
        rows[TILE::TILE] = rows[TILE - 1 : -1 : TILE].clone()
        return out


class PartialTileSkipped(Correct):
    """A grid of ``rows // 16`` programs, at least one: the rows of a partial last tile are not normalised."""

    caught_by = EVERYWHERE

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Leave the rows after the last whole tile as they are."""
        done = super().normalise(stream, group, eps, x).reshape(-1, stream.shape[-1])
        rest = max(TILE, len(done) // TILE * TILE)
        done[rest:] = stream.reshape(done.shape)[rest:]
        return done.reshape(stream.shape)


class WideRowsTakeDefaults(Correct):
    """Above 2048 columns another kernel is called, whose eps is left at its default."""

    caught_by = EVERYWHERE

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Forget the argument for wide rows."""
        return super().inverse_rms(grouped, 1.0 if math.prod(grouped.shape[-2:]) > 2 * BLOCK else eps)
