"""RMSNorm with a residual, quantised to int8, symmetrically and per row: ``values, scales[, s]``.

``scale = max(largest magnitude, 1e-10) / 127`` of the norm's y, ``values = y / scale``, rounded half to even and
within 127 of zero. A kernel may divide, or multiply by a reciprocal. Rounding points are those of the norm and
``unquantised``, which rounds y to x's dtype before it is measured.

Special numbers. No integer stands for NaN: where a quotient is NaN, as that of an infinity or by a scale that is
NaN, any integer is right, and the scale shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from conformance.cases.case import Case
from conformance.operations import rms_norm
from conformance.operations.fp8_outputs import scaled, seen_in_values
from conformance.operations.operation import Output
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

LARGEST = 127.0
# the norm's profiles of x, residual and weight by level, and one more
VALUES = {**rms_norm.VALUES, "int8_ties": ("signs", "zeros", "int8_ties")}
ORDINARY = (*rms_norm.ORDINARY, "int8_ties")


def signs(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw ones of both signs, whose norm is their weight."""
    return 2.0 * torch.randint(2, (rows, n), generator=generator) - 1.0


def zeros(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Return zeros, which leave a sum as it is."""
    return torch.zeros((rows, n))


def int8_ties(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers halfway between two integers, and the largest first: the scale is one."""
    values = torch.randint(-127, 127, (rows, n), generator=generator) + 0.5
    values[:, 0] = LARGEST
    return values


_NORM = rms_norm.norm_operation("rms_norm_int8", ("same", "float32", "none"), values=VALUES, ordinary=ORDINARY)


def _with_offset(case: Case) -> Case:
    """Return the norm's case, whose weight has an offset."""
    return replace(case, flags=(*case.flags, ("weight_offset", 0.0)))


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of ``values``, ``scales`` and (with a residual) ``s`` before their stores."""
    before = _NORM.formula(machine, contract, given, _with_offset(case))
    quantised = scaled(machine, contract, before.pop("y"), given, None, LARGEST)
    values = quantised["values"]
    unknown = values.nan | values.lo.isnan()
    lo = torch.where(unknown, -LARGEST - 1, values.lo.clamp(-LARGEST, LARGEST))
    hi = torch.where(unknown, LARGEST, values.hi.clamp(-LARGEST, LARGEST))
    return {**before, "values": Interval(lo, hi, torch.zeros_like(unknown)), "scales": quantised["scales"]}


def outputs(case: Case) -> tuple[Output, ...]:
    """Return the outputs: values in x's shape, a scale per row, and s with a residual."""
    shape = case.tensors[0][1].shape
    others = (output for output in _NORM.outputs(case) if output.name != "y")
    return (Output("values", shape, torch.int8), Output("scales", (*shape[:-1], 1), torch.float32), *others)


assert _NORM.scaling is not None
RMS_NORM_INT8 = replace(
    _NORM,
    formula=formula,
    outputs=outputs,
    rounds=(*(point for point in _NORM.rounds if point.name != "offset"), Point("unquantised")),
    points=lambda case: (*_NORM.points(_with_offset(case)), "unquantised"),
    terms=tuple(seen_in_values(term) for term in _NORM.terms if term.name != "offset"),
    profiles={"signs": signs, "zeros": zeros, "int8_ties": int8_ties},
    # values and scales have no argument of their dtype to overwrite
    in_place={"s": "residual"},
    # scales follow y, which no factor changes
    scaling=replace(_NORM.scaling, outputs={"values": 0, "scales": 0, "s": 1}),
)
