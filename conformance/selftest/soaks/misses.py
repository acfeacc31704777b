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
from conformance.properties.measure import intervals
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
    wanted = OPERATIONS[case.operation].outputs(case)
    names = [out.name for out in wanted]
    for row in (rng.randrange(count(case)) for _ in range(TRIES)):
        rows = slice(row, row + 1)
        parts = {name: out.reshape(count(case), -1)[rows] for name, out in zip(names, outputs, strict=True)}
        allowed = intervals(each.subject, each.contract, case, values, rows, parts)[names[number]]
        ordinary = torch.finfo(wanted[number].dtype) if wanted[number].dtype.is_floating_point else None
        size = parts[names[number]].double().abs().flatten()
        least, most = (8 * ordinary.smallest_normal, ordinary.max / 2) if ordinary else (2, 100)
        fit = torch.nonzero((size >= least) & (size <= most)).flatten().tolist()
        if fit:
            column = rng.choice(fit)
            lo, hi = (float(end.flatten()[column]) for end in (allowed.lo, allowed.hi))
            moved = twice_off(lo, hi, wanted[number].dtype)
            # a view, but for scales in columns
            flat_output = outputs[number].reshape(count(case), -1)
            flat_output[row, column].copy_(torch.tensor(moved))
            outputs[number].copy_(flat_output.reshape(outputs[number].shape))
            return True
    return False


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
