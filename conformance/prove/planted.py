"""Planted bugs as tasks: each is a fake that has one bug of the field, judged as a mutant is."""

from __future__ import annotations

import importlib
from typing import Any

from conformance.adapter import Adapter
from conformance.prove.mutants import Mutant
from conformance.prove.score import PLANTED
from conformance.runs.host import gpus

# Tests of this repository, which nothing else imports: named here, because this is one as well.
MODULE = "conformance.selftest.planted"
PREFIX = "planted:"
TWO = "cuda2"  # the lane of bugs that need a second GPU


def planted(lane: str) -> tuple[Mutant, ...]:
    """Return the bugs that can exist on a lane of this machine, one for each operation that has it."""
    lanes = {lane, TWO} if lane == "cuda" and len(gpus()) > 1 else {lane}
    return tuple(
        Mutant(name, PLANTED, 0, operation, PLANTED, bug.mechanism, bug.source, 0, 0, "")
        for name, (bug, operation) in _bugs().items()
        if lanes & set(bug.lanes)
    )


def fake(name: str) -> Adapter:
    """Return the adapter that has a bug."""
    bug, _ = _bugs()[name]
    made: Adapter = bug.kind()()
    return made


def _bugs() -> dict[str, tuple[Any, str]]:
    """Return every bug and its operation by a name of both; Any: their module is a test."""
    table = importlib.import_module(MODULE).PLANTED
    return {f"{bug.name}: {operation}": (bug, operation) for bug in table for operation in bug.operations}
