"""Implementations that are wrong on purpose, one mistake each. The suite must catch every one.

A fake is a class of a module in this folder that names in ``caught_by`` the properties that must catch it. Classes
that name none are right: the bases of the fakes, and implementations that must pass. Modules with operations from
outside may have both, as adapters that name in ``operations`` what they implement.

``ends_its_process`` marks a fake that faults: it is judged in a child. ``gpu`` says why a fake can be wrong on a
GPU alone. Fakes that launch kernels run there, where there is one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from conformance.adapter import Adapter
from conformance.runs import outside
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_gelu_and_mul import CorrectGeluAndMul
from conformance.selftest.fakes.correct_int8_norm import CorrectInt8Norm
from conformance.selftest.fakes.correct_l2_norm import CorrectL2Norm
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_quantise_fp8 import CorrectQuantiseFp8
from conformance.selftest.fakes.correct_rope import CorrectRope
from conformance.selftest.fakes.correct_rotation import CorrectRotation
from conformance.selftest.fakes.correct_silu_and_mul import CorrectSiluAndMul
from conformance.selftest.fakes.correct_softmax import CorrectSoftmax

Fake = type[
    Correct
    | CorrectNorm
    | CorrectRotation
    | CorrectFp8
    | CorrectLayerNorm
    | CorrectSiluAndMul
    | CorrectL2Norm
    | CorrectSoftmax
    | CorrectRope
    | CorrectGeluAndMul
    | CorrectQuantiseFp8
    | CorrectInt8Norm
]


def _classes() -> Iterator[Fake]:
    """Yield every class of every module in this folder, in the order in which they stand there, then others."""
    for found in pkgutil.iter_modules(__path__):
        if found.name.startswith("test_"):
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        here = (kind for kind in vars(module).values() if isinstance(kind, type))
        yield from (kind for kind in here if kind.__module__ == module.__name__)

    for module in outside.modules().values():
        here = (kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Adapter))
        yield from (kind for kind in here if kind.__module__ == module.__name__ and hasattr(kind, "operations"))


CLASSES = tuple(_classes())
FAKES = tuple(kind for kind in CLASSES if getattr(kind, "caught_by", ()))
"""All of them, collected: a fake that is written is tried."""
RIGHT: dict[str, Fake] = {
    name: kind
    for kind in CLASSES
    if Adapter in kind.__bases__ and not kind.caught_by and kind.__module__ != f"{__name__}.kernels"
    for name in kind.operations
}
"""The base of the fakes of each operation."""

LISTS = ("RIGHT", "RIGHT_WITH_NORMS")  # of the modules


def launches(kind: type) -> bool:
    """Return whether a fake runs in Triton kernels: it, or a base of it, stands in a module named ``kernels…``."""
    return any(base.__module__.startswith(f"{__name__}.kernels") for base in kind.__mro__)


def right(operation: str) -> Fake:
    """Return the right implementation that an operation's fakes are made of."""
    assert operation in RIGHT, (
        f"{operation} has no right implementation to make fakes of: write conformance/selftest/fakes/"
        f"correct_{operation}.py, a class with operations = ({operation!r},)"
    )
    return RIGHT[operation]


def every_right(operation: str) -> tuple[Fake, ...]:
    """Return all right implementations of an operation: the base of its fakes, then those in lists of modules."""
    modules = dict.fromkeys(importlib.import_module(kind.__module__) for kind in CLASSES)
    listed = (kind for module in modules for name in LISTS for kind in getattr(module, name, ()))
    return tuple(dict.fromkeys(kind for kind in (right(operation), *listed) if operation in kind.operations))
