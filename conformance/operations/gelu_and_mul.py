"""GeGLU's product: ``gelu(gate) * up``, both halves of one projection or apart; gelu by erf, or by tanh.

none: ``0.5 * x * (1 + erf(x / sqrt(2)))``; tanh: ``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.
Far below zero the sum with one cancels, and keeps the error of a number near one. Forms that do not cancel,
``0.5 * x * erfc(-x / sqrt(2))`` and ``x * sigmoid(2 * …)``, are allowed too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case, Flag
from conformance.cases.corpus import ModelShape
from conformance.operations import silu_and_mul
from conformance.operations.operation import Arguments, Scaling
from conformance.operations.row_calls import RowCalls, Setting, row_operation
from conformance.operations.tensors import Beside, Rows
from conformance.operations.term import Term, Values, drawn_as, lacking, with_ones, without_last_column
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

# profiles of gate and up by level; the ordinary ones first
VALUES = {
    "normal": ("gate", "normal"),
    "rows": ("rows", "normal"),
    "large": ("gate", "large"),
    "falling_gate": ("falling_gate", "normal"),
    "wide_gate": ("wide_gate", "normal"),
    "specials": ("specials", "specials"),
    "special_up": ("gate", "specials"),
    "subnormal": ("subnormal", "normal"),
    "huge": ("huge", "huge"),
}
CALLS = RowCalls(
    "gelu_and_mul",
    (Rows("gate"), Beside("up", ("same", "other"))),
    VALUES,
    (Setting("approximate", {"none": "none", "tanh": "tanh"}),),
)
CUBIC = 0.044715


def falling_gate(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw gates from -5 to 1: there gelu has its minimum, and both formulas differ most."""
    return 6.0 * torch.rand((rows, n), generator=generator) - 5.0


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. gate and up are ``(rows, n)``."""
    gate = Interval.exactly(given["gate"])
    flags = dict(case.flags)
    if flags.get("activation", True):
        if flags["approximate"] == "tanh":
            raised = machine.one_and_tanh(inner(machine, gate, flags))
        else:
            raised = machine.one_and_erf(machine.quotient(gate, _constant(math.sqrt(2), gate)))
        gate = contract.at("act", _gated(machine, gate, raised), given["gate"].dtype)
    return {"y": machine.product(gate, Interval.exactly(given["up"]))}


def inner(machine: Machine, x: Interval, flags: Mapping[str, Flag]) -> Interval:
    """Return the argument of tanh."""
    cubed = machine.product(x, x, x, _constant(CUBIC, x))
    summed = machine.add(x, cubed) if flags.get("cubed", True) else x
    return machine.product(summed, _constant(math.sqrt(2 / math.pi), x))


def _gated(machine: Machine, x: Interval, raised: Interval) -> Interval:
    """Return ``0.5 * x * raised``. At minus infinity the formula's NaN and its limit, zero, are both allowed."""
    result = machine.product(_constant(0.5, x), x, raised)
    limit = x.lo == -math.inf
    return Interval(torch.where(limit, 0.0, result.lo), torch.where(limit, 0.0, result.hi), result.nan | limit)


def _constant(value: float, like: Interval) -> Interval:
    """Return a constant, which kernels may have in float32."""
    ends = sorted((value, float(torch.tensor(value, dtype=torch.float32))))
    lo, hi = (Interval.number(end, like.lo.device) for end in ends)
    return lo if ends[0] == ends[1] else lo.hull(hi)


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: gate and up are halves of one projection."""
    case = silu_and_mul.model_case(shape, tokens)
    return replace(case, operation="gelu_and_mul", flags=shape.flags)


def _without_cube(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Leave the cube out of the formula by tanh."""
    return lacking("cubed")(case, values) if case.flag("approximate") == "tanh" else None


def _by_the_other(case: Case, values: Values) -> tuple[Case, Values]:
    other = "none" if case.flag("approximate") == "tanh" else "tanh"
    return case.with_flag("approximate", other), values


FALLING = drawn_as("gate", "falling_gate")


def _unknown(call: Arguments) -> Arguments:
    return {**call, "approximate": "sigmoid"}


GELU_AND_MUL = row_operation(
    CALLS,
    formula=formula,
    rounds=(Point("act"),),
    points=lambda _: ("act",),
    ordinary=("normal", "rows", "large", "falling_gate", "wide_gate"),
    mistakes={"unknown approximation": _unknown},
    terms=(
        Term("activation", lacking("activation")),
        Term("approximation", _by_the_other, made=FALLING),
        Term("cube", _without_cube, levels={"approximate": "tanh"}, made=FALLING),
        Term("gate", with_ones("gate")),
        Term("up", with_ones("up")),
        Term("last column", without_last_column("gate", "up")),
    ),
    model_case=model_case,
    in_place={"y": "gate"},
    # the product is linear in up alone
    scaling=Scaling({"up": 1}, {"y": 1}),
    profiles={"falling_gate": falling_gate},
)
