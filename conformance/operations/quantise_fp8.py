"""Dynamic quantisation to fp8, as ``rms_norm_fp8`` has it behind its norm: ``values, scales``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations.fp8_outputs import fp8_operation
from conformance.operations.row_calls import RowCalls, row_operation
from conformance.operations.tensors import Rows
from conformance.operations.term import Term, without_last_column
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract
from conformance.oracle.interval import Interval

ORDINARY = ("normal", "rows", "constant", "large", "fp8_ties")
# the profile of x by level; the ordinary ones first
VALUES = {name: (name,) for name in (*ORDINARY, "specials", "subnormal", "huge")}
LARGEST = 448.0  # of e4m3fn: every group that has this number has the scale one


def fp8_ties(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers halfway between two of e4m3fn's, and its largest in every second column."""
    odd = 2.0 * torch.randint(8, 16, (rows, n), generator=generator) + 1.0
    power = torch.randint(-9, 4, (rows, n), generator=generator)
    values = torch.ldexp(odd, power) * (2.0 * torch.randint(2, (rows, n), generator=generator) - 1.0)
    values[:, ::2] = LARGEST
    return values


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return x, which is quantised as it is."""
    return {"y": Interval.exactly(given["x"])}


_X = row_operation(
    RowCalls("x", (Rows("x"),), VALUES),
    formula=formula,
    rounds=(),
    points=lambda _: (),
    ordinary=ORDINARY,
    terms=(Term("last column", without_last_column("x"), elsewhere=True),),
    profiles={"fp8_ties": fp8_ties},
    # a factor of x is one of its scales, but for the floor under the magnitude: no relation holds for all rows
)

QUANTISE_FP8 = fp8_operation("quantise_fp8", _X, beside=False)
