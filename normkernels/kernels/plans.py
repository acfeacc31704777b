"""From sizes to launch plans. Pure: no tensors, no triton, no device.

The bits of a row never depend on its plan (see ``pairwise_sum``), so plans are free to follow speed.
Rows per program change only at the thresholds of the table: each plan compiles once for all row counts.
"""

from __future__ import annotations

from dataclasses import dataclass

# One program holds a whole row (or group) in registers; beyond this it spills.
MAX_WIDTH = 32768
# The head dimension of gated delta-net layers, which has plans of its own.
NARROW = 128
# A program holds a few whole heads in registers; no model has wider ones.
MAX_HEAD_DIM = 1024
# Three leading sizes cover what model code slices and transposes; each costs a division per row.
MAX_LEADING = 3
# Columns up to which a program has several rows: a warp that loads 16 bytes a thread has one of them at least.
_TILED = 256
# What every GPU takes in a program; warps are of 32 threads, or of 64.
_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The thresholds, in rows, from which plans change, and what a GPU calls a warp."""

    tile_rows: int  # of at most 256 columns
    wide_rows: int  # of more
    max_programs: int | None = None
    prefill_tokens: int = 2048
    warp: int = 32  # threads


@dataclass(frozen=True, slots=True)
class Plan:
    """One launch configuration; a program has ``rows`` rows."""

    name: str
    rows: int
    levels: int
    warps: int

    def __post_init__(self) -> None:
        """Hold the depth that the contract promises: additions in the longest chain of a row's sum."""
        assert self.levels <= (24 if 2**self.levels <= 256 else 64)


@dataclass(frozen=True, slots=True)
class HeadPlan(Plan):
    """One launch configuration of a rotation; the rows of a program are tokens, and nothing is summed."""

    heads: int  # at a time
    programs: int  # that share the heads of a token


@dataclass(frozen=True, slots=True)
class Warps:
    """The warps of 32 threads that share a row of at most ``columns``: of few rows, and of many."""

    columns: int
    few: int
    many: int


# Few rows want all of their loads in flight at once, many rows want few warps to wait for each other. Of what
# ``benchmarks.sweep`` timed on an H200, norms with a residual, without one and with fp8 values, each is the
# fastest or at most SHARE slower.
WARPS = (
    Warps(512, few=2, many=1),
    Warps(1024, few=4, many=2),
    Warps(2048, few=8, many=4),
    Warps(4096, few=16, many=4),
    Warps(6144, few=8, many=8),
    Warps(16384, few=32, many=16),
    Warps(MAX_WIDTH, few=32, many=32),
)
# prefill_tokens: from it on a program a token is sixteen for each multiprocessor of a large GPU, and cos and
# sin are loaded once for all heads; below it the heads of a token are spread. Not measured yet.
MEASURED = PlanTable(tile_rows=4096, wide_rows=512)
# For Triton's CPU interpreter, where a program costs milliseconds whatever its size.
INTERPRETED = PlanTable(tile_rows=8, wide_rows=8, max_programs=2, prefill_tokens=8)

# The table in use, read at each call.
TABLE = MEASURED


def gated_128(rows: int, table: PlanTable) -> Plan:
    """Plan contiguous rows of 128: two to a warp, so that no sum crosses warps."""
    name = "decode128" if rows < table.tile_rows else "prefill128"
    return _tiles(name, rows, 7, table)


def general(rows: int, width: int, table: PlanTable, room: int | None = None) -> Plan:
    """Plan rows of any width, or whose columns need more room than they are, in the block that holds them."""
    levels = _levels(width if room is None else room)
    if width <= _TILED:
        return _tiles("general", rows, levels, table)
    one = next(each for each in WARPS if width <= each.columns or each is WARPS[-1])
    warps = one.few if rows < table.wide_rows else one.many
    return Plan("general", _enough(1, rows, table), levels, max(warps * 32 // table.warp, 1))


def _tiles(name: str, rows: int, levels: int, table: PlanTable) -> Plan:
    """Plan tiles of narrow rows, 256 columns a warp: of one warp each, or from a threshold on of eight."""
    tile = min(max((1 if rows < table.tile_rows else 8) * _TILED >> levels, 1), 64)
    warps = max((tile << levels) // _TILED, 1)
    return Plan(name, _enough(tile, rows, table), levels, max(warps * 32 // table.warp, 1))


def heads(tokens: int, q_heads: int, k_heads: int, head_dim: int, half: int, table: PlanTable) -> HeadPlan:
    """Plan a rotation: a few heads at a time, as many as registers hold, whose halves are 16 bytes a thread."""
    block = power_of_two(half)
    at_once = min(power_of_two(max(q_heads, k_heads)), 16, max(8192 // power_of_two(head_dim), 1))
    warps = min(max(at_once * block // (table.warp * 8), 1), _MAX_THREADS // 2 // table.warp)
    if tokens < table.prefill_tokens:
        blocks = -(-q_heads // at_once) + -(-k_heads // at_once)
        return HeadPlan("decode", _enough(1, tokens * blocks, table), 0, warps, at_once, blocks)
    return HeadPlan(
        "prefill", _enough(max(table.warp * 8 // (at_once * block), 1), tokens, table), 0, warps, at_once, 1
    )


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
