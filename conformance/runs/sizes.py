"""Sizes that are drawn on purpose: widths of real models, many rows, and both sides of every declared threshold.

A budget counts elements, and for kernels in Triton's interpreter programs; never a clock. Every size over the
budget is named, so that it is shown as not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conformance.cases.factors import DTYPES, Scope, usual
from conformance.operations import Operation

# hidden sizes of models past 5,120 columns, and neighbours of powers of two; dealt out in turns
WIDE = (8193, 16385, 20480, 7168, 12288, 18432, 8192, 16384)
LONG = (1024, 1030, 2051)
# many rows that are also wide: rows and columns; fewer of them, and in one dtype columns of whole lines of memory,
# past which there is nothing to read
BOTH = ((64, 1025), (97, 2048), (130, 1536))
FEWER_BOTH = ((64, 1056), (64, 1025), (64, 1025))
# columns of many rows: as wide as a tile, or narrow where a tile would give too many elements
NARROW = 16
TILE = 128
ROWS = 2  # wide rows
SPREAD = 12  # rows over three leading dimensions
HEAD = 64  # least width of a token of a rotation, in elements

# elements of one case, by profile and by whether a GPU judges them
ELEMENTS = {("quick", False): 2**19, ("quick", True): 2**24}
MORE_ELEMENTS = {False: 2**22, True: 2**27}
# interpreted programs granted to every dtype, and to one dtype
PROGRAMS = 256
ROTATED = 8  # programs of a norm that take as long as one of a rotation
MOST_PROGRAMS = {"quick": 2200}
MORE_PROGRAMS = 9000


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of one case, by the names of ``Scope.exact``; ``left_out``: why the case is not judged, or nothing.

    ``plain``: a call with every factor at its first level, for which alone an implementation may have a kernel.
    ``spread``: rows over three leading dimensions, of which no two are one in memory.
    """

    rows: int
    columns: int | None
    left_out: str = ""
    plain: bool = False
    spread: bool = False


def sizes(
    operation: Operation, scope: Scope, profile: str, seed: int, programs: float, *, whole: bool = True
) -> Iterator[Size]:
    """Yield the sizes of cases that one dtype is judged on in addition to drawn cases.

    ``programs``: how many an interpreted kernel has for a row, 0 where nothing is interpreted. Widths and
    numbers of rows are dealt out over the dtypes; every dtype gets the thresholds. ``whole``: all sizes,
    otherwise one wide case, one of many rows, and one of rows that are spread. In quick an interpreted kernel gets
    fewer: one wide case, and around a threshold the last number before it and the first behind.
    """
    programs *= ROTATED if operation.token_axes else 1
    place = (DTYPES.index(scope.dtype) + seed) % len(DTYPES)
    few = programs > 0 and profile == "quick"
    wanted = _wanted(operation, scope, place, few=few) if whole else _two(operation, scope, place)
    for size in wanted:
        rows = _nearest(scope, "rows", size.rows)
        columns = None if size.columns is None else _nearest(scope, "columns", size.columns)
        left_out = _left_out(rows, columns or HEAD, scope, profile, programs, alone=place == 0)
        yield Size(rows, columns, left_out, size.plain, size.spread)


def _nearest(scope: Scope, name: str, wanted: int) -> int:
    """Return the taken number nearest to the wanted one; for columns, in a row that is one group."""
    names = ("columns", "group_size") if name == "columns" else (name,)
    given = [numbers for name in names if (numbers := scope.taken.numbers(name)) is not None]
    fitting = {n for numbers in given for n in (wanted, *usual(numbers)) if all(n in each for each in given)}
    return min(fitting or {wanted}, key=lambda number: (abs(number - wanted), number))


def _wanted(operation: Operation, scope: Scope, place: int, *, few: bool) -> Iterator[Size]:
    rotation = bool(operation.token_axes)
    narrow = None if rotation else _narrowest(scope)
    for edge in scope.row_edges:
        yield from (Size(rows, narrow) for rows in (edge - 1, edge, edge + 1)[: 2 if few else 3] if rows > 0)
    for edge in scope.column_edges:
        yield from (Size(ROWS, n) for n in (edge - 1, edge, edge + 1)[1 if few else 0 :] if n > 0)
    yield Size(LONG[place], narrow)
    if not rotation:
        yield from (Size(ROWS, n) for n in WIDE[place :: len(DTYPES)][: 1 if few else None])
        yield Size(*(FEWER_BOTH if few else BOTH)[place])
        # kernels for narrow rows have many of them a program: the last program has fewer rows, or as many
        for columns in (edge for edge in scope.column_edges if edge <= TILE):
            several = [edge for edge in scope.row_edges if edge > 1]
            yield from (Size(rows, columns, plain=True) for edge in several for rows in (edge - 1, edge))


def _two(operation: Operation, scope: Scope, place: int) -> Iterator[Size]:
    rotation = bool(operation.token_axes)
    yield Size(LONG[place], None if rotation else _narrowest(scope))
    if not rotation:
        yield Size(ROWS, WIDE[place])
        yield Size(SPREAD, _narrowest(scope), spread=True)


def _narrowest(scope: Scope) -> int:
    """Return the columns of many rows: few, as far as they are taken."""
    fitting = [n for n in (NARROW, TILE) if scope.taken.fits_width(n)]
    numbers = scope.taken.numbers("columns") or scope.taken.numbers("group_size")
    return fitting[0] if fitting else numbers[0] if numbers else NARROW


def _left_out(rows: int, columns: int, scope: Scope, profile: str, programs: float, *, alone: bool) -> str:
    """Return why a size is over the budget, or nothing."""
    on_gpu = scope.device != "cpu"
    most = ELEMENTS.get((profile, on_gpu), MORE_ELEMENTS[on_gpu])
    if rows * columns > most:
        return f"{rows:,} rows of {columns:,} columns are over the {most:,} elements of a case in {profile}"
    needed = int(rows * programs)
    most = MOST_PROGRAMS.get(profile, MORE_PROGRAMS) if alone else PROGRAMS
    if needed > most:
        return f"{rows:,} rows are {needed:,} interpreted programs, over the {most:,} of a case in {profile}"
    return ""
