"""Plans of the sizes of models: what the tables of tiles and the thresholds come to, on each kind of machine."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from conformance.selftest.every import every
from normkernels import plans
from normkernels.plans import INTERPRETED, MEASURED, PlanTable

WIDE_WARPS = dataclasses.replace(MEASURED, warp=64, ptx=False)  # CDNA

# Plans of norms by the first and last number of columns that have them, each from a number of rows on: rows of a
# program x warps, how rows are read with a residual unless as needed, and the limit of registers.
Columns = tuple[int, int]
NARROW: dict[Columns, str] = {
    (1, 1): "1: 64x1",
    (8, 8): "1: 32x1, 4096: 64x2",
    (64, 64): "1: 4x1, 4096: 32x8",
    (96, 96): "1: 2x1, 4096: 16x8",
    (127, 127): "1: 2x1, 4096: 4x1",
    (128, 128): "1: 2x1, 4096: 16x8",
    (129, 135): "1: 1x1, 4096: 2x1",
    (136, 136): "1: 2x2, 4096: 8x8",
    (249, 255): "1: 1x1, 4096: 2x1",
    (256, 256): "1: 2x2, 4096: 8x8",
    (257, 512): "1: 1x2",
}
NORMS: dict[str, dict[Columns, str]] = {
    "norm": {
        **NARROW,
        (513, 1024): "1: 1x4",
        (1025, 4096): "1: 1x8, 1024: 1x4",
        (4097, 6144): "1: 1x16, 128: 1x8",
        (6145, 8192): "1: 1x16, 512: 1x8",
        (8193, 16384): "1: 1x32, 1024: 1x16",
        (16385, 65536): "1: 1x32",
    },
    "residual": {
        **NARROW,
        (513, 1024): "1: 1x4, 1024: 1x4 together",
        (1025, 3072): "1: 1x8, 1024: 1x4 together, 8192: 1x8 twice",
        (3073, 4096): "1: 1x8, 1024: 1x4 together, 8192: 1x16 twice",
        (4097, 6144): "1: 1x16, 256: 1x8, 1024: 1x8 together, 4096: 1x16 twice",
        (6145, 8192): "1: 1x16, 512: 1x8 twice, 4096: 1x16 twice",
        (8193, 16384): "1: 1x16 together",
        (16385, 65536): "1: 1x32 together",
    },
    "fp8": {
        **NARROW,
        (513, 1024): "1: 1x4",
        (1025, 1536): "1: 1x8, 512: 1x2 48",
        (1537, 2048): "1: 1x8, 512: 1x2",
        (2049, 6144): "1: 1x8, 1024: 1x4",
        (6145, 8192): "1: 1x16, 512: 1x8",
        (8193, 16384): "1: 1x16",
        (16385, 65536): "1: 1x32",
    },
    "fp8 residual": {
        **NARROW,
        (513, 1024): "1: 1x4",
        (1025, 6144): "1: 1x8, 1024: 1x4",
        (6145, 8192): "1: 1x16, 512: 1x8",
        (8193, 16384): "1: 1x16",
        (16385, 65536): "1: 1x32",
    },
    "gated": {
        **NARROW,
        (513, 1024): "1: 1x4",
        (1025, 4096): "1: 1x8, 1024: 1x4",
        (4097, 6144): "1: 1x16, 1024: 1x4",
        (6145, 8192): "1: 1x16",
        (8193, 16384): "1: 1x32, 1024: 1x16",
        (16385, 65536): "1: 1x32",
    },
    "gated fp8": {
        **NARROW,
        (8, 8): "1: 32x1, 4096: 64x1, 262144: 64x2",
        (64, 64): "1: 4x1, 4096: 8x1, 262144: 16x2",
        (96, 96): "1: 2x1, 4096: 4x1, 262144: 8x2",
        (128, 128): "1: 2x1, 4096: 4x1, 262144: 8x2",
        (513, 1024): "1: 1x4",
        (1025, 4096): "1: 1x8, 1024: 1x4",
        (4097, 6144): "1: 1x16, 512: 1x8",
        (6145, 8192): "1: 1x16",
        (8193, 16384): "1: 1x32, 1024: 1x16",
        (16385, 65536): "1: 1x32",
    },
}
# Contiguous rows of 128 have plans of their own, and other machines have other plans than the measured ones: warps
# of 64 threads, and the few programs that Triton's interpreter needs.
ELSEWHERE: dict[tuple[str, str, int], str] = {
    ("measured", "gated 128", 128): "1: 1x1, 1024: 2x1, 4096: 16x8",
    ("interpreted", "gated 128", 128): "1: 1x1, 3: 8x1, 8: 16x1, 32: 16x8, 33: 128x8, 257: 1024x8",
    ("wide warps", "gated 128", 128): "1: 2x1, 1024: 4x1, 4096: 16x4",
    (
        "interpreted",
        "residual",
        5120,
    ): "1: 1x16, 2: 1x8, 3: 8x8, 8: 8x8 together, 17: 64x8 together, 32: 64x16 twice",
    ("interpreted", "fp8", 1536): "1: 1x8, 3: 8x8, 4: 8x2, 17: 64x2, 129: 512x2, 1025: 4096x2",
    ("interpreted", "gated fp8", 128): "1: 2x1, 5: 16x1, 32: 32x1, 65: 256x1, 513: 2048x1, 2048: 4096x2",
    ("wide warps", "residual", 5120): "1: 1x8, 256: 1x4, 1024: 1x4 together, 4096: 1x8 twice",
    ("wide warps", "fp8", 1536): "1: 1x4, 512: 1x1",
    ("wide warps", "gated", 8): "1: 64x1",
    ("wide warps", "gated", 127): "1: 4x1, 4096: 8x1",
    ("wide warps", "gated", 256): "1: 2x1, 4096: 8x4",
    ("wide warps", "gated", 64): "1: 8x1, 4096: 32x4",
    ("wide warps", "gated", 512): "1: 1x1",
    ("wide warps", "gated fp8", 128): "1: 4x1, 4096: 8x1",
}
# Plans of rotations, by heads of q and k, their columns, half of those that are rotated, and whether others are
# copied: tokens of a program x heads at a time, programs for a token, and warps.
Rotation = tuple[int, int, int, int, bool]
ROTATIONS: dict[str, dict[Rotation, str]] = {
    "measured": {
        (24, 4, 256, 32, False): "1: 1x8 4p 1w, 512: 1x8 1p 1w, 2048: 2x4 1p 1w",
        (24, 4, 256, 32, True): "1: 1x8 4p 1w, 2048: 1x8 1p 1w",
        (16, 2, 256, 32, False): "1: 1x8 3p 1w, 512: 1x8 1p 1w, 2048: 2x4 1p 1w",
        (8, 1, 256, 32, False): "1: 1x8 2p 1w, 512: 1x8 1p 1w, 2048: 2x4 1p 1w",
        (24, 4, 128, 64, False): "1: 1x8 4p 2w, 512: 1x8 1p 2w",
        (28, 4, 128, 64, False): "1: 1x8 5p 2w, 512: 1x8 1p 2w",
        (2, 64, 64, 16, False): "1: 1x8 9p 1w, 512: 1x8 1p 1w, 2048: 2x4 1p 1w",
        (24, 4, 72, 36, False): "1: 1x8 4p 2w, 512: 1x8 1p 2w",
        (3, 1, 256, 31, False): "1: 1x4 2p 1w, 512: 1x4 1p 1w, 2048: 2x4 1p 1w",
        (1, 1, 64, 8, False): "1: 1x1 2p 1w, 512: 1x1 1p 1w, 2048: 2x1 1p 1w",
        (8, 8, 1024, 512, False): "1: 1x8 2p 16w, 512: 1x8 1p 16w",
        (8, 8, 1024, 256, True): "1: 1x8 2p 8w, 2048: 1x8 1p 8w",
        (8, 8, 2048, 64, False): "1: 1x4 4p 1w, 512: 1x4 1p 1w",
        (8, 8, 16384, 64, False): "1: 1x1 16p 1w, 512: 1x1 1p 1w",
        (1, 1, 32768, 16384, False): "1: 1x1 2p 16w, 512: 1x1 1p 16w",
    },
    "wide warps": {
        (24, 4, 256, 32, False): "1: 1x16 3p 1w, 512: 1x16 1p 1w, 2048: 2x8 1p 1w",
        (24, 4, 128, 64, False): "1: 1x8 4p 1w, 512: 1x8 1p 1w",
        (6, 1, 256, 32, False): "1: 1x8 2p 1w, 512: 1x8 1p 1w, 2048: 2x8 1p 1w",
        (3, 1, 256, 31, False): "1: 1x4 2p 1w, 512: 1x4 1p 1w, 2048: 4x4 1p 1w",
        (16, 16, 80, 16, True): "1: 1x16 2p 1w, 2048: 1x16 1p 1w",
        (8, 8, 1024, 512, False): "1: 1x8 2p 8w, 512: 1x8 1p 8w",
    },
    "interpreted": {
        (24, 4, 256, 32, False): "1: 8x8 4p 1w, 4: 8x8 1p 1w, 16: 16x4 1p 1w, 33: 128x4 1p 1w",
        (8, 1, 256, 32, True): "1: 1x8 2p 1w, 2: 8x8 2p 1w, 9: 64x8 2p 1w, 16: 8x8 1p 1w, 17: 64x8 1p 1w",
    },
}
# Rows of norms with a residual, and tokens of rotations.
THRESHOLDS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "measured": ((256, 512, 1024, 4096, 8192), (512, 2048)),
    "wide warps": ((256, 512, 1024, 4096, 8192), (512, 2048)),
    "interpreted": ((2, 4, 8, 32, 64), (4, 16)),
}
TABLES = {"measured": MEASURED, "wide warps": WIDE_WARPS, "interpreted": INTERPRETED}


def steps(text: str) -> dict[int, str]:
    """Return the plans of a series by the number of rows that each begins at."""
    return {int(start): plan for start, plan in (each.split(": ") for each in text.split(", "))}


def assert_steps(text: str, plan: Callable[[int], str], table: PlanTable) -> None:
    """Check the plans of a series where each begins, and where it ends: one row before the next."""
    wanted = steps(text)
    for (start, each), end in itertools.zip_longest(wanted.items(), [*wanted][1:]):
        # the last one has no end, unless programs are few
        last = end - 1 if end else start if table.max_programs else 10**9
        assert (each, each) == (plan(start), plan(last)), f"{start} to {last}"


def norm(kind: str, width: int, table: PlanTable, room: int | None = None) -> Callable[[int], str]:
    """Return what says the plan of a norm for a number of rows."""

    def said(rows: int) -> str:
        general = kind != "gated 128"
        plan = plans.general(kind, rows, width, table, room) if general else plans.gated_128(rows, table)
        assert (1, 1) == (plan.heads, plan.programs)
        reads = "" if plan.reads == "as needed" else f" {plan.reads}"
        registers = "" if plan.registers is None else f" {plan.registers}"
        return f"{plan.rows}x{plan.warps}{reads}{registers}"

    return said


def rotation(sizes: Rotation, table: PlanTable) -> Callable[[int], str]:
    """Return what says the plan of a rotation for a number of tokens."""
    q, k, head_dim, half, copied = sizes

    def said(tokens: int) -> str:
        plan = plans.heads(tokens, q, k, head_dim, half, table, copied=copied)
        # what norms alone have
        assert (0, "as needed", False, None) == (plan.levels, plan.reads, plan.ptx, plan.registers)
        return f"{plan.rows}x{plan.heads} {plan.programs}p {plan.warps}w"

    return said


@every("kind", NORMS)
def test_columns_of_a_norm_have_their_plans(kind: str) -> None:
    """The first and the last number of columns that have the same plans; one row a program in any room."""
    for columns, text in NORMS[kind].items():
        for width, room in itertools.product(columns, (None, 65536)):
            if room is None or width > 256:
                assert_steps(text, norm(kind, width, MEASURED, room), MEASURED)


@every(("name", "kind", "width"), ELSEWHERE)
def test_other_machines_have_their_plans(name: str, kind: str, width: int) -> None:
    """Threads of other warps, no limit of registers where the compiler takes none, and few programs."""
    assert_steps(ELSEWHERE[name, kind, width], norm(kind, width, TABLES[name]), TABLES[name])


@every(("name", "sizes"), [(name, sizes) for name, known in ROTATIONS.items() for sizes in known])
def test_heads_have_their_plans(name: str, sizes: Rotation) -> None:
    """Rotations in place have plans, and those that copy the other columns have others."""
    assert_steps(ROTATIONS[name][sizes], rotation(sizes, TABLES[name]), TABLES[name])


@every("name", TABLES)
def test_thresholds_are_those_of_the_table(name: str) -> None:
    """Numbers of rows and of tokens at which some plan changes, and a block of 128 columns."""
    of_rows, of_tokens = THRESHOLDS[name]

    assert of_rows == plans.row_thresholds("residual", TABLES[name])
    assert of_tokens == plans.token_thresholds(TABLES[name])
    assert 7 == plans.gated_128(1, TABLES[name]).levels
    assert TABLES[name].ptx == plans.gated_128(1, TABLES[name]).ptx == (name == "measured")


def test_limits_are_those_that_calls_are_told() -> None:
    """Columns of a row, of the plans for narrow rows and of a head, and leading sizes."""
    assert (32768, 128, 1024, 3) == (plans.MAX_WIDTH, plans.NARROW, plans.MAX_HEAD_DIM, plans.MAX_LEADING)
