"""Fakes that lose part of a tile, a cluster, a batch or a head, or read memory that none of them wrote."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation, Halves

ALL: tuple[str, ...] = ("values", "layout", "specials")
HEADS = 4  # heads that a program rotates


class RowsShareABuffer(CorrectNorm):
    """Two rows of a block share one buffer, whose index has no row: the second row is stored in both places."""

    caught_by = ("row_independence", *ALL)

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Overwrite the first row of each pair."""
        rows = super().normalise(stream, eps, x).reshape(-1, stream.shape[-1]).clone()
        pairs = len(rows) // 2 * 2
        rows[0:pairs:2] = rows[1:pairs:2].clone()
        return rows.view(stream.shape)


class ClusterCountsTwice(CorrectNorm):
    """A cluster of four blocks shares rows of fewer tiles of 32: the last tile is counted by all that are left."""

    caught_by = ALL

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Add the last tile again."""
        n = stream.shape[-1]
        tiles = -(-n // 32)
        again = stream[..., 32 * (tiles - 1) :].pow(2).sum(-1, keepdim=True) / n
        return super().mean_square(stream) + max(0, 4 - tiles) * again


class NoResidualIsUninitialised(CorrectNorm):
    """Without a residual the fused kernel gets one that was allocated, and not set to zero."""

    caught_by = ("memory", *ALL)

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Add fresh memory."""
        loaded = super().load(s, x, residual)
        return loaded if residual is not None else loaded + torch.empty(x.shape, dtype=x.dtype).float()


class OneRowSkipsTheWeight(Correct):
    """The kernel of a single row, for decoding, is called without the weight."""

    caught_by = ALL

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Weigh several rows alone."""
        return super().weigh(y, weight, group) if y.numel() > y.shape[-1] else y


class GroupOfAShard(Correct):
    """The size of a group is that of a model on one GPU: on two the statistics are of half of it."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Halve the groups, if there are several."""
        half = group // 2 if group < stream.shape[-1] and group % 2 == 0 else group
        return super().normalise(stream, half, eps, x)


class PartialBlockOfHeads(CorrectRotation):
    """The grid has a program for every whole block of four heads: those behind the last block are copied."""

    caught_by = ALL

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Rotate whole blocks, where there are any."""
        half = rotated[0].shape[-1]
        whole = heads.shape[1] // HEADS * HEADS or heads.shape[1]
        y1, y2 = rotated[0].clone(), rotated[1].clone()
        y1[:, whole:], y2[:, whole:] = heads[:, whole:, :half], heads[:, whole:, half : 2 * half]
        return super().store(heads, (y1, y2), x)


class SecondHalfNotStored(CorrectRotation):
    """The second store is missing in the branch of the last head."""

    caught_by = ("written", *ALL)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Leave the second half of the last head as it was allocated."""
        half = rotated[0].shape[-1]
        right = super().store(heads, rotated, x).view(heads.shape)
        out = torch.empty(heads.shape, dtype=x.dtype)
        out[:, :-1], out[:, -1:, :half] = right[:, :-1], right[:, -1:, :half]
        out[:, -1:, 2 * half :] = right[:, -1:, 2 * half :]
        return out.view(x.shape)


class PaddingTokensNotStored(CorrectRotation):
    """Tokens at position zero are taken for padding on the left, and masked out of the store."""

    caught_by = ("written", *ALL)

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Remember which tokens are masked."""
        self.padding = (positions.reshape(-1, positions.shape[-1]) == 0).all(0)
        return super().index(positions, axes)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Store the others."""
        out = torch.empty(x.shape, dtype=x.dtype)
        out[~self.padding] = super().store(heads, rotated, x)[~self.padding]
        return out
