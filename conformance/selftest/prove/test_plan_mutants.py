"""Mutants of plans that are marked as equivalent on a CPU make valid plans: the same bits, at another speed."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any, get_args

from conformance.prove.copies import ROOT, mutants
from conformance.prove.equivalent import marks
from normkernels import plans

FILE = "normkernels/plans.py"
SOURCE = (ROOT / FILE).read_text("utf-8")
EVERY = {mutant.id: mutant for mutant in mutants((FILE.partition("/")[2],))}
MARKED = [name for mark in marks() if mark.file == "" and mark.lane == "cpu" for name in mark.ids if name in EVERY]
# Mutants whose plans are wrong: programs of 2,047 elements, and sums of another depth.
WRONG = ("2048 -> 2047", "7 -> 8")

# around every threshold of the interpreter's plans, and around every width that has tiles of its own
ROWS = (1, 3, 7, 8, 9, 16, 31, 32, 33, 64, 2048, 2**20 + 1)
COLUMNS = {columns for tiles in plans.TILES.values() for columns in tiles}
WIDTHS = sorted({1, 2, 7, 9, 100, *COLUMNS, *(width + 1 for width in COLUMNS if width < plans.MAX_WIDTH)})
TOKENS, HEADS = (1, 3, 4, 16, 17, 4096), ((1, 1), (3, 1), (24, 4), (2, 64))
SIZES = ((1, 0), (64, 16), (97, 13), (128, 64), (256, 33), (1024, 32))  # columns of a head, and of a half
CUTS = list(itertools.product((1, 7, 64, 129, 256), (1, 8, 64, 129), (0, 1, 16, 128)))


def made(text: str) -> Any:
    """Return the module of a source text."""
    module = types.ModuleType(plans.__name__)
    exec(compile(text, FILE, "exec"), module.__dict__)  # noqa: S102 - a mutant of our own source
    return module


def mutated(name: str) -> Any:
    """Return the module of a mutant."""
    mutant = EVERY[name]
    return made(SOURCE[: mutant.start] + mutant.text + SOURCE[mutant.end :])


def power_of_two(number: int) -> bool:
    """Return whether a number is a power of two, as Triton's sizes must be."""
    return number >= 1 and number & (number - 1) == 0


def faults(module: Any) -> Iterator[str]:
    """Yield what is wrong with the plans of a module for the interpreter, which has no warps and no registers."""
    table = module.INTERPRETED
    for rows, kind, width in itertools.product(ROWS, plans.TILES, WIDTHS):
        narrow = kind == "gated 128"
        plan = module.gated_128(rows, table) if narrow else module.general(kind, rows, width, table)
        columns = plans.NARROW if narrow else width
        if not power_of_two(plan.rows):
            yield f"{kind}, {rows} x {columns}: {plan.rows} rows"
        if plan.levels != (columns - 1).bit_length():
            yield f"{kind}, {rows} x {columns}: a sum of depth {plan.levels}"
        if plan.reads not in get_args(plans.Reads) or plan.ptx or plan.registers:
            yield f"{kind}, {rows} x {columns}: {plan}"
    for tokens, heads, sizes, copied in itertools.product(TOKENS, HEADS, SIZES, (True, False)):
        plan = module.heads(tokens, *heads, *sizes, table, copied=copied)
        if not (power_of_two(plan.rows) and power_of_two(plan.heads) and plan.programs >= 1 and plan.levels == 0):
            yield f"a rotation of {tokens} tokens: {plan}"
    for cut in CUTS:
        if repr(plans.cut(*cut)) != repr(module.cut(*cut)):
            yield f"{cut} are cut otherwise"
    for name in ("MAX_WIDTH", "NARROW", "MAX_HEAD_DIM", "MAX_LEADING"):
        if getattr(plans, name) != getattr(module, name):
            yield f"{name}, which decides whether a kernel runs"


def test_marked_mutants_make_valid_plans() -> None:
    """The kernels give the same bits in any of them (``test_bits_are_those_of_any_valid_plan``)."""
    wrong = {name: fault for name in MARKED if (fault := next(faults(mutated(name)), ""))}

    assert {} == wrong
    assert len(MARKED) > 200


def test_wrong_plans_are_seen() -> None:
    """The plans as they are have no fault; a size that is no power of two, and another sum, are faults."""
    assert [] == list(faults(made(SOURCE)))
    for change in WRONG:
        found = [each for each in EVERY.values() if f"{each.before} -> {each.after}" == change]
        assert [each.id for each in found if next(faults(mutated(each.id)), "")], change
