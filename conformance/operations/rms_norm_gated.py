"""Gated RMSNorm: ``norm(x) * weight * act(gate)``, or ``norm(x * act(gate)) * weight``.

``norm(v) = v * rsqrt(mean(v**2) + eps)`` over each group of ``group_size`` columns (None: the whole row).
The formula is the definition of Qwen3-Next's and Mamba-2's gated norms in real arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case, Flag, Layout
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Scope, width
from conformance.cases.shrink import smaller
from conformance.operations.inverse_rms import STATISTICS, inverse_rms
from conformance.operations.operation import Arguments, Scaling
from conformance.operations.row_calls import EPSILON, RowCalls, Setting, below_eps, by_profile, row_operation
from conformance.operations.tensors import Beside, Columns, Rows
from conformance.operations.term import (
    Term,
    Values,
    with_ones,
    without_flag,
    without_last_column,
    without_tensor,
)
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

# profiles of x, gate and weight by level; the ordinary ones first
PLAIN = ("gate", "weight")
VALUES = {
    **by_profile(PLAIN, "normal", "rows", "constant", "large"),
    "wide_gate": ("normal", "wide_gate", "weight"),
    "specials": ("specials", "specials", "weight"),
    "special_weight": ("normal", "gate", "special_weight"),
    "specials_everywhere": ("specials", "specials", "special_weight"),
    **by_profile(PLAIN, "subnormal", "huge"),
}


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. x and gate are ``(rows, n)``, weight ``(n,)``."""
    x, gate, weight = given["x"], given.get("gate"), given["weight"]
    n = x.shape[-1]
    group = case.flag("group_size") or n
    grouped = (-1, n // group, group)
    stream, kind = Interval.exactly(x).reshape(*grouped), x.dtype
    late: tuple[Interval, ...] = ()
    if gate is not None:
        act = activation(machine, contract, gate, case.flag("activation")).reshape(*grouped)
        if case.flag("norm_before_gate"):
            late = (act,)
        else:
            kind = torch.promote_types(x.dtype, gate.dtype)
            stream = contract.at("gated", machine.product(stream, act), kind)
    inv_rms = inverse_rms(machine, contract, stream, case.flag("eps"), kind)
    factors = contract.settle("normalised", machine, (stream, inv_rms), kind)
    factors = (*factors, Interval.exactly(weight).reshape(n // group, group))
    factors = contract.settle("weighted", machine, factors, torch.promote_types(kind, weight.dtype))
    return {"y": machine.product(*factors, *late).reshape(-1, n)}


def activation(machine: Machine, contract: Contract, gate: torch.Tensor, name: str) -> Interval:
    """Return ``silu`` (alias ``swish``) or ``sigmoid`` of the gate, rounded to its dtype at point ``act``."""
    z = Interval.exactly(gate)
    return contract.at("act", machine.sigmoid(z) if name == "sigmoid" else machine.silu(z), gate.dtype)


ROUNDS = (Point("gated", scales=True), *STATISTICS, Point("normalised"), Point("weighted"), Point("act"))


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call.

    Where no gate follows, rounding the weighted value is its store.
    """
    norm = ("square", "variance", "rstd", "normalised")
    if case.tensor("gate") is None:
        return norm
    return (*norm, "weighted", "act") if case.flag("norm_before_gate") else (*norm, "act", "gated")


def _widths(assignment: Assignment, rng: random.Random, scope: Scope) -> tuple[int, dict[str, Flag]]:
    """Return the columns of a row, and of a group of them."""
    parts = scope.compiled(rng).choice((2, 3, 4)) if assignment["group"] == "several" else 1
    n = width(assignment["width"], rng, scope, parts)
    return n * parts, {"group_size": None if assignment["group"] == "none" else n}


def _narrower(calls: RowCalls, case: Case) -> Iterator[Case]:
    """Yield the case with fewer groups, and with fewer columns a group."""
    group = case.flag("group_size")
    if group is None:
        yield from calls.fewer_columns(case)
        return
    *leading, n = case.tensors[0][1].shape
    for fewer in smaller(n // group):
        yield calls.resized(case, (*leading, fewer * group))
    for narrower in smaller(group):
        yield calls.resized(case, (*leading, n // group * narrower)).with_flag("group_size", narrower)


def _group(case: Case) -> str:
    group = case.flag("group_size")
    return "none" if group is None else "whole" if group == case.tensors[0][1].shape[-1] else "several"


CALLS = RowCalls(
    "rms_norm_gated",
    (Rows("x"), Beside("gate", ("same", "other", "none")), Columns("weight", ("same", "float32"))),
    VALUES,
    (
        EPSILON,
        Setting("norm_before_gate", {"yes": True, "no": False}),
        Setting("activation", {name: name for name in ("silu", "sigmoid", "swish")}),
    ),
    widths=_widths,
    plain={"group_size": None},
    groups=("none", "several", "whole"),
    narrower=_narrower,
)


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: x and gate as slices of one projection where it has heads."""
    case = CALLS.model_case(shape, tokens)
    gate = case.tensor("gate")
    assert gate is not None
    shared = replace(gate, layout=Layout("shared", 1))
    return case if shape.heads is None else case.with_tensor("gate", shared)


def _group_does_not_divide(call: Arguments) -> Arguments:
    return {**call, "group_size": call["x"].shape[-1] - 1}


def _group_of_nothing(call: Arguments) -> Arguments:
    return {**call, "group_size": 0}


def _negative_group(call: Arguments) -> Arguments:
    return {**call, "group_size": -call["x"].shape[-1]}


def _unknown_activation(call: Arguments) -> Arguments:
    return {**call, "activation": "tanh"}


MISTAKES = {
    "group size that does not divide": _group_does_not_divide,
    "group size zero": _group_of_nothing,
    "negative group size": _negative_group,
    "unknown activation": _unknown_activation,
}


def _other_order(case: Case, values: Values) -> tuple[Case, Values] | None:
    if case.tensor("gate") is None:
        return None
    return case.with_flag("norm_before_gate", not case.flag("norm_before_gate")), values


def _other_activation(case: Case, values: Values) -> tuple[Case, Values] | None:
    if case.tensor("gate") is None:
        return None
    return case.with_flag("activation", "silu" if case.flag("activation") == "sigmoid" else "sigmoid"), values


def _without_groups(case: Case, values: Values) -> tuple[Case, Values] | None:
    # None and one group of all columns are the same
    if case.flag("group_size") in {None, case.tensors[0][1].shape[-1]}:
        return None
    return case.with_flag("group_size", None), values


TERMS = (
    Term("eps", without_flag("eps", 0.0), made=below_eps),
    Term("weight", with_ones("weight")),
    Term("gate", without_tensor("gate")),
    Term("gate order", _other_order),
    Term("activation", _other_activation),
    Term("groups", _without_groups, levels={"group": "several"}),
    Term("last column", without_last_column("x"), elsewhere=True),
)

RMS_NORM_GATED = row_operation(
    CALLS,
    formula=formula,
    rounds=ROUNDS,
    points=points,
    mistakes=MISTAKES,
    readers={**CALLS.readers, "group": _group},
    ordinary=("normal", "rows", "constant", "large", "wide_gate"),
    telling={**CALLS.telling, "group": ("none", "whole")},
    terms=TERMS,
    model_case=model_case,
    in_place={"y": "x"},
    scaling=Scaling({"x": 1, "eps": 2}, {"y": 0}),
)
