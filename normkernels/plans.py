"""Launch plans by sizes. Pure: no tensors, no triton, no device.

The bits of a row never depend on its plan (see ``pairwise_sum``), so plans are chosen for speed alone.
Plans change at thresholds only, and each serves one range of row counts: it compiles once for all of them.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

# One program holds a whole row (or group) in registers; beyond this it spills.
MAX_WIDTH = 32768
# The head dimension of gated delta-net layers, which has plans of its own.
NARROW = 128
# A program holds a few whole heads in registers; no model has wider ones.
MAX_HEAD_DIM = 1024
# Three leading sizes cover the slices and transposes of model code; each costs a division per row.
MAX_LEADING = 3
# Threads of a program that every GPU can run; a warp has 32 threads, or 64.
_MAX_THREADS = 1024


# How a norm with a residual loads its rows: each value when first used; all loads issued before any use; or twice,
# once for the sum and again, from L1 or L2, for the output.
Reads = Literal["as needed", "together", "twice"]


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The properties of a machine that plans depend on."""

    scale: int = 1  # divisor of the thresholds
    max_programs: int | None = None
    warp: int = 32  # threads of a warp
    ptx: bool = True  # whether the GPU is NVIDIA's


@dataclass(frozen=True, slots=True)
class Plan:
    """One launch configuration; a program has ``rows`` rows."""

    name: str
    rows: int  # tokens of a rotation
    levels: int  # of a row's sum: the padded row has 2**levels columns
    warps: int
    reads: Reads = "as needed"  # of norms with a residual
    ptx: bool = False  # as in the table
    registers: int | None = None  # limit for a thread; None: the compiler decides
    heads: int = 1  # rotated at a time, in a rotation
    programs: int = 1  # that share the heads of a token

    def __post_init__(self) -> None:
        """Check the depth that the contract promises: additions in the longest chain of a row's sum."""
        assert self.levels <= (24 if 2**self.levels <= 256 else 64)


@dataclass(frozen=True, slots=True)
class Tile:
    """A launch configuration that is used from ``start`` rows on."""

    start: int = 0
    _: KW_ONLY
    elements: int = 0  # of a program, which has at least one row
    warps: int  # of 32 threads
    reads: Reads = "as needed"
    registers: int | None = None  # limit for a thread of an NVIDIA GPU: fewer let more programs run


# Tiles by the widest row that they serve. Few rows: many warps, so that all loads are in flight. Many rows: few
# warps, which synchronise less; narrow rows share a warp. Timed on an H200, bf16 (benchmarks/results).
_ANY = {
    128: (Tile(elements=256, warps=1), Tile(4096, elements=2048, warps=8)),
    256: (Tile(elements=512, warps=2), Tile(4096, elements=2048, warps=8)),
    512: (Tile(warps=2),),
    1024: (Tile(warps=4),),
    4096: (Tile(warps=8), Tile(1024, warps=4)),
    6144: (Tile(warps=16), Tile(512, warps=8)),
    8192: (Tile(warps=16),),
    16384: (Tile(warps=32), Tile(1024, warps=16)),
    MAX_WIDTH: (Tile(warps=32),),
}
_FP8 = {
    6144: (Tile(warps=8), Tile(1024, warps=4)),
    8192: (Tile(warps=16), Tile(512, warps=8)),
    16384: (Tile(warps=16),),
}
# Tiles for each kind of norm, because kinds need different numbers of registers a column.
TILES: Mapping[str, Mapping[int, tuple[Tile, ...]]] = {
    # 128 rows of 5,120 columns take 2.83 us with 8 warps and 2.95 with 16; other widths were not timed this way
    "norm": _ANY | {6144: (Tile(warps=16), Tile(128, warps=8)), 8192: (Tile(warps=16), Tile(512, warps=8))},
    # Few rows have an SM each, which issues all of their instructions: "as needed" has the fewest. Many wide rows
    # are faster if they are read twice: with half of the registers a thread, twice as many warps run at once.
    # Reads of rows of up to 1,024 columns were not timed.
    "residual": _ANY
    | {
        1024: (Tile(warps=4), Tile(1024, warps=4, reads="together")),
        3072: (Tile(warps=8), Tile(1024, warps=4, reads="together"), Tile(8192, warps=8, reads="twice")),
        4096: (Tile(warps=8), Tile(1024, warps=4, reads="together"), Tile(8192, warps=16, reads="twice")),
        6144: (
            Tile(warps=16),
            Tile(256, warps=8),
            Tile(1024, warps=8, reads="together"),
            Tile(4096, warps=16, reads="twice"),
        ),
        8192: (Tile(warps=16), Tile(512, warps=8, reads="twice"), Tile(4096, warps=16, reads="twice")),
        16384: (Tile(warps=16, reads="together"),),
        MAX_WIDTH: (Tile(warps=32, reads="together"),),
    },
    # 1,536 columns with 2 warps, and with 1: 512 rows take 3.00 us, and 3.18; 8,192 rows 13.1, and 13.5. With 48
    # registers 20 programs run on an SM at once instead of 18: 12.1 us instead of 12.3. More columns would spill
    "fp8": _ANY
    | _FP8
    | {1536: (Tile(warps=8), Tile(512, warps=2, registers=48)), 2048: (Tile(warps=8), Tile(512, warps=2))},
    "fp8 residual": _ANY | _FP8,
    "gated": _ANY | {6144: (Tile(warps=16), Tile(1024, warps=4))},
    # few contiguous rows of 128: one row a warp loads only 8 bytes a thread, and is still faster
    "gated 128": {
        NARROW: (
            Tile(elements=128, warps=1),
            Tile(1024, elements=256, warps=1),
            Tile(4096, elements=2048, warps=8),
        )
    },
    "gated fp8": _ANY
    | {
        128: (Tile(elements=256, warps=1), Tile(4096, elements=512, warps=1), Tile(262144, elements=1024, warps=2))
    },
}
# Narrow rows whose size is no multiple of 16 bytes: each row stays within one warp.
_ODD = (Tile(elements=256, warps=1), Tile(4096, elements=512, warps=1))
# Plans of contiguous rows of 128 are called prefill from this number of rows on, and decode below it.
_PREFILL = 4096
# Tokens from which on one program rotates all heads of a token, and from which on a program has two tokens. Heads
# spread over programs are ready sooner, but every program loads cos and sin. Timed like the tiles.
_WHOLE_TOKENS, _PAIRS_OF_TOKENS = 512, 2048

MEASURED = PlanTable()
# For Triton's CPU interpreter, where a program costs milliseconds whatever its size.
INTERPRETED = PlanTable(scale=128, max_programs=2, ptx=False)


def gated_128(rows: int, table: PlanTable) -> Plan:
    """Return the plan for contiguous rows of 128: no sum crosses warps."""
    name = "decode128" if rows < _PREFILL // table.scale else "prefill128"
    return _tiled(name, rows, NARROW, 7, TILES["gated 128"], table)


def general(kind: str, rows: int, width: int, table: PlanTable, room: int | None = None) -> Plan:
    """Return the plan for rows of any width; ``room`` is their size with every block padded, if that is larger."""
    return _tiled("general", rows, width, _levels(width if room is None else room), TILES[kind], table)


def _tiled(
    name: str, rows: int, width: int, levels: int, tiles: Mapping[int, tuple[Tile, ...]], table: PlanTable
) -> Plan:
    """Return the plan for rows by the tiles for their width."""
    steps = tiles[next((columns for columns in sorted(tiles) if width <= columns), max(tiles))]
    if width <= 256 and width % 8:
        steps = _ODD
    tile = next(each for each in reversed(steps) if rows >= each.start // table.scale)
    warps = max(tile.warps * 32 // table.warp, 1)
    # as many elements a thread, where a warp has more threads
    elements = tile.elements * warps * table.warp // (tile.warps * 32)
    at_once = min(max(elements >> levels, 1), 64)
    # every thread has at least eight elements, unless there is one warp
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
    """Return the numbers of rows at which plans of a kind of norm change, for some width."""
    starts = {tile.start // table.scale for steps in TILES[kind].values() for tile in steps}
    return tuple(sorted(starts - {0}))


def token_thresholds(table: PlanTable) -> tuple[int, ...]:
    """Return the numbers of tokens at which plans of a rotation change."""
    return (_WHOLE_TOKENS // table.scale, _PAIRS_OF_TOKENS // table.scale)


def heads(
    tokens: int, q_heads: int, k_heads: int, head_dim: int, half: int, table: PlanTable, *, copied: bool
) -> Plan:
    """Return the plan for a rotation: eight heads at a time, or four of two tokens, 16 bytes of a half a thread.

    Two tokens need halves of up to 32 columns, of which eight heads fill a warp. Columns that are ``copied`` leave
    no registers for a second token, and heads are then spread up to more tokens. A warp of 64 threads that is not
    full has twice as many heads, or twice as many tokens if there are no more heads.
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
        return Plan("decode", _enough(1, tokens * blocks, table), 0, warps, heads=at_once, programs=blocks)
    return Plan("prefill", _enough(together, tokens, table), 0, warps, heads=at_once)


@dataclass(frozen=True, slots=True)
class Cut:
    """Norm groups of ``width`` columns and quant groups of ``group`` columns, the smaller within the larger.

    The larger groups are spans, whose statistics need no other columns; the smaller groups are blocks of a span.
    The last span or block of a row may be shorter.
    """

    width: int
    group: int
    span: int  # columns
    block: int  # columns
    block_levels: int  # of the padded block, which has 2**block_levels columns
    levels: int  # of a span of padded blocks


def cut(n: int, width: int, group: int) -> Cut | None:
    """Return the cut of rows of ``n`` columns by both groups, each at most n; None if groups would cross."""
    # a row without columns is cut like one with a single column
    width, group = max(width, 1), max(group, 1)
    span, block = max(width, group), min(width, group)
    levels = _levels(block)
    whole = width == n or span % block == 0
    return Cut(width, group, span, block, levels, _levels(-(-span // block)) + levels) if whole else None


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
