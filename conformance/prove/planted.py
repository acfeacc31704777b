"""Planted bugs as tasks: each is a fake that has one bug of the field, judged as a mutant is."""

from __future__ import annotations

import importlib

from conformance.adapter import Adapter
from conformance.prove.mutants import Mutant
from conformance.prove.score import PLANTED

# Tests of this repository, which nothing else imports: named here, because this is one as well.
MODULE = "conformance.selftest.planted"
PREFIX = "planted:"


def planted() -> tuple[Mutant, ...]:
    """Return every planted bug; none where this checkout has none."""
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise
        return ()
    return tuple(
        Mutant(bug.name, PLANTED, 0, bug.operation, PLANTED, bug.mechanism, bug.source, 0, 0, "")
        for bug in module.PLANTED
    )


def fake(name: str) -> Adapter:
    """Return the adapter that has a bug."""
    found = next(bug.fake for bug in importlib.import_module(MODULE).PLANTED if bug.name == name)
    made: Adapter = found() if isinstance(found, type) else found
    return made
