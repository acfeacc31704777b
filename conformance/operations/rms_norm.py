"""RMSNorm with a residual: ``s = x + residual``, ``y = s * rsqrt(mean(s**2) + eps) * (offset + weight)``.

``s`` is rounded to x's dtype when it is stored; whether the norm is taken of the rounded or of the exact sum is
the rounding point ``sum``. Gemma's norm is this operation with an offset of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case
from conformance.cases.corpus import ModelShape
from conformance.operations.inverse_rms import STATISTICS, inverse_rms
from conformance.operations.operation import Operation, Output, Scaling
from conformance.operations.row_calls import EPSILON, RowCalls, Setting, below_eps, row_operation
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
    scale, kind = scale_of(machine, contract, given.get("weight"), offset_of(case), x)
    factors = contract.settle("weighted", machine, (*factors, *scale), torch.promote_types(x.dtype, kind))
    return {**outputs, "y": machine.product(*factors)}


def scale_of(
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
    added = machine.add(given, Interval.single(offset, x.device))
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


def norm_operation(
    name: str,
    weights: tuple[str, ...],
    *settings: Setting,
    values: Mapping[str, tuple[str, ...]] = VALUES,
    ordinary: tuple[str, ...] = ORDINARY,
) -> Operation:
    """Return the operation of a name; its weight has these dtypes, and an offset may be among its settings."""
    calls = RowCalls(
        name,
        (Rows("x"), Beside("residual", ("same", "none", "other"), keyword=True), Columns("weight", weights)),
        values,
        (EPSILON, *settings),
    )

    def model_case(shape: ModelShape, tokens: int) -> Case:
        flags = dict(shape.flags)
        between_layers = flags.pop("residual", True)
        case = calls.model_case(replace(shape, flags=tuple(flags.items())), tokens)
        return case if between_layers else case.with_tensor("residual", None)

    return row_operation(
        calls,
        outputs=outputs,
        formula=formula,
        rounds=ROUNDS,
        points=points,
        ordinary=ordinary,
        terms=TERMS,
        model_case=model_case,
        row_tensors=frozenset({"x", "residual", "s"}),
        in_place={"y": "x", "s": "residual"},
        # a norm divides out a factor of its input, if eps follows the square of the factor
        scaling=Scaling({"x": 1, "residual": 1, "eps": 2}, {"y": 0, "s": 1}),
        carried={"s": "residual"},
    )


RMS_NORM = norm_operation("rms_norm", ("same", "float32", "none"), Setting("weight_offset", OFFSETS, "offset"))
