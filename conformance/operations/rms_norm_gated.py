"""Gated RMSNorm: ``norm(x) * weight * act(gate)``, or ``norm(x * act(gate)) * weight``.

``norm(v) = v * rsqrt(mean(v**2) + eps)`` over each group of ``group_size`` columns (None: the whole row).
The formula is the definition of Qwen3-Next's and Mamba-2's gated norms in real arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import torch

from conformance.cases.case import BESIDE, LAYOUTS, Case, Flag, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Scope, layout, leading, rows, width
from conformance.cases.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.operations.inverse_rms import STATISTICS, inverse_rms
from conformance.operations.operation import Arguments, Operation, Output, Scaling
from conformance.operations.row_calls import (
    EPS,
    WRONG_WEIGHTS,
    WRONG_X,
    below_eps,
    empty_calls,
    fewer_rows,
    other_dtype,
    plainer_dtypes,
    resized,
    smaller_shapes,
    wrong_companion,
)
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
VALUES = {
    "normal": ("normal", "gate", "weight"),
    "rows": ("rows", "gate", "weight"),
    "constant": ("constant", "gate", "weight"),
    "large": ("large", "gate", "weight"),
    "wide_gate": ("normal", "wide_gate", "weight"),
    "specials": ("specials", "specials", "weight"),
    "special_weight": ("normal", "gate", "special_weight"),
    "specials_everywhere": ("specials", "specials", "special_weight"),
    "subnormal": ("subnormal", "gate", "weight"),
    "huge": ("huge", "gate", "weight"),
}

FACTORS = {
    "norm_before_gate": ("yes", "no"),
    "activation": ("silu", "sigmoid", "swish"),
    "gate": ("same", "other", "none"),
    "gate_layout": BESIDE,
    "group": ("none", "several", "whole"),
    "rank": ("2", "1", "3", "4"),
    "rows": ("few", "one", "many"),
    "values": tuple(VALUES),
    "weight": ("same", "float32"),
    "weight_layout": ("contiguous", "offset", "step", "expanded"),
    "width": ("tile", "narrow", "edge", "odd", "wide"),
    "x_layout": LAYOUTS,
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


def outputs(case: Case) -> tuple[Output, ...]:
    """Return the one output: y in x's shape and dtype."""
    x = case.tensors[0][1]
    return (Output("y", x.shape, getattr(torch, x.dtype)),)


def complete(assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
    """Return a call with the assignment's levels; sizes, amounts and seed from ``rng``."""
    n, group = _widths(assignment, rng, scope)
    count = rows(assignment["rows"], rng, scope, n)
    shape = (*leading(count, int(assignment["rank"]), rng), n)
    x_values, gate_values, weight_values = VALUES[assignment["values"]]
    tensors = [("x", TensorSpec(shape, scope.dtype, layout(assignment["x_layout"], rng), x_values))]
    if assignment["gate"] != "none":
        dtype = scope.dtype if assignment["gate"] == "same" else other_dtype(scope.dtype, rng)
        place = layout(assignment["gate_layout"], rng)
        shared = Layout("shared", 1) if place.kind == "shared" else place
        tensors.append(("gate", TensorSpec(shape, dtype, shared, gate_values)))
    weight_dtype = scope.dtype if assignment["weight"] == "same" else "float32"
    weight_layout = layout(assignment["weight_layout"], rng)
    tensors.append(("weight", TensorSpec((n,), weight_dtype, weight_layout, weight_values)))
    flags: dict[str, Flag] = {
        "activation": assignment["activation"],
        "eps": rng.choice(EPS),
        "group_size": group,
        "norm_before_gate": assignment["norm_before_gate"] == "yes",
    }
    return Case("rms_norm_gated", tuple(tensors), tuple(flags.items()), rng.randrange(2**32))


def _widths(assignment: Assignment, rng: random.Random, scope: Scope) -> tuple[int, int | None]:
    """Return the columns of a row, and of a group of them."""
    parts = scope.compiled(rng).choice((2, 3, 4)) if assignment["group"] == "several" else 1
    n = width(assignment["width"], rng, scope, parts)
    return n * parts, None if assignment["group"] == "none" else n


def empties(scope: Scope) -> tuple[Case, ...]:
    """Return calls without a single element: no rows, no heads, no columns; contiguous and not."""
    base = complete(PLAIN, random.Random(0), scope)  # noqa: S311
    return tuple(empty_calls(base, "gate"))


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: x and gate as slices of one projection where it has heads."""
    size = shape.shape(tokens)
    kind = "shared" if shape.heads is not None else "contiguous"
    tensors = (
        ("x", TensorSpec(size, shape.dtype, values="rows")),
        ("gate", TensorSpec(size, shape.dtype, Layout(kind, 1 if kind == "shared" else 0), "gate")),
        ("weight", TensorSpec(size[-1:], shape.dtype, values="weight")),
    )
    flags = {"group_size": None, **dict(shape.flags), "eps": shape.eps}
    return Case("rms_norm_gated", tensors, tuple(flags.items()), tokens)


def simpler(case: Case) -> Iterator[Case]:
    """Yield cases with plain layouts, flags and dtypes; fewer dimensions, rows and columns; ordinary values."""
    yield from plainer_layouts(case)
    yield from plainer_flags(case, {"group_size": None, "norm_before_gate": True, "activation": "silu"})
    if case.tensor("gate") is not None:
        yield case.with_tensor("gate", None)
    yield from plainer_dtypes(case)
    yield from _smaller_shapes(case)
    yield from plainer_values(case, {"x": "normal", "gate": "gate", "weight": "weight"})


def _smaller_shapes(case: Case) -> Iterator[Case]:
    group = case.flag("group_size")
    if group is None:
        yield from smaller_shapes(case)
        return
    yield from fewer_rows(case)
    *leading_sizes, n = case.tensors[0][1].shape
    for fewer in smaller(n // group):
        yield resized(case, (*leading_sizes, fewer * group))
    for narrower in smaller(group):
        yield resized(case, (*leading_sizes, n // group * narrower)).with_flag("group_size", narrower)


PLAIN = {name: levels[0] for name, levels in FACTORS.items()}


def _group_does_not_divide(call: Arguments) -> Arguments:
    return {**call, "group_size": call["x"].shape[-1] - 1}


def _group_of_nothing(call: Arguments) -> Arguments:
    return {**call, "group_size": 0}


def _negative_group(call: Arguments) -> Arguments:
    return {**call, "group_size": -call["x"].shape[-1]}


def _unknown_activation(call: Arguments) -> Arguments:
    return {**call, "activation": "tanh"}


INVALID = {
    **wrong_companion("gate"),
    **WRONG_X,
    **WRONG_WEIGHTS,
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

RMS_NORM_GATED = Operation(
    name="rms_norm_gated",
    positional=("x", "gate", "weight"),
    keywords=(),
    row_tensors=frozenset({"x", "gate"}),
    factors=FACTORS,
    complete=complete,
    outputs=outputs,
    formula=formula,
    rounds=ROUNDS,
    points=points,
    invalid=INVALID,
    ordinary=("normal", "rows", "constant", "large", "wide_gate"),
    # a product with a float32 operand is not rounded, even if the contract rounds there
    telling={"weight": ("same",), "gate": ("same",), "group": ("none", "whole")},
    terms=TERMS,
    empties=empties,
    model_case=model_case,
    simpler=simpler,
    in_place={"y": "x"},
    scaling=Scaling({"x": 1, "eps": 2}, {"y": 0}),
)
