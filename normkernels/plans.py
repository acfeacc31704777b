"""From sizes to launch plans. Pure: no tensors, no triton, no device.

The bits of a row never depend on its plan (see ``pairwise_sum``), so plans are free to follow speed.
Plans change at thresholds only, and each serves one range of row counts: it compiles once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# One program holds a whole row (or group) in registers; beyond this it spills.
MAX_WIDTH = 32768
# The head dimension of gated delta-net layers, which has plans of its own.
NARROW = 128
# A program holds a few whole heads in registers; no model has wider ones.
MAX_HEAD_DIM = 1024
# Three leading sizes cover what model code slices and transposes; each costs a division per row.
MAX_LEADING = 3
# What every GPU takes in a program; warps are of 32 threads, or of 64.
_MAX_THREADS = 1024


# How a norm with a residual comes by its rows: a thread waits for each load where it needs it; for none of them
# before all are under way; or it keeps no row while it sums, and reads it again for the norm, out of L1 or L2.
Reads = Literal["as needed", "together", "twice"]


@dataclass(frozen=True, slots=True)
class PlanTable:
    """By what the thresholds below are divided, how many programs there may be, and what a GPU calls a warp."""

    scale: int = 1
    max_programs: int | None = None
    warp: int = 32  # threads
    ptx: bool = True  # whether it compiles what NVIDIA's do


@dataclass(frozen=True, slots=True)
class Plan:
    """One launch configuration; a program has ``rows`` rows."""

    name: str
    rows: int
    levels: int
    warps: int
    reads: Reads = field(default="as needed", kw_only=True)  # of norms with a residual
    ptx: bool = field(default=False, kw_only=True)  # as the table says
    registers: int | None = field(default=None, kw_only=True)  # at most so many a thread; None: as it comes

    def __post_init__(self) -> None:
        """Hold the depth that the contract promises: additions in the longest chain of a row's sum."""
        assert self.levels <= (24 if 2**self.levels <= 256 else 64)


@dataclass(frozen=True, slots=True)
class HeadPlan(Plan):
    """One launch configuration of a rotation; the rows of a program are tokens, and nothing is summed."""

    heads: int  # at a time
    programs: int  # that share the heads of a token


@dataclass(frozen=True, slots=True)
class Tile:
    """From ``start`` rows on: elements of a program, at least a row, its warps of 32 threads, and its reads.

    And the registers that a thread of an NVIDIA GPU has at most, where fewer let more programs run at once.
    """

    start: int
    elements: int
    warps: int
    reads: Reads = "as needed"
    registers: int | None = None


def _by_columns(*tables: Mapping[int, tuple[Tile, ...]]) -> Mapping[int, tuple[Tile, ...]]:
    """Return the tiles of all tables, of the later ones where they differ, from few columns to many."""
    return dict(sorted({columns: tiles for table in tables for columns, tiles in table.items()}.items()))


# By columns up to which they are. Few rows want all of their loads in flight at once; many want few warps that
# wait for each other, and where they are narrow two rows a warp. Timed on an H200, bf16 (benchmarks/results).
_ANY = {
    128: (Tile(0, 256, 1), Tile(4096, 2048, 8)),
    256: (Tile(0, 512, 2), Tile(4096, 2048, 8)),
    512: (Tile(0, 0, 2),),
    1024: (Tile(0, 0, 4),),
    4096: (Tile(0, 0, 8), Tile(1024, 0, 4)),
    6144: (Tile(0, 0, 16), Tile(512, 0, 8)),
    8192: (Tile(0, 0, 16),),
    16384: (Tile(0, 0, 32), Tile(1024, 0, 16)),
    MAX_WIDTH: (Tile(0, 0, 32),),
}
_FP8 = {
    6144: (Tile(0, 0, 8), Tile(1024, 0, 4)),
    8192: (Tile(0, 0, 16), Tile(512, 0, 8)),
    16384: (Tile(0, 0, 16),),
}
# Of each kind of norm; more registers a column want other warps.
TILES: Mapping[str, Mapping[int, tuple[Tile, ...]]] = {
    # 128 rows of 5,120 columns take 2.83 us with 8 warps and 2.95 with 16; other widths were not timed so
    "norm": _by_columns(_ANY, {6144: (Tile(0, 0, 16), Tile(128, 0, 8)), 8192: (Tile(0, 0, 16), Tile(512, 0, 8))}),
    # A few rows are an SM's each, which has to issue every instruction of theirs: "as needed" has the fewest. Many
    # wide rows are faster read twice: with half of the registers, twice as many warps are there to wait for them.
    # How rows of up to 1,024 columns are read was not timed.
    "residual": _by_columns(
        _ANY,
        {
            1024: (Tile(0, 0, 4), Tile(1024, 0, 4, "together")),
            3072: (Tile(0, 0, 8), Tile(1024, 0, 4, "together"), Tile(8192, 0, 8, "twice")),
            4096: (Tile(0, 0, 8), Tile(1024, 0, 4, "together"), Tile(8192, 0, 16, "twice")),
            6144: (Tile(0, 0, 16), Tile(256, 0, 8), Tile(1024, 0, 8, "together"), Tile(4096, 0, 16, "twice")),
            8192: (Tile(0, 0, 16), Tile(512, 0, 8, "twice"), Tile(4096, 0, 16, "twice")),
            16384: (Tile(0, 0, 16, "together"),),
            MAX_WIDTH: (Tile(0, 0, 32, "together"),),
        },
    ),
    # of 1,536 columns, with 2 warps and with 1: 512 rows take 3.00 us and 3.18, 8,192 rows 13.1 and 13.5. With 48
    # registers 20 programs are on an SM at once, and not 18: 12.1 us, and not 12.3. More columns would spill
    "fp8": _by_columns(
        _ANY,
        _FP8,
        {1536: (Tile(0, 0, 8), Tile(512, 0, 2, registers=48)), 2048: (Tile(0, 0, 8), Tile(512, 0, 2))},
    ),
    "fp8 residual": _by_columns(_ANY, _FP8),
    "gated": _by_columns(_ANY, {6144: (Tile(0, 0, 16), Tile(1024, 0, 4))}),
    # few contiguous rows of 128: one a warp is read 8 bytes a thread, and yet sooner
    "gated 128": {NARROW: (Tile(0, 128, 1), Tile(1024, 256, 1), Tile(4096, 2048, 8))},
    "gated fp8": _by_columns(_ANY, {128: (Tile(0, 256, 1), Tile(4096, 512, 1), Tile(262144, 1024, 2))}),
}
# Of narrow rows that 16 bytes do not divide: a thread has neighbours of no other, so that warps would share rows.
_ODD = (Tile(0, 256, 1), Tile(4096, 512, 1))
# Of contiguous rows of 128 those are prefill, and those before decode.
_PREFILL = 4096
# Tokens from which on one program rotates all heads of a token, and from which on a program has two tokens: heads
# that are spread are ready sooner, and read cos and sin as often. Timed like the tiles.
_WHOLE_TOKENS, _PAIRS_OF_TOKENS = 512, 2048

MEASURED = PlanTable()
# For Triton's CPU interpreter, where a program costs milliseconds whatever its size.
INTERPRETED = PlanTable(scale=128, max_programs=2, ptx=False)


def gated_128(rows: int, table: PlanTable) -> Plan:
    """Plan contiguous rows of 128: no sum crosses warps."""
    name = "decode128" if rows < _PREFILL // table.scale else "prefill128"
    return _tiled(name, rows, NARROW, 7, TILES["gated 128"], table)


def general(kind: str, rows: int, width: int, table: PlanTable, room: int | None = None) -> Plan:
    """Plan rows of any width, or whose columns need more room than they are, in the block that holds them."""
    return _tiled("general", rows, width, _levels(width if room is None else room), TILES[kind], table)


def _tiled(
    name: str, rows: int, width: int, levels: int, tiles: Mapping[int, tuple[Tile, ...]], table: PlanTable
) -> Plan:
    """Plan rows by the tiles for their width."""
    steps = next((each for columns, each in tiles.items() if width <= columns), [*tiles.values()][-1])
    if width <= 256 and width % 8:
        steps = _ODD
    tile = next(each for each in reversed(steps) if rows >= each.start // table.scale)
    warps = max(tile.warps * 32 // table.warp, 1)
    # as many elements a thread, where a warp has more of them
    elements = tile.elements * warps * table.warp // (tile.warps * 32)
    at_once = min(max(elements >> levels, 1), 64)
    # no warp without elements of its own for all of its threads
    warps = min(warps, max((at_once << levels) // (8 * table.warp), 1))
    return Plan(
        name,
        _enough(at_once, rows, table),
        levels,
        warps,
        reads=tile.reads,
        ptx=table.ptx,
        registers=tile.registers if table.ptx else None,
    )


def row_thresholds(kind: str, table: PlanTable) -> tuple[int, ...]:
    """Return the numbers of rows from which on a kind of norm has other plans, of one width or another."""
    starts = {tile.start // table.scale for steps in TILES[kind].values() for tile in steps}
    return tuple(sorted(starts - {0}))


def token_thresholds(table: PlanTable) -> tuple[int, ...]:
    """Return the numbers of tokens from which on a rotation has other plans."""
    return (_WHOLE_TOKENS // table.scale, _PAIRS_OF_TOKENS // table.scale)


def heads(
    tokens: int,
    q_heads: int,
    k_heads: int,
    head_dim: int,
    half: int,
    table: PlanTable,
    *,
    copied: bool,
) -> HeadPlan:
    """Plan a rotation: eight heads at a time, or four of two tokens, whose halves are 16 bytes a thread.

    Two tokens have halves of up to 32, of which eight heads are a warp. What is ``copied`` beside them leaves no
    registers for a second token, and is spread for longer. A warp of 64 that this does not fill has twice as many
    heads, or where there are no more, tokens.
    """
    whole, pairs = token_thresholds(table)
    if copied:
        whole = pairs
    there, columns = power_of_two(max(q_heads, k_heads)), power_of_two(half)
    together = 2 if tokens >= pairs and columns <= 32 and not copied else 1
    most = min(8 // together, max(8192 // power_of_two(head_dim), 1))
    at_once = min(there, most)
    if together * at_once * columns < 8 * table.warp:
        wanted = at_once * table.warp // 32
        at_once = min(there, wanted)
        if together > 1:
            together *= wanted // at_once
    threads = together * at_once * columns // 8
    warps = min(max(threads // table.warp, 1), _MAX_THREADS // 2 // table.warp)
    if tokens < whole:
        blocks = -(-q_heads // at_once) + -(-k_heads // at_once)
        return HeadPlan("decode", _enough(1, tokens * blocks, table), 0, warps, at_once, blocks)
    return HeadPlan("prefill", _enough(together, tokens, table), 0, warps, at_once, 1)


@dataclass(frozen=True, slots=True)
class Cut:
    """Norm groups of ``width`` columns and quant groups of ``group``, of which one are whole parts of the other.

    The larger ones are spans, whose statistics need nothing from beside them, made of blocks, the smaller
    ones. The last span or block of a row may be shorter.
    """

    width: int
    group: int

    @property
    def span(self) -> int:
        """Return the columns of a span."""
        return max(self.width, self.group)

    @property
    def block(self) -> int:
        """Return the columns of a block."""
        return min(self.width, self.group)

    @property
    def block_levels(self) -> int:
        """Return the logarithm of the columns that hold a block."""
        return _levels(self.block)

    @property
    def levels(self) -> int:
        """Return the logarithm of the columns that hold a span, where each block has its own power of two."""
        return _levels(-(-self.span // self.block)) + self.block_levels


def cut(n: int, width: int, group: int) -> Cut | None:
    """Cut rows of ``n`` columns by both groups, at most n; None where each would cut the other."""
    # no columns are cut like one
    pair = Cut(max(width, 1), max(group, 1))
    return pair if width == n or pair.span % pair.block == 0 else None


def _levels(size: int) -> int:
    return max(size - 1, 0).bit_length()


def _enough(tile: int, rows: int, table: PlanTable) -> int:
    """Widen a tile until ``max_programs`` programs cover ``rows``: eightfold, so that few widths compile."""
    while table.max_programs is not None and tile * table.max_programs < rows:
        tile *= 8
    return tile


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least ``size``."""
    return 1 << _levels(size)
