"""Bugs of real kernels, planted: each a fake with the bug's mechanism, and the report that it is known from.

``planted.csv`` has a row for each, ``outside.csv`` a row for each of the same catalogue that is not planted, with
the reason. ``python -m conformance.selftest.planted`` judges them.
"""

from __future__ import annotations

import csv
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.selftest.fakes import Fake

FOLDER = Path(__file__).parent
FAKES = "conformance.selftest.fakes"
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug as reported, its mechanism in a sentence, and the fake that has it: ``module.Class`` in ``fakes``.

    ``operations`` are those in which it is planted, ``lanes`` the devices on which the fake runs and is wrong:
    ``cpu``, ``cuda``, or ``cuda2``, where there are two GPUs. Importing this needs no Triton, importing the fake
    does.
    """

    name: str
    source: str
    operations: tuple[str, ...]
    lanes: tuple[str, ...]
    fake: str
    mechanism: str

    def kind(self) -> Fake:
        """Return the class of the fake."""
        module, _, name = self.fake.partition(".")
        kind: Fake = getattr(importlib.import_module(f"{FAKES}.{module}"), name)
        return kind


@dataclass(frozen=True, slots=True)
class Outside:
    """A bug as reported that is not planted, and why."""

    name: str
    source: str
    reason: str


def _rows(file: str) -> list[dict[str, str]]:
    with (FOLDER / file).open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


PLANTED = tuple(
    Planted(
        row["name"],
        row["source"],
        tuple(row["operations"].split()),
        tuple(row["lanes"].split()),
        row["fake"],
        row["mechanism"],
    )
    for row in _rows("planted.csv")
)
OUTSIDE = tuple(Outside(**row) for row in _rows("outside.csv"))
