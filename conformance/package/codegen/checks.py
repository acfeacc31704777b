"""Checks of compiled code, and their known failures. Pure: rows of ``compile`` in, problems out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conformance.package.codegen.facts import WIDE, Facts
from conformance.package.codegen.targets import TARGETS, Target
from conformance.package.codegen.variants import OWN, VARIANTS, VENDORS, Variant, compiled_for
from conformance.package.codegen.workloads import WORKLOADS

Row = Mapping[str, Any]

MOST_COMPILED = 320
# Bytes of the stores of fp8 results: a scale, and one value per element of a 16-byte load; gated norms store
# 16, if a thread has as many values.
SCALE, VALUES = 4, 8


@dataclass(frozen=True, slots=True)
class Known:
    """A check that some variants fail on some targets, and why. A known failure that passes is a problem too.

    ``since`` is the oldest Triton under which all of them fail; under an older one they may fail. ``before`` is
    the first version under which none may fail: with ``before``, a variant need not fail.
    """

    check: str
    variants: tuple[str, ...]
    targets: tuple[str, ...]
    reason: str
    since: tuple[int, int] = (3, 6)
    before: tuple[int, int] | None = None


_NVIDIA = ("sm_80", "sm_90", "sm_100", "sm_120")

KNOWN = (
    Known(
        "wide",
        ("decode128", "decode128 hf"),
        tuple(TARGETS),
        "a thread has four columns, of a row of 128 a warp of 32, or two rows one of 64: fewer than 1,024 rows "
        "are done sooner so",
    ),
    Known(
        "wide",
        ("mrope few heads",),
        VENDORS,
        "three heads are a tile of four: 128 columns of each half for a warp, and what is copied leaves no "
        "registers for a second token",
    ),
    Known(
        "wide",
        ("mrope prefill",),
        ("gfx942", "gfx950"),
        "six heads are a tile of eight: 256 columns of each half for a warp of 64, and with what is copied of a "
        "second token scalar registers lie in vector ones",
    ),
    Known(
        "spills",
        ("widest", "norm widest", "fp8 widest"),
        _NVIDIA,
        "one program holds a row of 32,768 fp32: 32 warps leave a thread 64 registers, and 32 columns of each "
        "tensor are kept over the sum",
    ),
    Known(
        "spills",
        ("mrope of columns apart",),
        ("sm_90",),
        "no two columns are neighbours, so that each has an address of 64 bits, and the ptxas of Triton 3.6 stops "
        "at 168 registers",
        before=(3, 9),
    ),
    Known(
        "scalars",
        ("mrope of many heads",),
        ("gfx942",),
        "of 96 heads, of which a warp of 64 has sixteen at a time, Triton 3.6 has six scalar registers too few",
        before=(3, 7),
    ),
    Known(
        "scalars",
        ("fp8 in e4m3fn", "fp8 widest"),
        ("gfx1201",),
        "values are rounded by integer arithmetic, for which Triton 3.8 has two scalar registers too few",
        before=(3, 9),
    ),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed requirement; ``variant`` is "" for a target or a workload as a whole."""

    target: str
    variant: str
    fusion: bool
    check: str
    said: str

    def __str__(self) -> str:
        """Return the place, then the fault."""
        where = f"{self.target} {self.variant}".rstrip() + (" with FP fusion" if self.fusion else "")
        return f"{where}: {self.check}: {self.said}"


def problems(rows: Sequence[Row], targets: Sequence[str], triton: str) -> tuple[Problem, ...]:
    """Return all problems in the code that a version of Triton compiled for ``targets``."""
    major, minor = map(int, triton.split(".")[:2])
    found = [problem for name in targets for problem in _of_target(TARGETS[name], rows, (major, minor))]
    compiled = sum("facts" in row for row in rows)
    if compiled > MOST_COMPILED:
        said = f"{compiled} kernels were compiled, at most {MOST_COMPILED} may be: take variants out"
        found.append(Problem("every target", "", fusion=False, check="number", said=said))
    return tuple(found)


def _of_target(target: Target, rows: Sequence[Row], triton: tuple[int, int]) -> Iterator[Problem]:
    ours = [row for row in rows if row["target"] == target.name]
    if any("not_judged" in row for row in ours):
        return
    for row in ours:
        if "failed" in row:
            yield Problem(target.name, "", fusion=False, check="process", said=row["failed"])
        elif "workload" in row:
            yield from _of_workload(target, row)
        else:
            yield from _of_variant(target, VARIANTS[row["variant"]], row, triton)
    there = {(row["variant"], row["fusion"]) for row in ours if "variant" in row}
    for name, fusion in compiled_for(target):
        if (name, fusion) not in there:
            yield Problem(target.name, name, fusion, "compiles", "the process ended before it")


def _of_workload(target: Target, row: Row) -> Iterator[Problem]:
    workload = next(each for each in WORKLOADS if each.name == row["workload"])
    wanted = workload.compiled(target.warp_size)
    if dict(row["kernels"]) != wanted:
        said = f"compiles {row['kernels']}, must {wanted}: {workload.reason}"
        yield Problem(target.name, row["workload"], fusion=False, check="workload", said=said)


def _of_variant(target: Target, variant: Variant, row: Row, triton: tuple[int, int]) -> Iterator[Problem]:
    def problem(check: str, said: str) -> Problem:
        return Problem(target.name, row["variant"], row["fusion"], check, said)

    wanted = wanted_fp8(target, variant)
    if "declined" in row:
        if wanted in {None, *target.fp8} or row["declined"] != ["FP8_DTYPE"]:
            yield problem("declined", row["said"])
        return
    if wanted is not None and wanted not in target.fp8:
        yield problem("fp8", f"{wanted} is said not to be there, and is not declined")
    if "error" in row:
        yield problem("compiles", row["error"])
        return
    facts = Facts.from_data(row["facts"])
    if row["fusion"]:
        if not facts.fused:
            yield problem(
                "noticed", "no multiplication is fused with an addition where Triton may: none is counted"
            )
        return
    yield from (problem("kernels", said) for said in _kernels(row))
    code = Kernel(target, variant, facts)
    for check, judge in CHECKS.items():
        said, known = judge(code), _known(check, target.name, row["variant"], triton)
        if said and known is None:
            yield problem(check, said)
        if known is not None and not said and known.before is None and triton >= known.since:
            yield problem(check, f"holds, and is known to fail because {known.reason}: take it out of KNOWN")


def wanted_fp8(target: Target, variant: Variant) -> str | None:
    """Return the fp8 type that a variant asks for; None for a variant without fp8."""
    named = dict(variant.case.flags).get("fp8_dtype")
    return next(iter(target.fp8), "float8_e4m3fn") if named == OWN else None if named is None else str(named)


def _known(check: str, target: str, variant: str, triton: tuple[int, int]) -> Known | None:
    there = (k for k in KNOWN if k.check == check and variant in k.variants and target in k.targets)
    return next((k for k in there if k.before is None or triton < k.before), None)


def _kernels(row: Row) -> Iterator[str]:
    if row["batches"] != 1:
        yield f"{row['batches']} kernels for batches of four kinds, must be 1"
    # one kernel for aligned places, one for all others
    if row["places"] > 2:
        yield f"{row['places']} kernels for four places in memory, must be at most 2"


# --- checks of one kernel: each returns a fault in words, or nothing -----------------------------------------


@dataclass(frozen=True, slots=True)
class Kernel:
    """A variant as it was compiled for a target."""

    target: Target
    variant: Variant
    facts: Facts


def _spills(code: Kernel) -> str:
    return f"a thread keeps {code.facts.spilled} bytes of registers in memory" if code.facts.spilled else ""


def _scalars(code: Kernel) -> str:
    return (
        f"{code.facts.scalars_spilled} scalar registers lie in vector ones" if code.facts.scalars_spilled else ""
    )


def _registers(code: Kernel) -> str:
    if code.facts.registers <= code.target.registers:
        return ""
    return f"{code.facts.registers} registers a thread, there are {code.target.registers}"


def _shared(code: Kernel) -> str:
    if code.facts.shared <= code.target.shared:
        return ""
    return f"{code.facts.shared} bytes of shared memory, there are {code.target.shared}"


def _threads(code: Kernel) -> str:
    if code.facts.threads <= code.target.threads:
        return ""
    return f"{code.facts.threads} threads a program, there may be {code.target.threads}"


def _wide(code: Kernel) -> str:
    """Check that every access to aligned rows is 16 bytes, except those of positions, fp8 values and scales."""
    if code.facts.access not in {"aligned", ""}:
        return ""
    of_positions, of_results = _beside(code.variant)
    loads = [size for size in code.facts.loads if size < WIDE and size not in of_positions]
    stores = [size for size in code.facts.stores if size < WIDE and size not in of_results]
    if not loads and not stores and WIDE in code.facts.accesses:
        return ""
    return f"aligned rows are loaded {dict(code.facts.loads)} and stored {dict(code.facts.stores)} (bytes: times)"


def _narrow(code: Kernel) -> str:
    """Check that no access is wider than an element where the alignment is unknown."""
    if code.facts.access in {"aligned", ""}:
        return ""
    of_positions, of_results = _beside(code.variant)
    elements = {getattr(torch, spec.dtype).itemsize for _, spec in code.variant.case.tensors}
    widest = max((*elements, *of_positions, *(size for size in of_results if size == SCALE)))
    if max(code.facts.accesses) <= widest:
        return ""
    return f"rows that may lie anywhere are accessed {max(code.facts.accesses)} bytes at once"


def _beside(variant: Variant) -> tuple[set[int], set[int]]:
    """Return the bytes of loads of positions, and of stores of fp8 results."""
    positions = variant.case.tensor("positions")
    loads = set() if positions is None else {getattr(torch, positions.dtype).itemsize}
    return loads, {SCALE, VALUES} if "fp8_dtype" in dict(variant.case.flags) else set()


def _fused(code: Kernel) -> str:
    if not code.facts.fused:
        return ""
    return f"{code.facts.fused} multiplications are fused with an addition: a row's bits follow its layout"


def _fp8(code: Kernel) -> str:
    """Check that the hardware converts exactly where Triton is known to use its conversions."""
    wanted = wanted_fp8(code.target, code.variant)
    converts = wanted is not None and code.target.fp8.get(wanted, False)
    if bool(code.facts.fp8) == converts:
        return ""
    return f"{code.facts.fp8} conversions by the hardware to {wanted}, {'some' if converts else 'none'} expected"


def _lanes(code: Kernel) -> str:
    """Check that no reduction is over non-adjacent lanes: Triton 3.6 computes something else there, on a GPU."""
    if not code.facts.scattered:
        return ""
    return f"{code.facts.scattered} reductions are over lanes or warps that are no neighbours"


CHECKS: Mapping[str, Callable[[Kernel], str]] = {
    "spills": _spills,
    "scalars": _scalars,
    "registers": _registers,
    "shared": _shared,
    "threads": _threads,
    "wide": _wide,
    "narrow": _narrow,
    "fused": _fused,
    "fp8": _fp8,
    "lanes": _lanes,
}
