"""Planted bugs as tasks: each is a fake that has one bug of the field, judged as a mutant is."""

from __future__ import annotations

import importlib

from conformance.adapter import Adapter
from conformance.prove.mutants import Mutant
from conformance.prove.score import PLANTED

# Tests of this repository, which nothing else imports: named here, because this is one as well.
MODULE = "conformance.selftest.planted"
PREFIX = "planted:"
IN = " in "  # between the name of a bug and its operation


def planted(lane: str) -> tuple[Mutant, ...]:
    """Return every planted bug of a lane, in each of its operations; none where this checkout has none."""
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise
        return ()
    return tuple(
        Mutant(f"{bug.name}{IN}{operation}", PLANTED, 0, operation, PLANTED, bug.mechanism, bug.source, 0, 0, "")
        for bug in module.PLANTED
        if lane in bug.lanes
        for operation in bug.operations
    )


def fake(name: str) -> Adapter:
    """Return the adapter that has a bug."""
    bugs = importlib.import_module(MODULE).PLANTED
    made: Adapter = next(bug for bug in bugs if bug.name == name.rpartition(IN)[0]).kind()()
    return made
