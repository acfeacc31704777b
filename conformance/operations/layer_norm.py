"""LayerNorm: ``(x - mean(x)) * rsqrt(variance(x) + eps) * weight + bias``, the variance over n.

The variance may be of two passes, or of a running mean where the adapter declares it. One pass over the numbers
and their squares, ``mean(x**2) - mean(x)**2``, is wrong in rows whose mean is far larger than their spread.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations.inverse_rms import STATISTICS, inverse_root
from conformance.operations.operation import Scaling
from conformance.operations.row_calls import EPSILON, RowCalls, below_eps, by_profile, row_operation
from conformance.operations.tensors import Columns, Rows
from conformance.operations.term import Term, lacking, with_ones, without_flag, without_last_column, without_tensor
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

ORDINARY = ("normal", "rows", "constant", "shifted", "large")
# profiles of x, weight and bias by level; the ordinary ones first
PLAIN = ("weight", "normal")
VALUES = {
    **by_profile(PLAIN, *ORDINARY, "specials"),
    "special_weight": ("normal", "special_weight", "normal"),
    "special_bias": ("normal", "weight", "special_weight"),
    **by_profile(PLAIN, "subnormal", "huge"),
}
# deviations from the mean of a row, relative to it, and the number of columns that share one
DEVIATIONS = ((2.0**-3, 1), (2.0**-7, 32), (2.0**-7, 256))

CENTRING = (Point("mean", scales=True), Point("centred", scales=True))
ROUNDS = (*CENTRING, *STATISTICS, Point("normalised"), Point("weighted"))


def shifted(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows whose mean is far larger than their spread: few columns differ from all others."""
    values = torch.randn((rows, n), generator=generator)
    mean = torch.exp2(8.0 * torch.rand((rows, 1), generator=generator)) * values[:, :1].sign()
    places = torch.randint(256, (rows, n), generator=generator)
    places[:, 0] = 0
    for kind, (scale, columns) in enumerate(DEVIATIONS):
        values[kind :: len(DEVIATIONS)] *= scale * (places[kind :: len(DEVIATIONS)] % columns == 0)
    return mean * (1.0 + values)


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. x is ``(rows, n)``, weight and bias ``(n,)``."""
    x, weight, bias = given["x"], given.get("weight"), given.get("bias")
    stream, additions = Interval.exactly(x), contract.additions(x.shape[-1])
    if dict(case.flags).get("subtract_mean", True):
        mean = contract.at("mean", machine.signed_mean(stream, additions), x.dtype)
        centred = contract.at("centred", machine.deviation(stream, mean), x.dtype)
        variance = machine.variance(stream, mean, additions)
    else:
        centred, variance = stream, machine.mean(machine.square(stream), additions)
    if {"centred", "square"} & contract.rounds:
        variance = machine.mean(contract.at("square", machine.square(centred), x.dtype), additions)
    rstd = inverse_root(machine, contract, variance, case.flag("eps"), x.dtype)
    factors = contract.settle("normalised", machine, (centred, rstd), x.dtype)
    if weight is not None:
        kind = torch.promote_types(x.dtype, weight.dtype)
        factors = contract.settle("weighted", machine, (*factors, Interval.exactly(weight)), kind)
    y = machine.product(*factors)
    return {"y": y if bias is None else machine.add(y, Interval.exactly(bias))}


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call. Rounding what comes last is its store."""
    later = [name for name in ("weight", "bias") if case.tensor(name) is not None]
    last = {0: (), 1: ("normalised",), 2: ("normalised", "weighted")}[len(later)]
    return ("mean", "centred", "square", "variance", "rstd", *last)


LAYER_NORM = row_operation(
    RowCalls(
        "layer_norm",
        (Rows("x"), Columns("weight", ("same", "float32", "none")), Columns("bias", ("same", "float32", "none"))),
        VALUES,
        (EPSILON,),
    ),
    formula=formula,
    rounds=ROUNDS,
    points=points,
    ordinary=ORDINARY,
    terms=(
        Term("mean", lacking("subtract_mean")),
        Term("eps", without_flag("eps", 0.0), made=below_eps),
        Term("weight", with_ones("weight")),
        Term("bias", without_tensor("bias")),
        Term("last column", without_last_column("x"), elsewhere=True),
    ),
    in_place={"y": "x"},
    # a factor of the input is divided out, if eps follows its square
    scaling=Scaling({"x": 1, "eps": 2}, {"y": 0}),
    profiles={"shifted": shifted},
)
