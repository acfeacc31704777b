"""Rows of compiled code → ``codegen.json``, and the tables that the terminal and the page show of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conformance.codegen.checks import KNOWN, problems, wanted_fp8
from conformance.codegen.facts import Facts
from conformance.codegen.targets import TARGETS
from conformance.codegen.variants import VARIANTS
from conformance.report.results import Exit
from conformance.report.table import Cell, Row, Said, Table, Tone

FILE = "codegen.json"
Document = dict[str, Any]  # as it stands in codegen.json


def document(rows: Sequence[Row], targets: Sequence[str], header: Mapping[str, Any], seconds: float) -> Document:
    """All that ``conform codegen`` found out: ``header`` says on what it depends."""
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


def written(made: Document) -> str:
    """The text of ``codegen.json``: a line for every row."""
    parts = []
    for name, part in made.items():
        if isinstance(part, list) and part:
            text = ",\n".join(f"  {json.dumps(entry)}" for entry in part)
            parts.append(f'"{name}": [\n{text}\n]')
        else:
            parts.append(f'"{name}": {json.dumps(part)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read(directory: Path) -> Document | None:
    """What lies in the folder of a report, or None."""
    path = directory / FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def heading(made: Document) -> tuple[str, ...]:
    """What was compiled, and with what."""
    header, footer = made["header"], made["footer"]
    commit = f", commit {header['commit']}" if header["commit"] else ""
    return (
        f"normkernels, compiled by triton {header['triton']} for GPUs that are not there{commit}",
        f"{footer['compiled']} kernels in {footer['seconds']:g} s, with FP fusion and without",
    )


def closing(made: Document) -> Said:
    """How it ended."""
    exit_code = made["footer"]["exit_code"]
    if exit_code == Exit.NOTHING_JUDGED:
        return Said("normkernels: nothing was compiled", Tone.WRONG)
    if exit_code == Exit.HOLDS:
        return Said("normkernels: every kernel compiles to what it must be", Tone.GOOD)
    return Said(f"normkernels: {len(made['problems'])} problems of compiled code", Tone.WRONG)


def wrong(made: Document) -> tuple[str, ...]:
    """Every problem, a line each."""
    return tuple(
        f"{each['target']} {each['variant']}{' with FP fusion' if each['fusion'] else ''}: "
        f"{each['check']}: {each['said']}"
        for each in made["problems"]
    )


def known(made: Document) -> tuple[str, ...]:
    """Every check that is known to fail somewhere, a line each."""
    return tuple(
        f"{each['check']} of {', '.join(each['variants'])} on {', '.join(each['targets'])}: {each['reason']}"
        for each in made["known"]
    )


def tables(made: Document) -> tuple[Table, ...]:
    """What each kernel became on each target, the fp8 types there, and how many kernels a workload compiles."""
    targets = tuple(made["targets"])
    compiled = [row for row in made["rows"] if "facts" in row]
    kernels = dict.fromkeys(row["facts"]["kernel"] for row in compiled)
    shown = [_table("compiled code", "kernel", targets, {name: _code(made, name, targets) for name in kernels})]
    types = dict.fromkeys(fp8 for target in targets for fp8 in made["targets"][target]["fp8"])
    shown.append(_table("fp8 types", "type", targets, {name: _types(made, name, targets) for name in types}))
    asked = dict.fromkeys(
        f"{row['workload']}: {kernel}" for row in made["rows"] if "workload" in row for kernel in row["kernels"]
    )
    shown.append(
        _table(
            "kernels that a workload compiles", "workload", targets, {n: _asked(made, n, targets) for n in asked}
        )
    )
    return tuple(table for table in shown if table.lines)


def _table(title: str, of: str, targets: tuple[str, ...], lines: Mapping[str, tuple[Cell, ...]]) -> Table:
    return Table(title, targets, tuple((name, "", cells) for name, cells in lines.items()), of)


def _code(made: Document, kernel: str, targets: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(tuple(_cell(made, kernel, target)) for target in targets)


def _cell(made: Document, kernel: str, target: str) -> Iterator[Said]:
    """One kernel on one target, over its variants: numbers of the code without FP fusion, but for the last."""
    rows = [row for row in made["rows"] if row["target"] == target]
    not_judged = [row["not_judged"] for row in rows if "not_judged" in row]
    if not_judged:
        yield Said(f"not judged: {not_judged[0]}", Tone.ASIDE)
        return
    ours = [row for row in rows if "facts" in row and row["facts"]["kernel"] == kernel]
    if not ours:
        yield Said("not launched", Tone.ASIDE)
        return
    names = {(row["variant"], row["fusion"]) for row in ours}
    bad = {(p["variant"], p["fusion"]) for p in made["problems"] if p["target"] == target} & names
    yield Said(f"{len(bad)} wrong of {len(ours)}", Tone.WRONG) if bad else Said(f"{len(ours)} ok", Tone.GOOD)
    plain = [Facts.from_data(row["facts"]) for row in ours if not row["fusion"]]
    fused = [Facts.from_data(row["facts"]) for row in ours if row["fusion"]]
    registers = sorted(facts.registers for facts in plain)
    yield Said(f"registers {registers[0]} to {registers[-1]}", Tone.ASIDE)
    for name, most in (
        ("spilled", max(facts.spilled for facts in plain)),
        ("shared", max(facts.shared for facts in plain)),
    ):
        yield Said(f"{name} up to {most:,} bytes" if most else f"nothing {name}", Tone.ASIDE)
    widths = sorted({size for facts in plain if facts.access in {"aligned", ""} for size in facts.accesses})
    yield Said(f"aligned rows: {', '.join(map(str, widths))} bytes at once", Tone.ASIDE)
    said = f"{sum(facts.fused for facts in plain)} fused, {sum(facts.fused for facts in fused)} with FP fusion"
    yield Said(said, Tone.ASIDE)


def _types(made: Document, fp8: str, targets: Sequence[str]) -> tuple[Cell, ...]:
    cells = []
    for target in targets:
        ours = [row for row in made["rows"] if row["target"] == target and "variant" in row]
        asked = [row for row in ours if wanted_fp8(TARGETS[target], VARIANTS[row["variant"]]) == fp8]
        conversions = [row["facts"]["fp8"] for row in asked if "facts" in row]
        declined = [row for row in asked if "declined" in row]
        text = "not judged"
        if conversions:
            text = "by instructions" if all(conversions) else "by integer arithmetic"
        elif declined:
            text = "declined"
        cells.append((Said(text, Tone.GOOD if conversions else Tone.ASIDE),))
    return tuple(cells)


def _asked(made: Document, name: str, targets: Sequence[str]) -> tuple[Cell, ...]:
    workload, _, kernel = name.rpartition(": ")
    counts = {
        row["target"]: row["kernels"].get(kernel, 0) for row in made["rows"] if row.get("workload") == workload
    }
    bad = {p["target"] for p in made["problems"] if p["check"] == "workload" and p["variant"] == workload}
    return tuple(
        (Said(str(counts[target]), Tone.WRONG if target in bad else Tone.GOOD),)
        if target in counts
        else (Said("not in this run", Tone.ASIDE),)
        for target in targets
    )
