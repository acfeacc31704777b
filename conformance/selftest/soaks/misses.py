"""Results that are wrong by as little as must be seen: one element is off by twice its bound."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.operations.rows import count
from conformance.oracle.contract import round_once
from conformance.properties.measure import chunks, intervals
from conformance.selftest.soaks.rights import Right

TRIES = 20  # rows, until one has an ordinary number


def put_off(
    each: Right,
    case: Case,
    values: Mapping[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    number: int,
    rng: random.Random,
) -> bool:
    """Move one element of an output by twice its bound; return whether an ordinary number was found to move."""
    wanted = OPERATIONS[case.operation].outputs(case)[number]
    info = torch.finfo(wanted.dtype) if wanted.dtype.is_floating_point else None
    least, most = (8 * info.smallest_normal, info.max / 2) if info else (2, 100)
    for row in (rng.randrange(count(case)) for _ in range(TRIES)):
        got = outputs[number].reshape(count(case), -1)
        size = got[row].double().abs()
        ordinary = torch.nonzero((size >= least) & (size <= most)).flatten().tolist()
        if ordinary:
            column = rng.choice(ordinary)
            got[row, column].copy_(
                torch.tensor(twice_off(*_ends(each, case, values, outputs, number, row, column)))
            )
            # the rows are a view, but for scales in columns
            outputs[number].copy_(got.reshape(outputs[number].shape))
            return True
    return False


def _ends(
    each: Right,
    case: Case,
    values: Mapping[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    number: int,
    row: int,
    column: int,
) -> tuple[float, float, torch.dtype]:
    """Return the ends of an element's interval before the store, and the dtype of its store.

    The interval is that of the rows with which the element is judged: exact numbers among others have bounds too.
    """
    wanted = OPERATIONS[case.operation].outputs(case)
    rows = next(rows for rows in chunks(each.subject, case) if rows.start <= row < rows.stop)
    parts = {
        want.name: output.reshape(count(case), -1)[rows] for want, output in zip(wanted, outputs, strict=True)
    }
    allowed = intervals(each.subject, each.contract, case, values, rows, parts)[wanted[number].name]
    place = row - rows.start, column
    return float(allowed.lo[place]), float(allowed.hi[place]), wanted[number].dtype


def twice_off(lo: float, hi: float, dtype: torch.dtype) -> float:
    """Return a number of a dtype that is nearer to zero than an interval's middle by at least twice the bound.

    The bound is half the interval's width before the store and half an ulp of the store.
    """
    middle, info = (lo + hi) / 2, torch.finfo(dtype) if dtype.is_floating_point else None
    ulp = math.ldexp(info.eps, math.frexp(middle)[1] - 1) if info else 1.0
    bound = (hi - lo) / 2 + ulp / 2
    for more in (2.0, 2.5, 3.0):
        moved = middle - math.copysign(more * bound, middle)
        stored = float(round_once(torch.tensor(moved, dtype=torch.float64), dtype))
        if abs(stored - middle) >= 2 * bound:
            break
    return stored
