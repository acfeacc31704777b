"""Numbers behind a wrong element: the arguments at its place, and what would be allowed if a term were missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from conformance.calls.call import Subject, values_for
from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.operations.rows import by_row, row_tensors
from conformance.operations.term import Values
from conformance.oracle.interval import Interval
from conformance.properties.measure import COMPARED, stored


@dataclass(frozen=True, slots=True)
class Place:
    """An element of an output, and what came out there."""

    output: str
    index: tuple[int, ...]
    got: float


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument: its element at the place of an output's element, and the range of the row that it is in.

    ``index`` and ``value`` are None where the shapes do not say which element that is. An argument without rows
    counts as one row.
    """

    name: str
    index: tuple[int, ...] | None
    value: float | None
    least: float
    most: float
    mean_square: float


@dataclass(frozen=True, slots=True)
class Without:
    """Results that a formula without a term would allow for an element; ``explains``: what came out is one."""

    term: str
    lo: float
    hi: float
    explains: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """The numbers behind an element. Terms of which nothing is left in the element are not among them."""

    operands: tuple[Operand, ...]
    without: tuple[Without, ...]


def behind(subject: Subject, case: Case, place: Place) -> Behind:
    """Return the numbers behind an element of an output; no terms where that takes long."""
    values = values_for(subject, case)
    small = sum(math.prod(output.shape) for output in OPERATIONS[case.operation].outputs(case)) <= COMPARED
    return Behind(
        tuple(_operand(case, place, name, values[name]) for name, _ in case.tensors if values[name].numel()),
        tuple(_terms(subject, case, place, values)) if small else (),
    )


def _operand(case: Case, place: Place, name: str, values: torch.Tensor) -> Operand:
    shape = _shape(case, place)
    row = values.flatten()
    if name in row_tensors(case):
        rows = by_row(case, name, values)
        row = rows[_flat(place.index, shape) // (math.prod(shape) // len(rows))]
    # dimensions in which an output's element stands where that of the argument does
    beside = slice(len(shape) - values.dim(), None)
    index = place.index[beside] if values.shape == shape[beside] else None
    numbers = row.double()
    return Operand(
        name,
        index,
        None if index is None else float(values[index]),
        float(numbers.min()),
        float(numbers.max()),
        float(numbers.square().mean()),
    )


def _terms(subject: Subject, case: Case, place: Place, values: Values) -> Iterator[Without]:
    """Yield every term that makes a difference to the element."""
    contract = subject.contract(case.operation)
    whole = _ends(stored(subject, contract, case, values), place, case)
    for term in OPERATIONS[case.operation].terms:
        call = term.dropped(case, values)
        lacking = _ends(stored(subject, contract, *call), place, case) if call is not None else None
        if lacking is not None and lacking != whole:
            lo, hi = lacking
            yield Without(term.name, lo, hi, explains=lo <= place.got <= hi)


def _ends(allowed: Mapping[str, Interval], place: Place, case: Case) -> tuple[float, float] | None:
    """Return what is allowed at a place, None where a call without the term has no such output."""
    interval = allowed.get(place.output)
    if interval is None:
        return None
    flat = _flat(place.index, _shape(case, place))
    return float(interval.lo.flatten()[flat]), float(interval.hi.flatten()[flat])


def _shape(case: Case, place: Place) -> tuple[int, ...]:
    return next(out.shape for out in OPERATIONS[case.operation].outputs(case) if out.name == place.output)


def _flat(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Return the number of an element in the order of memory."""
    place = 0
    for at, size in zip(index, shape, strict=True):
        place = place * size + at
    return place
