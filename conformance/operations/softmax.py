"""Softmax over the last dimension: ``exp(x - max(x)) / sum(exp(x - max(x)))``, the maximum of each row.

A row of minus infinity alone, and a row with plus infinity, give NaN: they subtract infinities of one sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case
from conformance.operations.row_calls import RowCalls, row_operation
from conformance.operations.tensors import Rows
from conformance.operations.term import Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

ORDINARY = ("normal", "rows", "constant", "far", "wide_gate", "large")
# the profile of x by level; the ordinary ones first
VALUES = {name: (name,) for name in (*ORDINARY, "masked", "specials", "subnormal", "huge")}
ROUNDS = (Point("difference", scales=True), Point("exp"), Point("total"))


def far(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows so far below or above zero that the power of every number underflows or overflows."""
    values = torch.randn((rows, n), generator=generator)
    distance = 128.0 + 384.0 * torch.rand((rows, 1), generator=generator)
    distance[1::2] *= -1.0
    return values - distance


def masked(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows whose columns from some place on are the lowest number, as models mask; some are all masked."""
    values = torch.randn((rows, n), generator=generator)
    length = torch.randint(n + 1, (rows, 1), generator=generator)
    return torch.where(torch.arange(n) < length, values, torch.finfo(dtype).min)


def crowned(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows whose last column has most of the sum, however many others there are."""
    values = torch.randn((rows, n), generator=generator)
    values[:, -1] = 12.0
    return values


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. x is ``(rows, n)``."""
    x = given["x"]
    largest = Interval.exactly(x.amax(-1, keepdim=True))
    difference = contract.at("difference", machine.add(Interval.exactly(x), -largest), x.dtype)
    powers = contract.at("exp", machine.exp(difference), x.dtype)
    if not dict(case.flags).get("divided", True):
        return {"y": powers}
    total = contract.at("total", machine.total(powers, contract.additions(x.shape[-1])), x.dtype)
    return {"y": machine.quotient(powers, total)}


def _without_sum(case: Case, values: Values) -> tuple[Case, Values]:
    """Return the powers as they are: no value of an argument does."""
    return replace(case, flags=(*case.flags, ("divided", False))), values


def _drawn_as(profile: str) -> Callable[[Case], Case]:
    """Return the call with rows of another profile."""
    return lambda case: case.with_tensor("x", replace(case.tensors[0][1], values=profile))


def _without_last_column(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Mask the last column: the power of a zero would be in the sum."""
    if case.tensors[0][1].shape[-1] == 1:
        return None
    x = values["x"].clone()
    x[..., -1] = -torch.inf
    return case, {**values, "x": x}


SOFTMAX = row_operation(
    RowCalls("softmax", (Rows("x"),), VALUES),
    formula=formula,
    rounds=ROUNDS,
    points=lambda _: tuple(point.name for point in ROUNDS),
    ordinary=ORDINARY,
    terms=(
        # the maximum is none: it cancels, and is there so that nothing overflows
        Term("sum", _without_sum, made=_drawn_as("constant")),
        Term("last column", _without_last_column, elsewhere=True, made=_drawn_as("crowned")),
    ),
    in_place={"y": "x"},
    profiles={"far": far, "masked": masked, "crowned": crowned},
)
