"""Fakes whose mistakes only large calls show: very wide rows, many wide rows, both sides of a threshold."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_norm import CorrectNorm


class PrefixOfWideRows(CorrectNorm):
    """Takes the mean square of rows of more than 8,192 columns from their first 1,024."""

    caught_by = ("values", "layout")

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Leave the rest of a wide row out."""
        return super().mean_square(stream[..., :1024] if stream.shape[-1] > 8192 else stream)


class NextRowInManyWideRows(CorrectNorm):
    """Scales columns from 1,024 on by the row before, in calls of 64 rows and more."""

    caught_by = ("values", "layout")

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Mix up the rows' scales behind the first block."""
        y = super().normalise(stream, eps, x)
        n = stream.shape[-1]
        if n <= 1024 or stream.numel() // n < 64:
            return y
        flat, rows = stream.reshape(-1, n), y.reshape(-1, n).clone()
        rows[:, 1024:] = flat[:, 1024:] * self.inverse_rms(flat, eps).roll(1, 0)
        return rows.view(stream.shape)


class WrongFromItsThresholds(CorrectNorm):
    """Gives nonsense from 128 rows or 8,192 columns on, which it declares as thresholds."""

    caught_by = ("values", "layout")

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where another kernel would run."""
        return (128,)

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where another kernel would run."""
        return (8192,)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Return sevens for a large call."""
        n = y.shape[-1]
        result = super().weigh(y, weight, offset)
        return torch.full_like(result, 7.0) if n >= 8192 or y.numel() // n >= 128 else result
