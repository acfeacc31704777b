"""Implementations that are wrong on purpose, one mistake each. The suite must catch every one.

A fake is a class of a module in this folder that names in ``caught_by`` the properties that must catch it. Classes
that name none are right: the bases of the fakes, and implementations that must pass.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation

Fake = type[Correct | CorrectNorm | CorrectRotation | CorrectFp8]


def _classes() -> Iterator[Fake]:
    """Yield every class of every module in this folder, in the order in which they stand there."""
    for found in pkgutil.iter_modules(__path__):
        if found.name.startswith("test_"):
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        here = (kind for kind in vars(module).values() if isinstance(kind, type))
        yield from (kind for kind in here if kind.__module__ == module.__name__)


CLASSES = tuple(_classes())
FAKES = tuple(kind for kind in CLASSES if getattr(kind, "caught_by", ()))
"""All of them, collected: a fake that is written is tried."""
