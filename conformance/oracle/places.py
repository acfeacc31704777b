"""Places of wrong elements in an output, as a coarse picture."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

MOST_ROWS, MOST_COLUMNS = 32, 64  # cells of a picture
SHADES = 9


@dataclass(frozen=True, slots=True)
class Places:
    """Counts of wrong elements of an output of ``rows`` x ``columns``, by the cells of a coarser grid."""

    output: str
    rows: int
    columns: int
    counts: tuple[int, ...]

    def __add__(self, other: Places) -> Places:
        """Return the counts of two parts of one output; of two outputs, those of the first."""
        if (other.output, other.rows, other.columns) != (self.output, self.rows, self.columns):
            return self
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Places(self.output, self.rows, self.columns, counts)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of cells: an element each, where there are few elements."""
        return min(self.rows, MOST_ROWS), min(self.columns, MOST_COLUMNS)

    def shaded(self) -> tuple[str, ...]:
        """Return a digit for each cell, row by row: 0 where no element is wrong, 9 where all are."""
        high, wide = self.shape
        heights, widths = _sizes(self.rows, high), _sizes(self.columns, wide)
        return tuple(
            "".join(
                # rounded up, so that a single wrong element shows
                str(-(-SHADES * self.counts[line * wide + place] // (heights[line] * widths[place])))
                for place in range(wide)
            )
            for line in range(high)
        )


def _sizes(elements: int, cells: int) -> list[int]:
    """Return how many elements each cell of a line has: element ``i`` is in cell ``i * cells // elements``."""
    begins = [-(-cell * elements // cells) for cell in range(cells + 1)]
    return [end - begin for begin, end in itertools.pairwise(begins)]


def places(output: str, wrong: torch.Tensor, rows: int, first: int) -> Places:
    """Return the places of ``wrong`` elements, given for some rows from the ``first`` on, of ``rows`` in all."""
    columns = wrong.shape[-1]
    wrong = wrong.reshape(-1, columns)
    made = Places(output, rows, columns, ())
    high, wide = made.shape
    line, place = wrong.nonzero(as_tuple=True)
    cells = (line + first) * high // rows * wide + place * wide // columns
    return Places(output, rows, columns, tuple(torch.bincount(cells, minlength=high * wide).tolist()))
