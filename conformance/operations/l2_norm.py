"""Rows divided by their length: ``x * rsqrt(sum(x**2) + eps)``, as attention takes q and k.

eps stands under the root. ``x / max(length, eps)``, as ``F.normalize`` has it, is another operation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations.inverse_rms import inverse_root
from conformance.operations.operation import Scaling
from conformance.operations.row_calls import EPSILON, RowCalls, below_eps, row_operation
from conformance.operations.tensors import Rows
from conformance.operations.term import Term, Values, lacking, without_flag, without_last_column
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

ORDINARY = ("normal", "rows", "small", "constant", "large")
# the profile of x by level; the ordinary ones first
VALUES = {name: (name,) for name in (*ORDINARY, "specials", "subnormal", "huge")}
# all of them grow with the square of the input, or its inverse
ROUNDS = (Point("square", scales=True), Point("total", scales=True), Point("rstd", scales=True))


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. x is ``(rows, n)``."""
    x, additions = given["x"], contract.additions(given["x"].shape[-1])
    stream = Interval.exactly(x)
    squares = contract.at("square", machine.square(stream), x.dtype)
    summed = dict(case.flags).get("summed", True)
    total = machine.total(squares, additions) if summed else machine.mean(squares, additions)
    rstd = inverse_root(machine, contract, total, case.flag("eps"), x.dtype, point="total")
    return {"y": machine.product(stream, rstd)}


def _with_mean(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Divide the sum by n, as an RMSNorm does: no value of an argument does."""
    return None if case.tensors[0][1].shape[-1] == 1 else lacking("summed")(case, values)


L2_NORM = row_operation(
    RowCalls("l2_norm", (Rows("x"),), VALUES, (EPSILON,)),
    formula=formula,
    rounds=ROUNDS,
    points=lambda _: tuple(point.name for point in ROUNDS),
    ordinary=ORDINARY,
    terms=(
        Term("sum", _with_mean),
        Term("eps", without_flag("eps", 0.0), made=below_eps),
        Term("last column", without_last_column("x"), elsewhere=True),
    ),
    in_place={"y": "x"},
    one_factor=True,
    # a factor of the input is divided out, if eps follows its square
    scaling=Scaling({"x": 1, "eps": 2}, {"y": 0}),
)
