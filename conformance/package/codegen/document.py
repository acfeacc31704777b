"""``codegen.json`` from rows of compiled code, and the tables that the terminal and the page show of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from conformance.package.codegen.checks import KNOWN, Row, problems, wanted_fp8
from conformance.package.codegen.facts import Facts
from conformance.package.codegen.targets import E4M3FN, E4M3FNUZ, TARGETS
from conformance.package.codegen.variants import VARIANTS
from conformance.report.results import Exit
from conformance.report.table import Cell, Said, Section, Table, Tone

FILE = "codegen.json"
Document = dict[str, Any]  # as it is written in codegen.json


def document(rows: Sequence[Row], targets: Sequence[str], header: Mapping[str, Any], seconds: float) -> Document:
    """Return all results of ``python -m conformance.package.codegen``; ``header`` says what they depend on."""
    found = problems(rows, targets, header["triton"])
    judged = [name for name in targets if not any("not_judged" in row for row in rows if row["target"] == name)]
    code = Exit.HOLDS if judged else Exit.NOTHING_JUDGED
    if found:
        code = Exit.BROKEN if any(problem.check == "process" for problem in found) else Exit.FAILED
    return {
        "header": dict(header),
        "targets": {name: asdict(TARGETS[name]) for name in targets},
        "rows": list(rows),
        "known": [asdict(known) for known in KNOWN],
        "problems": [asdict(problem) for problem in found],
        "footer": {
            "compiled": sum("facts" in row for row in rows),
            "seconds": round(seconds, 1),
            "exit_code": int(code),
        },
    }


def section(made: Document) -> Section:
    """Return a document as the terminal and the page of a report show it."""
    return Section("Compiled code", closing(made), heading(made), wrong(made), tables(made), known(made))


def heading(made: Document) -> tuple[str, ...]:
    """Return what was compiled, and with what."""
    header, footer = made["header"], made["footer"]
    commit = f", commit {header['commit']}" if header["commit"] else ""
    return (
        f"normkernels, compiled by triton {header['triton']} for GPUs that are not there{commit}",
        f"{footer['compiled']} kernels in {footer['seconds']:g} s, without FP fusion, as they are launched",
    )


def closing(made: Document) -> Said:
    """Return how the run of ``python -m conformance.package.codegen`` ended."""
    exit_code = made["footer"]["exit_code"]
    if exit_code == Exit.NOTHING_JUDGED:
        return Said("normkernels: nothing was compiled", Tone.WRONG)
    if exit_code == Exit.HOLDS:
        return Said("normkernels: every kernel compiles to what it must be", Tone.GOOD)
    return Said(f"normkernels: {len(made['problems'])} problems of compiled code", Tone.WRONG)


def wrong(made: Document) -> tuple[str, ...]:
    """Return every problem, a line each."""
    return tuple(
        f"{each['target']} {each['variant']}{' with FP fusion' if each['fusion'] else ''}: "
        f"{each['check']}: {each['said']}"
        for each in made["problems"]
    )


def known(made: Document) -> tuple[str, ...]:
    """Return every check that is known to fail somewhere, a line each."""
    return tuple(
        f"known: {each['check']} of {', '.join(each['variants'])} on {', '.join(each['targets'])}: "
        f"{each['reason']}"
        for each in made["known"]
    )


def tables(made: Document) -> tuple[Table, ...]:
    """Return the tables of kernels by target, fp8 types by target, and kernels that a workload compiles."""
    every = [_of_target(made, target) for target in made["targets"]]
    asked = tuple(dict.fromkeys(row["target"] for row in made["rows"] if "workload" in row))
    names = dict.fromkeys(
        f"{row['workload']}: {kernel}" for row in made["rows"] if "workload" in row for kernel in row["kernels"]
    )
    workloads = tuple((name, "", _asked(made, name, asked)) for name in names)
    types = tuple((target, "", _types(made, target)) for target in made["targets"])
    shown = (
        *every,
        Table("fp8 types", (E4M3FN, E4M3FNUZ), types, "target"),
        Table("kernels that a workload compiles", asked, workloads, "workload"),
    )
    return tuple(table for table in shown if table.lines)


# in bytes unless another unit is named; at once: bytes that a thread moves of rows known to be aligned
COLUMNS = ("kernels", "registers", "spilled", "shared", "at once", "fused")


def _of_target(made: Document, target: str) -> Table:
    """Return a line per kernel: extremes over its variants, as they are launched."""
    rows = [row for row in made["rows"] if row["target"] == target and not row.get("fusion")]
    not_judged = [row["not_judged"] for row in rows if "not_judged" in row]
    if not_judged:
        cells = ((Said(f"not judged: {not_judged[0]}", Tone.ASIDE),), *[()] * (len(COLUMNS) - 1))
        return Table(target, COLUMNS, (("every kernel", "", cells),), "kernel")
    kernels = dict.fromkeys(row["facts"]["kernel"] for row in rows if "facts" in row)
    bad = {each["variant"] for each in made["problems"] if each["target"] == target and not each["fusion"]}
    return Table(target, COLUMNS, tuple((name, "", _cells(rows, name, bad)) for name in kernels), "kernel")


def _cells(rows: Sequence[Row], kernel: str, bad: Collection[str]) -> tuple[Cell, ...]:
    ours = [row for row in rows if "facts" in row and row["facts"]["kernel"] == kernel]
    wrong = sum(row["variant"] in bad for row in ours)
    every = [Facts.from_data(row["facts"]) for row in ours]
    registers = [facts.registers for facts in every]
    widths = sorted({size for facts in every if facts.access in {"aligned", ""} for size in facts.accesses})
    said = (
        f"{min(registers)} to {max(registers)}",
        f"{max(facts.spilled for facts in every):,}",
        f"{max(facts.shared for facts in every):,}",
        ", ".join(map(str, widths)),
        str(sum(facts.fused for facts in every)),
    )
    judged = Said(f"{wrong} wrong of {len(ours)}", Tone.WRONG) if wrong else Said(f"{len(ours)} ok", Tone.GOOD)
    return (judged,), *((Said(text, Tone.ASIDE),) for text in said)


def _types(made: Document, target: str) -> tuple[Cell, ...]:
    """Return how a target converts to each type."""
    rows = [row for row in made["rows"] if row["target"] == target and "variant" in row]
    cells = []
    for fp8 in (E4M3FN, E4M3FNUZ):
        asked = [row for row in rows if wanted_fp8(TARGETS[target], VARIANTS[row["variant"]]) == fp8]
        conversions = [row["facts"]["fp8"] for row in asked if "facts" in row]
        text = "declined" if asked else "not judged"
        if conversions:
            text = "by instructions" if all(conversions) else "by integer arithmetic"
        cells.append((Said(text, Tone.GOOD if conversions else Tone.ASIDE),))
    return tuple(cells)


def _asked(made: Document, name: str, targets: Sequence[str]) -> tuple[Cell, ...]:
    """Return how many kernels of one name a workload compiles on each target."""
    workload, _, kernel = name.rpartition(": ")
    counts = {
        row["target"]: row["kernels"].get(kernel, 0) for row in made["rows"] if row.get("workload") == workload
    }
    bad = {p["target"] for p in made["problems"] if p["check"] == "workload" and p["variant"] == workload}
    return tuple(
        (Said(str(counts.get(target, 0)), Tone.WRONG if target in bad else Tone.GOOD),) for target in targets
    )
