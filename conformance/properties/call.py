"""Values of one call (ordinary, strided and special ones), and everything else that the same call shows."""

from __future__ import annotations

from conformance.properties.passive import judge_call
from conformance.properties.property import Property, contiguous, ordinary, special

VALUES = Property(
    "values",
    "every element lies in the interval that the contract allows",
    judge_call,
    passive=True,
    fixed=lambda operation: (*contiguous(operation), *ordinary(operation)),
)

LAYOUT = Property(
    "layout",
    "the same holds for every layout of every argument",
    judge_call,
    passive=True,
    fixed=ordinary,
)

SPECIALS = Property(
    "specials",
    "NaN, infinities, zeros, subnormals and overflow follow the formula in IEEE arithmetic",
    judge_call,
    passive=True,
    fixed=lambda operation: (*contiguous(operation), *special(operation)),
)
