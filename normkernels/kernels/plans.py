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
# Elements per thread that fill 16-byte loads of 2-byte types twice.
_PER_THREAD = 16
# What every GPU takes in a program; warps are of 32 threads, or of 64.
_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The thresholds, in rows, from which plans change, and what a GPU calls a warp."""

    tile_rows: int
    prefill_rows: int
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


# tile_rows: below it a launch of small tiles just reaches every multiprocessor of a large GPU.
# prefill_rows: below it four rows a program were the fastest or within 5 % of it on an H200; the
# longest prefill, 1.4 million rows, wants eight.
# prefill_tokens: from it on a program a token is sixteen for each multiprocessor of a large GPU, and cos and
# sin are loaded once for all heads; below it the heads of a token are spread. Not measured yet.
MEASURED = PlanTable(tile_rows=4096, prefill_rows=65536)
# For Triton's CPU interpreter, where a program costs milliseconds whatever its size.
INTERPRETED = PlanTable(tile_rows=8, prefill_rows=32, max_programs=2, prefill_tokens=8)

# The table in use, read at each call.
TABLE = MEASURED


def gated_128(rows: int, table: PlanTable) -> Plan:
    """Plan contiguous rows of 128: one warp a program, so that no sum crosses warps."""
    if rows < table.prefill_rows:
        return Plan("decode128", _enough(4, rows, table), levels=7, warps=1)
    return Plan("prefill128", _enough(8, rows, table), levels=7, warps=1)


def general(rows: int, width: int, table: PlanTable) -> Plan:
    """Plan rows of any width: tiles of few elements for few rows, and warps by the tile."""
    levels = _levels(width)
    elements = 512 if rows < table.tile_rows else 2048
    tile = min(max(elements >> levels, 1), 64)
    warps = min(max((tile << levels) // (table.warp * _PER_THREAD), 1), _MAX_THREADS // table.warp)
    return Plan("general", _enough(tile, rows, table), levels, warps)


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
