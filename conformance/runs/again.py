"""Failures of an earlier report: the cells of its table that did not hold, each with its failing cases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from conformance.cases.case import Case
from conformance.properties import PASSIVE
from conformance.properties.passive import property_of
from conformance.runs.failed import Failed

Again = Mapping[str, tuple[Case, ...]]


def of_failures(failures: Iterable[Failed]) -> Again:
    """Return the cases of failures, the smallest first, by ``operation/property/dtype`` of the item to judge."""
    found: dict[str, tuple[Case, ...]] = {}
    for failed in failures:
        # passive properties are judged in the item of the drawn case
        prop = property_of(failed.original) if failed.property in PASSIVE else failed.property
        cell = f"{failed.operation}/{prop}/{failed.dtype}"
        found[cell] = tuple(dict.fromkeys((*found.get(cell, ()), failed.case, failed.original)))
    return found


def write(again: Again, path: Path) -> None:
    """Write to a file, for the processes of a run."""
    data = {cell: [case.to_data() for case in cases] for cell, cases in again.items()}
    path.write_text(json.dumps(data), encoding="utf-8")


def read(path: Path) -> Again:
    """Return what was written to a file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {cell: tuple(Case.from_json(json.dumps(case)) for case in cases) for cell, cases in data.items()}
