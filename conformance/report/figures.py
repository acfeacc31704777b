"""Pictures of a page, as numbers for SVG: where elements are wrong, and how large errors are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from conformance.oracle.histogram import LEAST, MOST, Histogram, Sizes
from conformance.oracle.places import SHADES
from conformance.report.document import Report, Row
from conformance.report.table import many
from conformance.runs.failed import Picture

# a chart in the units of its drawing
WIDTH, HEIGHT = 360, 96
GAP = 1  # between bars
STEP = 5  # powers of two from label to label
ROOM = 24  # that a label takes
# a picture: a cell, and the least height of all rows together
CELL, LOWEST = 6, 24


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle with its words; ``shade`` is the opacity of a cell, ``wrong`` the tone of a bar."""

    x: float
    y: float
    width: float
    height: float
    said: str
    wrong: bool = True
    shade: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """A label under an axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of rectangles, and the same in words."""

    title: str
    width: float
    height: float
    parts: tuple[Rectangle, ...]
    labels: tuple[Label, ...]
    said: str


# --- where elements are wrong -----------------------------------------------------------------------------------


def picture(places: Picture) -> Figure:
    """Return the picture of an output, rows from top to bottom and columns from left to right."""
    height = max(CELL, LOWEST / len(places.cells))
    parts = tuple(
        Rectangle(x * CELL, y * height, long * CELL, height, "", shade=shade / SHADES)
        for y, line in enumerate(places.cells)
        for x, long, shade in _runs(line)
        if shade
    )
    said = f"{many(places.rows, 'row')} × {many(places.columns, 'column')} of {places.output}"
    size = len(places.cells[0]) * CELL, len(places.cells) * height
    return Figure("where elements are wrong", *size, parts, (), said)


def _runs(line: str) -> Iterator[tuple[int, int, int]]:
    """Yield the place, the length and the digit of every run of one digit."""
    place = 0
    for digit, run in itertools.groupby(line):
        long = len(list(run))
        yield place, long, int(digit)
        place += long


# --- how large errors are ---------------------------------------------------------------------------------------


def charts(report: Report, operation: str) -> tuple[tuple[str, tuple[Figure, ...]], ...]:
    """Return by dtype how large the errors of an operation are: as a share of what is allowed, and in ulps.

    All properties that compare elements with the contract count together, and all dtypes share one axis.
    """
    rows = [row for row in report.results if row.operation == operation and row.sizes != Sizes()]
    found = {dtype: _sizes(rows, dtype) for dtype in sorted({row.dtype for row in rows})}
    shares, ulps = _axis([each.share for each in found.values()]), _axis([each.ulps for each in found.values()])
    return tuple(
        (
            dtype,
            (
                _chart("error ÷ allowed", each.share, _from_one(each.share), shares),
                _chart("error in ulps", each.ulps, each.wrong, ulps),
            ),
        )
        for dtype, each in found.items()
    )


def _sizes(rows: list[Row], dtype: str) -> Sizes:
    return sum((row.sizes for row in rows if row.dtype == dtype), Sizes())


def _axis(histograms: list[Histogram]) -> range:
    """Return the powers of two that some histogram has; the least and 1 are among them."""
    return range(LEAST, max([1, *(each.least + len(each.counts) for each in histograms)]))


def _from_one(shares: Histogram) -> Histogram:
    """Return the shares of wrong elements alone."""
    return Histogram(0, tuple(map(shares.at, range(MOST + 1))))


def _chart(title: str, every: Histogram, wrong: Histogram, axis: range) -> Figure:
    """Return the bars of a histogram, of heights on a log scale: one element among millions shows.

    The bars of wrong elements stand in front of those of every element.
    """
    wide, most = WIDTH / len(axis), math.log1p(max(every.counts, default=0)) or 1.0
    parts = []
    for place, power in enumerate(axis):
        for bad, count in ((False, every.at(power)), (True, wrong.at(power))):
            if count:
                high = HEIGHT * math.log1p(count) / most
                said = f"{count:,} {'wrong ' * bad}elements: {_range(power)}"
                parts.append(Rectangle(place * wide, HEIGHT - high, wide - GAP, high, said, bad))
    marked = [power for power in axis if power % STEP == 0 and (power - LEAST) * wide < WIDTH - ROOM]
    labels = tuple(Label((power - LEAST) * wide, _power(power)) for power in marked)
    said = f"{sum(wrong.counts):,} of {sum(every.counts):,} elements are wrong"
    return Figure(title, WIDTH, HEIGHT, tuple(parts), labels, said)


def _range(power: int) -> str:
    """Return the sizes that a bin has, in words."""
    if power == LEAST:
        return f"less than {_power(power + 1)}"
    if power == MOST:
        return f"{_power(power)} or more, infinite or NaN"
    return f"{_power(power)} to {_power(power + 1)}"


def _power(power: int) -> str:
    """Return a power of two: as a number where that is short."""
    if 0 <= power < STEP:
        return str(2**power)
    return f"1/{2**-power}" if -STEP < power < 0 else f"2{str(power).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
