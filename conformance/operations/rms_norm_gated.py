"""Gated RMSNorm: ``norm(x) * weight * act(gate)``, or ``norm(x * act(gate)) * weight``.

``norm(v) = v * rsqrt(mean(v**2) + eps)`` over each group of ``group_size`` columns (None: the whole row).
The formula is the definition of Qwen3-Next's and Mamba-2's gated norms in real arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from conformance.case import Case, Flag, Layout, TensorSpec
from conformance.corpus import ModelShape
from conformance.operations.operation import Arguments, Operation, Output
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, round_once
from conformance.oracle.interval import Interval
from conformance.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.strategies import DTYPES, Assignment, Scope, layout, leading, rows, width

LAYOUTS = ("contiguous", "row_gap", "offset", "step", "transposed", "swapped", "expanded", "shared")

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
    "gate_layout": LAYOUTS,
    "group": ("none", "several", "whole"),
    "rank": ("2", "1", "3", "4"),
    "rows": ("few", "one", "many"),
    "values": tuple(VALUES),
    "weight": ("same", "float32"),
    "weight_layout": ("contiguous", "offset", "step", "expanded"),
    "width": ("tile", "narrow", "edge", "odd", "wide"),
    "x_layout": LAYOUTS,
}

EPS = (1e-6, 1e-5, 1e-2, 1e-9)


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """The interval of ``y`` before its store. x and gate are ``(rows, n)``, weight ``(n,)``."""
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
    """``silu`` (or its alias ``swish``) or ``sigmoid`` of the gate, rounded to its dtype at point ``act``."""
    z = Interval.exactly(gate)
    return contract.at("act", machine.sigmoid(z) if name == "sigmoid" else machine.silu(z), gate.dtype)


def inverse_rms(machine: Machine, contract: Contract, stream: Interval, eps: float, kind: torch.dtype) -> Interval:
    """``1 / sqrt(mean(stream**2) + eps)`` over the last dimension, kept.

    Kernels take eps as float32. Where the variance itself is rounded (plain PyTorch), eps may have been
    rounded as well before it is added, and rsqrt may be the reciprocal of a rounded root: both were seen on
    one machine, in one tensor.
    """
    squares = contract.at("square", machine.square(stream), kind)
    mean = contract.at("variance", machine.mean(squares, contract.additions(stream.lo.shape[-1])), kind)
    exact_eps = torch.tensor(eps, dtype=torch.float32, device=mean.lo.device).double()
    added = Interval.exactly(exact_eps)
    if "variance" in contract.rounds:
        added = added.hull(Interval.exactly(round_once(exact_eps, kind)))
    variance = contract.at("variance", machine.add(mean, added), kind)
    direct = contract.at("rstd", machine.rsqrt(variance), kind)
    if "rstd" not in contract.rounds:
        return direct
    root = contract.at("rstd", machine.sqrt(variance), kind)
    return direct.hull(contract.at("rstd", machine.reciprocal(root), kind))


def points(case: Case) -> tuple[str, ...]:
    """Rounding points that this call has."""
    norm = ("square", "variance", "rstd", "normalised", "weighted")
    if case.tensor("gate") is None:
        return norm
    return (*norm, "act") if case.flag("norm_before_gate") else (*norm, "act", "gated")


def outputs(case: Case) -> tuple[Output, ...]:
    """One output: y in x's shape and dtype."""
    x = case.tensors[0][1]
    return (Output("y", x.shape, getattr(torch, x.dtype)),)


def complete(assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
    """A call with the assignment's levels; sizes, amounts and seed from ``rng``."""
    n, group = _widths(assignment, rng, scope)
    count = rows(assignment["rows"], rng, scope, n)
    shape = (*leading(count, int(assignment["rank"]), rng), n)
    x_values, gate_values, weight_values = VALUES[assignment["values"]]
    tensors = [("x", TensorSpec(shape, scope.dtype, layout(assignment["x_layout"], rng), x_values))]
    if assignment["gate"] != "none":
        dtype = scope.dtype if assignment["gate"] == "same" else _other(scope.dtype, rng)
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
    n = width(assignment["width"], rng, scope)
    if assignment["group"] == "none":
        return n, None
    if assignment["group"] == "whole":
        return n, n
    count = rng.choice((2, 3, 4))
    return n * count, n


def _other(dtype: str, rng: random.Random) -> str:
    return rng.choice([name for name in DTYPES if name != dtype])


def empties(scope: Scope) -> tuple[Case, ...]:
    """Calls without a single element: no rows, no heads, no columns; contiguous and not."""
    shapes = ((0, 128), (0, 4, 128), (3, 0, 128), (0,), (4, 0), (2, 0, 3, 96))
    base = complete(PLAIN, random.Random(0), scope)  # noqa: S311
    cases = []
    for shape in shapes:
        for kind in ("contiguous", "row_gap", "expanded"):
            x = TensorSpec(shape, scope.dtype, Layout(kind, 0))
            gate = replace(x, values="gate")
            case = base.with_tensor("x", x).with_tensor("gate", gate)
            case = case.with_tensor("weight", TensorSpec(shape[-1:], scope.dtype, values="weight"))
            cases += [case, case.with_tensor("gate", None)]
    return tuple(cases)


def model_case(shape: ModelShape, tokens: int) -> Case:
    """The call of a real model: x and gate as slices of one projection where it has heads."""
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
    """Plain layouts, flags and dtypes; fewer dimensions, rows and columns; ordinary values."""
    yield from plainer_layouts(case)
    yield from plainer_flags(case, {"group_size": None, "norm_before_gate": True, "activation": "silu"})
    if case.tensor("gate") is not None:
        yield case.with_tensor("gate", None)
    for name in ("gate", "weight"):
        spec = case.tensor(name)
        if spec is not None and spec.dtype != case.dtype:
            yield case.with_tensor(name, replace(spec, dtype=case.dtype))
    yield from _smaller_shapes(case)
    yield from plainer_values(case, {"x": "normal", "gate": "gate", "weight": "weight"})


def _smaller_shapes(case: Case) -> Iterator[Case]:
    *leading_sizes, n = case.tensors[0][1].shape
    group = case.flag("group_size")
    if len(leading_sizes) > 1:
        yield _resized(case, (case.rows, n), group)
    if leading_sizes and case.rows == 1:
        yield _resized(case, (n,), group)
    for place, size in enumerate(leading_sizes):
        for fewer in smaller(size):
            sizes = (*leading_sizes[:place], fewer, *leading_sizes[place + 1 :])
            yield _resized(case, (*sizes, n), group)
    if group is None:
        for fewer in smaller(n):
            yield _resized(case, (*leading_sizes, fewer), None)
        return
    for fewer in smaller(n // group):
        yield _resized(case, (*leading_sizes, fewer * group), group)
    for narrower in smaller(group):
        yield _resized(case, (*leading_sizes, n // group * narrower), narrower)


def _resized(case: Case, shape: tuple[int, ...], group: int | None) -> Case:
    for name, spec in case.tensors:
        size = shape[-1:] if name == "weight" else shape
        case = case.with_tensor(name, replace(spec, shape=size))
    focus = None if case.focus is None else min(case.focus, max(case.rows - 1, 0))
    return replace(case.with_flag("group_size", group), focus=focus)


PLAIN = {name: levels[0] for name, levels in FACTORS.items()}


def _gate_of_another_shape(call: Arguments) -> Arguments:
    return {**call, "gate": call["gate"][..., :-1]}


def _gate_that_broadcasts(call: Arguments) -> Arguments:
    gate = call["gate"]
    return {**call, "gate": gate.reshape(-1, gate.shape[-1])[0].expand(*(1,) * (gate.dim() - 1), -1)}


def _gate_of_integers(call: Arguments) -> Arguments:
    return {**call, "gate": torch.ones_like(call["gate"], dtype=torch.int32)}


def _integers(call: Arguments) -> Arguments:
    return {**call, "x": torch.ones_like(call["x"], dtype=torch.int32)}


def _a_scalar(call: Arguments) -> Arguments:
    return {**call, "x": call["x"].new_ones(()), "gate": call["x"].new_ones(())}


def _weight_too_long(call: Arguments) -> Arguments:
    return {**call, "weight": torch.cat([call["weight"], call["weight"]])}


def _weight_of_one(call: Arguments) -> Arguments:
    return {**call, "weight": call["weight"][:1]}


def _weight_per_row(call: Arguments) -> Arguments:
    return {**call, "weight": call["x"].to(call["weight"].dtype)}


def _group_does_not_divide(call: Arguments) -> Arguments:
    return {**call, "group_size": call["x"].shape[-1] - 1}


def _group_of_nothing(call: Arguments) -> Arguments:
    return {**call, "group_size": 0}


def _negative_group(call: Arguments) -> Arguments:
    return {**call, "group_size": -call["x"].shape[-1]}


def _unknown_activation(call: Arguments) -> Arguments:
    return {**call, "activation": "tanh"}


INVALID = {
    "gate of another shape": _gate_of_another_shape,
    "gate that would broadcast": _gate_that_broadcasts,
    "gate of integers": _gate_of_integers,
    "x of integers": _integers,
    "x without a dimension": _a_scalar,
    "weight too long": _weight_too_long,
    "weight of one element": _weight_of_one,
    "weight with rows": _weight_per_row,
    "group size that does not divide": _group_does_not_divide,
    "group size zero": _group_of_nothing,
    "negative group size": _negative_group,
    "unknown activation": _unknown_activation,
}

RMS_NORM_GATED = Operation(
    name="rms_norm_gated",
    positional=("x", "gate", "weight"),
    row_tensors=frozenset({"x", "gate"}),
    factors=FACTORS,
    complete=complete,
    outputs=outputs,
    formula=formula,
    points=points,
    invalid=INVALID,
    ordinary=("normal", "rows", "constant", "large", "wide_gate"),
    # a product with a float32 operand is not rounded, whatever the contract says
    telling={"weight": ("same",), "gate": ("same",), "group": ("none", "whole")},
    empties=empties,
    model_case=model_case,
    simpler=simpler,
)
