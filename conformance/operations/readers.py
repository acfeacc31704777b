"""Readers of one factor: the level of it that a case has, or None where the case has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conformance.cases.case import Case, Flag
from conformance.cases.factors import ODD_WIDTHS, TILE

Reader = Callable[[Case], str | None]

# the most columns that the level `narrow` draws; the fewest of `wide`
NARROW, WIDE = 16, 2048


def flag(name: str, levels: Mapping[str, Flag] | None = None) -> Reader:
    """Return a reader of a flag: the level that has its value, or without levels the value as text.

    A flag that a case leaves out is None.
    """
    if levels is None:
        return lambda case: str(case.flag(name))
    found = {value: level for level, value in levels.items()}
    return lambda case: found.get(dict(case.flags).get(name))


def dtype(name: str, levels: tuple[str, ...]) -> Reader:
    """Return a reader of a tensor's dtype: not passed, the first tensor's, another, or the one that it has."""

    def read(case: Case) -> str:
        spec = case.tensor(name)
        if spec is None:
            return "none"
        return "same" if spec.dtype == case.dtype else "other" if "other" in levels else spec.dtype

    return read


def width(case: Case) -> str | None:
    """Return the class of the columns of a group, or of the row where the call has no groups."""
    group = case.flag("group_size") if "group_size" in dict(case.flags) else None
    n: int = group or case.tensors[0][1].shape[-1]
    if n == 0:
        return None
    if n == TILE:
        return "tile"
    if n <= NARROW:
        return "narrow"
    if n in ODD_WIDTHS:
        return "odd"
    next_to_a_power = any((n + d).bit_count() == 1 for d in (-1, 1))
    if n >= WIDE and not next_to_a_power:
        return "wide"
    return "edge" if next_to_a_power or n.bit_count() == 1 else "odd"


def values(names: tuple[str, ...], levels: Mapping[str, tuple[str, ...]]) -> Reader:
    """Return a reader of the profiles of some tensors: the first level that they fit.

    Tensors that are left out, or are the first one, do not count.
    """

    def read(case: Case) -> str | None:
        own = {name: spec.values for name, spec in case.tensors if case.source(name) == name}
        return next((level for level, profiles in levels.items() if _fits(own, names, profiles)), None)

    return read


def _fits(own: Mapping[str, str], names: tuple[str, ...], profiles: tuple[str, ...]) -> bool:
    return all(own.get(name, profile) == profile for name, profile in zip(names, profiles, strict=True))
