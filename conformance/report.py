"""Records → ``report.json``, exit code. A report without its footer is of a run that did not end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from enum import IntEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from conformance.case import Case
from conformance.journal import Records, Tally, number
from conformance.properties import PROMISES
from conformance.verdict import BAD, Status, Subject

Report = dict[str, Any]  # as it stands in report.json


class Exit(IntEnum):
    """How a run ends."""

    HOLDS = 0  # every judged property holds
    FAILED = 1  # something failed, crashed or hung
    USAGE = 2  # asked for in a way that cannot be done
    NOTHING_JUDGED = 3
    BROKEN = 4  # the suite itself failed


def build(
    records: Records, header: Mapping[str, Any], planned: Collection[str], seconds: float
) -> Report:
    """The whole report. ``planned`` are the items (as text) that this run set out to judge."""
    unfinished = [_unfinished(item, records) for item in sorted(set(planned) - records.finished)]
    totals = sum((tally.counts for tally in records.tallies.values()), Counter[str]())
    footer = {
        "items": len(planned),
        "unfinished": unfinished,
        "cases": records.cases,
        "verdicts": {status: totals[status] for status in Status if totals[status]},
        "elements": sum(tally.elements for tally in records.tallies.values()),
        "seconds": round(seconds, 1),
        "complete": not unfinished,
        "exit_code": int(exit_code(totals, complete=not unfinished)),
    }
    results = [_result(row, records.tallies[row]) for row in sorted(records.tallies, key=_place)]
    return {
        "header": dict(header),
        "results": results,
        "failures": list(records.failures),
        "footer": footer,
    }


def exit_code(totals: Mapping[str, int], *, complete: bool) -> Exit:
    """What the numbers of verdicts by status mean, for a run that reached its end or did not."""
    if totals.get(Status.ERROR) or not complete:
        return Exit.BROKEN
    if any(totals.get(status) for status in BAD):
        return Exit.FAILED
    return Exit.HOLDS if totals.get(Status.PASSED) else Exit.NOTHING_JUDGED


def _unfinished(item: str, records: Records) -> dict[str, Any]:
    return {"item": item, "case": records.unfinished.get(item)}


def _place(row: tuple[str, str, str]) -> tuple[str, int, str, str]:
    operation, prop, dtype = row
    known = list(PROMISES)
    return operation, known.index(prop) if prop in known else len(known), prop, dtype


def _result(row: tuple[str, str, str], tally: Tally) -> dict[str, Any]:
    operation, prop, dtype = row
    reasons = [
        {"status": status, "reason": reason, "count": count}
        for (status, reason), count in tally.reasons.most_common()
    ]
    return {
        "operation": operation,
        "property": prop,
        "dtype": dtype,
        "counts": {status: tally.counts[status] for status in Status if tally.counts[status]},
        "elements": tally.elements,
        "worst": number(tally.worst) if tally.elements else None,
        "exact": tally.exact / tally.elements if tally.elements else None,
        "reasons": reasons,
    }


def write(directory: Path, report: Report) -> Path:
    """Write ``cases/<id>.json`` and then, in one step, ``report.json``, whose path is returned."""
    cases = directory / "cases"
    cases.mkdir(parents=True, exist_ok=True)
    for failure in report["failures"]:
        for data in (failure["case"], failure["original"]):
            case = Case.from_data(data)
            (cases / f"{case.id}.json").write_text(case.to_json() + "\n", encoding="utf-8")
    target = directory / "report.json"
    unfinished = directory / "report.json.part"
    unfinished.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(target)
    return target


# --- header -------------------------------------------------------------------------------------------------


def header(subject: Subject, *, profile: str, seed: int) -> dict[str, Any]:
    """What the numbers depend on: versions, machine, commit, subject, numerics environment."""
    return {
        "suite": _version("normkernels"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device": _device(subject.device),
        "platform": platform.platform(),
        "commit": _commit(),
        "seed": seed,
        "profile": profile,
        "adapter": _adapter(subject),
        "numerics": _numerics(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device(device: str) -> str:
    if device != "cpu":
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} (capability {major}.{minor})"
    if os.environ.get("TRITON_INTERPRET") != "1" or _version("triton") is None:
        return "CPU, without Triton"
    # imports Triton
    from conformance import interpreter  # noqa: PLC0415

    return f"CPU, Triton interpreter (faithful: {'yes' if interpreter.faithful() else 'no'})"


def _commit() -> str | None:
    """The commit of the working directory, with a plus where files differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def _adapter(subject: Subject) -> dict[str, Any]:
    """The adapter's name and all that it declares: what is not declared is not demanded."""
    adapter = subject.adapter
    contracts = {operation: adapter.contract(operation) for operation in adapter.contracts}
    return {
        "name": adapter.name,
        "contracts": {
            operation: {"rounds": sorted(contract.rounds), "depth": contract.depth, "text": str(contract)}
            for operation, contract in contracts.items()
        },
        "deterministic": adapter.deterministic,
        "batch_invariant": adapter.batch_invariant,
        "validates": adapter.validates,
        "flushes": adapter.flushes,
        "reference": adapter.reference,
    }


def _numerics() -> dict[str, Any]:
    """Switches outside the code under test that can change its bits."""
    names = sorted(name for name in os.environ if name.startswith("TRITON_") or name == "NORMKERNELS_PATH")
    return {
        "environment": {name: os.environ[name] for name in names},
        "fp_fusion": _fp_fusion(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _fp_fusion() -> bool | None:
    """Triton's default for kernels that do not say; None where it has no such switch."""
    if _version("triton") is None:
        return None
    from triton import knobs  # noqa: PLC0415

    return getattr(knobs.language, "default_fp_fusion", None)
