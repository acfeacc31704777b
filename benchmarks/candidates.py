"""Launch plans to try and the sizes to try them at. Pure: feasibility follows from sizes alone.

No candidate changes a bit of any result: a row is summed by the same tree whatever its plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from normkernels import plans
from normkernels.plans import Plan

TILE_ROWS = (1, 2, 4, 8, 16)
WARPS = (1, 2, 4, 8, 16, 32)
# elements a thread: from one 16-byte load of a 2-byte type to as many as fit in registers with the gate
PER_THREAD = (8, 16, 32, 64)
# columns from which a program has one row: several rows would wait for each other at every level of their sums
ONE_ROW = 2048

QUANT_GROUP = 128
NARROW = 128
TOKENS = (1, 16, 64, 256, 1024, 4096, 8192, 65536)

Series = tuple[str, str, int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Size:
    """The problem of one launch: bf16, with an int64 position on each axis and fp32 tables for rotations.

    ``rows`` of ``width`` columns; in a rotation ``rows`` are tokens and ``width`` is the head dimension. ``form``
    is the kernel's: ``residual`` or ``alone``, ``in place`` or ``copied``, ``strided`` or nothing.
    """

    kernel: str
    rows: int
    width: int
    form: str = ""
    heads: tuple[int, int] = (0, 0)
    half: int = 0

    @property
    def name(self) -> str:
        """Return the size in readable form."""
        heads = "x({}+{})".format(*self.heads) if self.half else ""
        return " ".join(filter(None, (self.kernel, self.form, f"{self.rows}{heads}x{self.width}")))

    @property
    def series(self) -> Series:
        """Return the name without the number of rows: one table of thresholds serves a series."""
        return (self.kernel, self.form, self.width, self.heads)

    @property
    def bytes(self) -> int:
        """Return the bytes that must be moved, each once; memory that all rows share is left out."""
        elements = self.rows * self.width
        scales = 4 * elements // QUANT_GROUP
        if self.kernel == "mrope":
            rotated = 2 * self.half if self.form == "in place" else self.width
            # at least one row each of cos and sin, and three positions
            return self.rows * (2 * 2 * sum(self.heads) * rotated + 2 * 4 * self.half + 3 * 8)
        return {
            "gated 128": 6 * elements,
            "gated": 6 * elements,
            "gated fp8": 5 * elements + scales,
            "norm": (8 if self.form == "residual" else 4) * elements,
            "norm fp8": (7 if self.form == "residual" else 3) * elements + scales,
        }[self.kernel]

    @property
    def ceiling(self) -> str:
        """Return the memory pattern that the kernel's bandwidth is compared with."""
        return "triad" if self.kernel.startswith("gated") else "copy"


def label(plan: Plan) -> str:
    """Return a plan in short: rows, warps, for rotations heads and programs, and reads unless as needed.

    A register limit is added if the plan has one.
    """
    heads = f" h{plan.heads} p{plan.programs}" if plan.name in ("decode", "prefill") else ""
    reads = "" if plan.reads == "as needed" else f" {plan.reads}"
    registers = "" if plan.registers is None else f" n{plan.registers}"
    return f"r{plan.rows}{heads} w{plan.warps}{reads}{registers}"


def candidates(size: Size) -> tuple[Plan, ...]:
    """Return every plan worth trying, including today's."""
    found = tuple(_heads(size)) if size.kernel == "mrope" else tuple(_rows(size))
    today = chosen(size)
    return found if today in found else (today, *found)


def chosen(size: Size) -> Plan:
    """Return the plan that runs today."""
    table = plans.MEASURED
    if size.kernel == "mrope":
        copied = size.form == "copied"
        return plans.heads(size.rows, *size.heads, size.width, size.half, table, copied=copied)
    if size.kernel == "gated 128":
        return plans.gated_128(size.rows, table)
    return plans.general(_kind(size), size.rows, size.width, table, 2 ** _levels(size))


def _kind(size: Size) -> str:
    kinds = {"norm": "residual", "norm fp8": "fp8 residual"} if size.form == "residual" else {"norm fp8": "fp8"}
    return kinds.get(size.kernel, size.kernel)


def _levels(size: Size) -> int:
    cut = plans.cut(size.width, size.width, QUANT_GROUP) if size.kernel == "norm fp8" else None
    return (size.width - 1).bit_length() if cut is None else cut.levels


def _rows(size: Size) -> Iterator[Plan]:
    """Return tiles of rows whose threads have ``PER_THREAD`` elements."""
    levels = _levels(size)
    tiles = (1,) if 2**levels >= ONE_ROW else TILE_ROWS
    name = chosen(size).name
    ways: tuple[plans.Reads, ...] = get_args(plans.Reads) if _kind(size) == "residual" else ("as needed",)
    if size.kernel in {"gated 128", "gated"} and size.width == NARROW:
        # 8-byte loads, four elements a thread: with few rows only the loads' latency counts
        yield Plan(name, 1, levels, 1, ptx=plans.MEASURED.ptx)
    for rows in tiles:
        for warps in WARPS:
            # each warp has a row or a part of one, so that no warp repeats another's work
            if (rows << levels) // (32 * warps) in PER_THREAD:
                yield from (Plan(name, rows, levels, warps, reads=reads, ptx=plans.MEASURED.ptx) for reads in ways)


def _heads(size: Size) -> Iterator[Plan]:
    """Return tiles of tokens and heads with one or two 16-byte loads of a half a thread; four for many heads.

    One program has all blocks of a token, two programs share them, or each block has its own.
    """
    name = chosen(size).name
    block, most = plans.power_of_two(size.half), plans.power_of_two(max(size.heads))
    for at_once in (each for each in (4, 8, 16, 32) if each <= most):
        blocks = sum(-(-heads // at_once) for heads in size.heads)
        # more heads of several tokens are the slowest everywhere
        for tokens in (1, 2, 4) if at_once <= 8 else (1,):
            for per_thread in (8, 16, 32) if tokens == 1 else (8,):
                warps = tokens * at_once * block // (32 * per_thread)
                if 1 <= warps <= 16:
                    for programs in sorted({1, 2, blocks}) if tokens == 1 else (1,):
                        yield Plan(name, tokens, 0, warps, heads=at_once, programs=programs)


def sizes() -> tuple[Size, ...]:
    """Return every size, the most informative kernels first and each kernel from few rows to many."""
    return (*_gated(), *_norms(), *_rotations(), *_fp8())


def _gated() -> Iterator[Size]:
    # one token of 24 heads up to the longest prefill of 24 heads, 60,381 tokens, and beyond
    for rows in (24, 192, 768, 1536, 6144, 24576, 98304, 393216, 1449144, 2097152):
        yield Size("gated 128", rows, 128)
    for rows in (24, 1536, 24576, 1449144):
        yield Size("gated", rows, 128, "strided")
    # the same bytes as rows of 128, which have plans of their own
    for rows in (24, 1536, 24576, 393216, 1449144):
        yield Size("gated", rows, NARROW)
    for rows in (1, 128, 8192):
        yield Size("gated", rows, 5120)
    for rows in (2048, 131072):
        yield Size("gated", rows, 127)


def _norms() -> Iterator[Size]:
    for form in ("residual", "alone"):
        for rows, width in (*_rows_and_widths(), *_more_rows_and_widths()):
            yield Size("norm", rows, width, form)


def _rotations() -> Iterator[Size]:
    for form, heads, head_dim, half in (
        ("in place", (24, 4), 256, 32),
        ("copied", (24, 4), 256, 32),
        ("in place", (16, 2), 256, 32),
        ("in place", (8, 1), 256, 32),
        ("in place", (24, 4), 128, 64),
    ):
        for tokens in TOKENS:
            yield Size("mrope", tokens, head_dim, form, heads, half)


def _fp8() -> Iterator[Size]:
    for rows in (24, 1536, 24576, 393216, 1449144):
        yield Size("gated fp8", rows, 128)
    for rows, width in (*_rows_and_widths(), (1, 7168), (128, 7168), (1024, 7168), (8192, 7168)):
        yield Size("norm fp8", rows, width, "residual")
    for rows, width in itertools.product((1, 64, 512, 1024, 8192), (1536, 512)):
        yield Size("norm fp8", rows, width, "alone")


def _rows_and_widths() -> Iterator[tuple[int, int]]:
    for width in (5120, 2560, 2048, 3584, 8192, 16384):
        for rows in (1, 16, 128, 1024, 8192):
            yield rows, width
        if width == 5120:
            yield 65536, width


def _more_rows_and_widths() -> Iterator[tuple[int, int]]:
    """Return other widths of models, and row counts between decode batches and prefills."""
    for width in (4096, 6144, 7168, 1024, 256):
        for rows in (1, 16, 128, 256, 512, 1024, 8192):
            yield rows, width
    for width in (2560, 5120):
        for rows in (256, 512):
            yield rows, width
