"""SwiGLU's product: ``silu(gate) * up``, both halves of one projection or apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.operations.operation import Scaling
from conformance.operations.row_calls import RowCalls, row_operation
from conformance.operations.tensors import Beside, Rows
from conformance.operations.term import Term, lacking, with_ones, without_last_column
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

# profiles of gate and up by level; the ordinary ones first
VALUES = {
    "normal": ("gate", "normal"),
    "rows": ("rows", "normal"),
    "large": ("gate", "large"),
    "wide_gate": ("wide_gate", "normal"),
    "specials": ("specials", "specials"),
    "special_up": ("gate", "specials"),
    "subnormal": ("subnormal", "normal"),
    "huge": ("huge", "huge"),
}
CALLS = RowCalls("silu_and_mul", (Rows("gate"), Beside("up", ("same", "other"))), VALUES)


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. gate and up are ``(rows, n)``."""
    gate = Interval.exactly(given["gate"])
    if dict(case.flags).get("activation") == "sigmoid":
        act = machine.sigmoid(gate)
    else:
        act = contract.at("act", machine.silu(gate), given["gate"].dtype)
    return {"y": machine.product(act, Interval.exactly(given["up"]))}


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: gate and up are halves of one projection."""
    n = shape.head_dim
    halves = (TensorSpec((tokens, n), shape.dtype, Layout("slice", start, 2 * n), "gate") for start in (0, n))
    gate, up = halves
    return Case("silu_and_mul", (("gate", gate), ("up", replace(up, values="normal"))), (), tokens)


SILU_AND_MUL = row_operation(
    CALLS,
    formula=formula,
    rounds=(Point("act"),),
    points=lambda _: ("act",),
    ordinary=("normal", "rows", "large", "wide_gate"),
    terms=(
        Term("activation", lacking("activation", value="sigmoid")),
        Term("gate", with_ones("gate")),
        Term("up", with_ones("up")),
        Term("last column", without_last_column("gate", "up")),
    ),
    model_case=model_case,
    in_place={"y": "gate"},
    # the product is linear in up alone
    scaling=Scaling({"up": 1}, {"y": 1}),
)
