"""RMSNorm with a residual: ``s = x + residual``, ``y = s * rsqrt(mean(s**2) + eps) * (offset + weight)``.

``s`` is rounded to x's dtype when it is stored; whether the norm is taken of the rounded or of the exact sum is
the rounding point ``sum``. Gemma's norm is this operation with an offset of one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from conformance.cases.case import BESIDE, LAYOUTS, Case, Flag, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Factors, Scope, layout, leading, rows, width
from conformance.cases.shrink import plainer_flags, plainer_layouts, plainer_values
from conformance.operations.inverse_rms import STATISTICS, inverse_rms
from conformance.operations.operation import Operation, Output, Scaling
from conformance.operations.row_calls import (
    EPS,
    WRONG_WEIGHTS,
    WRONG_X,
    below_eps,
    empty_calls,
    other_dtype,
    plainer_dtypes,
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

# profiles of x, residual and weight by level; the ordinary ones first
VALUES = {
    "normal": ("normal", "normal", "weight"),
    "rows": ("rows", "rows", "weight"),
    "constant": ("constant", "constant", "weight"),
    "large": ("large", "normal", "weight"),
    "large_residual": ("normal", "large", "weight"),
    "specials": ("specials", "specials", "weight"),
    "special_weight": ("normal", "normal", "special_weight"),
    "specials_everywhere": ("specials", "normal", "special_weight"),
    "subnormal": ("subnormal", "subnormal", "weight"),
    "huge": ("huge", "huge", "weight"),
}
ORDINARY = ("normal", "rows", "constant", "large", "large_residual")

# the last one is negative and in no binary format
OFFSETS = {"zero": 0.0, "one": 1.0, "minus_a_tenth": -0.1}
FACTORS: Factors = {
    "offset": tuple(OFFSETS),
    "rank": ("2", "1", "3", "4"),
    "residual": ("same", "none", "other"),
    "residual_layout": BESIDE,
    "rows": ("few", "one", "many"),
    "values": tuple(VALUES),
    "weight": ("same", "float32", "none"),
    "weight_layout": ("contiguous", "offset", "step", "expanded"),
    "width": ("tile", "narrow", "edge", "odd", "wide"),
    "x_layout": LAYOUTS,
}
GEMMA = 1.0  # the offset of gemma_rms_norm, which has no argument for it


def offset_of(case: Case) -> float:
    """Return the number that is added to the weight."""
    offset: float = case.flag("weight_offset") if "weight_offset" in dict(case.flags) else GEMMA
    return offset


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of ``s`` (with a residual) and ``y`` before their stores.

    Where the contract rounds the sum, y is judged given the ``s`` that was returned.
    """
    x, residual = given["x"], given.get("residual")
    stream = Interval.exactly(x)
    outputs = {}
    if residual is not None:
        outputs["s"] = contract.at("sum", machine.add(stream, Interval.exactly(residual)), x.dtype)
        returned = given.get("s") if "sum" in contract.rounds else None
        stream = outputs["s"] if returned is None else Interval.exactly(returned)
    inv_rms = inverse_rms(machine, contract, stream, case.flag("eps"), x.dtype)
    factors = contract.settle("normalised", machine, (stream, inv_rms), x.dtype)
    scale, kind = _scale(machine, contract, given.get("weight"), offset_of(case), x)
    factors = contract.settle("weighted", machine, (*factors, *scale), torch.promote_types(x.dtype, kind))
    return {**outputs, "y": machine.product(*factors)}


def _scale(
    machine: Machine, contract: Contract, weight: torch.Tensor | None, offset: float, x: torch.Tensor
) -> tuple[tuple[Interval, ...], torch.dtype]:
    """Return ``offset + weight`` and its dtype: computed in float32 unless the contract rounds there."""
    if weight is None and offset == 0.0:
        return (), x.dtype
    given = Interval.exactly(x.new_ones(x.shape[-1:]) if weight is None else weight)
    if offset == 0.0:
        return (given,), x.dtype if weight is None else weight.dtype
    dtype = x.dtype if weight is None else weight.dtype
    # kernels take the offset as float32
    added = machine.add(given, Interval.exactly(torch.tensor(offset, dtype=torch.float32, device=x.device)))
    return (contract.at("offset", added, dtype),), dtype if "offset" in contract.rounds else torch.float32


def _without_offset(case: Case, values: Values) -> tuple[Case, Values] | None:
    if offset_of(case) == 0.0:
        return None
    flags = {**dict(case.flags), "weight_offset": 0.0}
    return replace(case, flags=tuple(flags.items())), values


# one call for both
_OFFSET = {"offset": "one"}
TERMS = (
    Term("eps", without_flag("eps", 0.0), levels=_OFFSET, made=below_eps),
    Term("weight", with_ones("weight"), outputs=("y",)),
    Term("offset", _without_offset, outputs=("y",), levels=_OFFSET, made=below_eps),
    Term("residual", without_tensor("residual"), outputs=("y",)),
    Term("last column", without_last_column("x", "residual"), outputs=("y",), elsewhere=True),
)


ROUNDS = (Point("sum"), Point("offset"), *STATISTICS, Point("normalised"), Point("weighted"))


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call. Rounding the weighted value is its store."""
    norm = ("square", "variance", "rstd", "normalised")
    offset = () if offset_of(case) == 0.0 else ("offset",)
    return (*norm, *offset) if case.tensor("residual") is None else (*norm, *offset, "sum")


def outputs(case: Case) -> tuple[Output, ...]:
    """Return the outputs: y, and s with a residual, both in x's shape and dtype."""
    x = case.tensors[0][1]
    names = ("y",) if case.tensor("residual") is None else ("y", "s")
    return tuple(Output(name, x.shape, getattr(torch, x.dtype)) for name in names)


def complete(name: str, assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
    """Return a call with the assignment's levels; sizes, amounts and seed from ``rng``."""
    n = width(assignment["width"], rng, scope)
    count = rows(assignment["rows"], rng, scope, n)
    shape = (*leading(count, int(assignment["rank"]), rng), n)
    x_values, residual_values, weight_values = VALUES[assignment["values"]]
    tensors = [("x", TensorSpec(shape, scope.dtype, layout(assignment["x_layout"], rng), x_values))]
    if assignment["residual"] != "none":
        dtype = scope.dtype if assignment["residual"] == "same" else other_dtype(scope.dtype, rng)
        place = layout(assignment["residual_layout"], rng)
        place = Layout("shared", 1) if place.kind == "shared" else place
        tensors.append(("residual", TensorSpec(shape, dtype, place, residual_values)))
    if assignment["weight"] != "none":
        dtype = scope.dtype if assignment["weight"] == "same" else "float32"
        place = layout(assignment["weight_layout"], rng)
        tensors.append(("weight", TensorSpec((n,), dtype, place, weight_values)))
    flags: dict[str, Flag] = {"eps": rng.choice(EPS)}
    if "offset" in assignment:
        flags["weight_offset"] = OFFSETS[assignment["offset"]]
    return Case(name, tuple(tensors), tuple(flags.items()), rng.randrange(2**32))


def model_case(name: str, shape: ModelShape, tokens: int) -> Case:
    """Return the norm between two layers of a real model."""
    flags = dict(shape.flags)
    tensors = [("x", TensorSpec(shape.shape(tokens), shape.dtype, values="rows"))]
    if flags.pop("residual", True):
        tensors.append(("residual", TensorSpec(shape.shape(tokens), shape.dtype, values="rows")))
    tensors.append(("weight", TensorSpec((shape.head_dim,), shape.dtype, values="weight")))
    if name == "rms_norm":
        flags.setdefault("weight_offset", 0.0)
    return Case(name, tuple(tensors), tuple({**flags, "eps": shape.eps}.items()), tokens)


def simpler(case: Case) -> Iterator[Case]:
    """Yield cases with plain layouts, flags and dtypes; fewer dimensions, rows and columns; ordinary values."""
    yield from plainer_layouts(case)
    if "weight_offset" in dict(case.flags):
        yield from plainer_flags(case, {"weight_offset": 0.0})
    if case.tensor("residual") is not None:
        yield case.with_tensor("residual", None)
    yield from plainer_dtypes(case)
    yield from smaller_shapes(case)
    yield from plainer_values(case, {"x": "normal", "residual": "normal", "weight": "weight"})


def norm_operation(name: str, factors: Factors) -> Operation:
    """Return the operation of a name, with an offset that the caller chooses or without one."""
    completed = partial(complete, name)
    plain = {factor: levels[0] for factor, levels in factors.items()}

    def empties(scope: Scope) -> tuple[Case, ...]:
        return tuple(empty_calls(completed(plain, random.Random(0), scope), "residual"))  # noqa: S311

    return Operation(
        name=name,
        positional=("x", "weight"),
        keywords=("residual",),
        row_tensors=frozenset({"x", "residual", "s"}),
        factors=factors,
        complete=completed,
        outputs=outputs,
        formula=formula,
        rounds=ROUNDS,
        points=points,
        invalid={**wrong_companion("residual"), **WRONG_X, **WRONG_WEIGHTS},
        ordinary=ORDINARY,
        # a product with a float32 operand is not rounded, even if the contract rounds there
        telling={"weight": ("same",), "residual": ("same",)},
        terms=TERMS,
        empties=empties,
        model_case=partial(model_case, name),
        simpler=simpler,
        in_place={"y": "x", "s": "residual"},
        # a norm divides out a factor of its input, if eps follows the square of the factor
        scaling=Scaling({"x": 1, "residual": 1, "eps": 2}, {"y": 0, "s": 1}),
        carried={"s": "residual"},
    )


RMS_NORM = norm_operation("rms_norm", FACTORS)
