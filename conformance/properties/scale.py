"""A power of two on the arguments comes out as the power that the formula makes of it, to the bit.

Binary floating point multiplies by two exactly, so every sum, product, quotient and root of the formula scales
along, and so does every rounding; unless something overflows, underflows, or depends on more than the formula.
"""

from __future__ import annotations

import math

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, Operation
from conformance.oracle.bits import same_bits
from conformance.properties.property import Fixed, Property, contiguous, narrowed

# 2**-10 of the smallest drawn number still has a square, and an eps, far above 2**-126
EXPONENTS = (-10, -3, 5, 10)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with the case's arguments and with scaled ones; the outputs must be the same but for the scale."""
    scaled_points = {point.name for point in OPERATIONS[case.operation].rounds if point.scales}
    if case.dtype == "float16" and subject.contract(case.operation).rounds & scaled_points:
        reason = "the contract rounds in float16 what scales: its range is too narrow"
        return (Verdict("scale", case, Status.NOT_JUDGED, reason),)
    scaling = OPERATIONS[case.operation].scaling
    assert scaling is not None
    values = values_for(subject, case)
    exponent = exponent_of(case)
    scaled = dict(values)
    changed = case
    for name, power in scaling.arguments.items():
        if name in values:
            scaled[name] = values[name] * 2.0 ** (exponent * power)
        elif name in dict(case.flags):
            changed = changed.with_flag(name, case.flag(name) * 2.0 ** (exponent * power))
    results = []
    for call, given in ((case, values), (changed, scaled)):
        made = perform(subject, call, given)
        if not isinstance(made.outcome, Ran):
            return (without_outputs("scale", case, made.outcome),)
        results.append(made.outcome.outputs)
    for want, a, b in zip(OPERATIONS[case.operation].outputs(case), *results, strict=True):
        if not _same(a, b, exponent * scaling.outputs[want.name]):
            reason = f"{want.name} has other bits where the arguments are scaled by 2**{exponent}"
            return (Verdict("scale", case, Status.FAILED, reason),)
    return (Verdict("scale", case, Status.PASSED),)


def _same(plain: torch.Tensor, scaled: torch.Tensor, exponent: int) -> bool:
    """Return whether both have the same bits but for the exponent, where both are normal numbers."""
    if not exponent:
        return same_bits(plain, scaled)
    factor, least = 2.0**exponent, torch.finfo(plain.dtype).smallest_normal
    a, b = plain.abs(), scaled.abs()
    # below the normal range a store has fewer bits; it may have rounded up to the least normal number
    rounded = (torch.minimum(a, b) <= least) & (torch.maximum(a, b) <= least * max(factor, 1 / factor))
    return same_bits((plain * factor).masked_fill(rounded, 0), scaled.masked_fill(rounded, 0))


def exponent_of(case: Case) -> int:
    """Return the power of two for a case: one that loses no bit of the scaled numbers."""
    if case.dtype != "float16":
        return EXPONENTS[case.seed % len(EXPONENTS)]
    # scaling down loses bits to float16's subnormals; scaling up must leave range for the sum of two
    values = values_of(case)
    scaling = OPERATIONS[case.operation].scaling
    assert scaling is not None
    largest = max(float(values[name].abs().amax()) for name in scaling.arguments if name in values)
    return max(1, min(4, math.floor(math.log2(torch.finfo(torch.float16).max / max(largest, 1.0))) - 1))


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.traits(operation).scale_invariant else "the adapter does not declare it"


def _void(operation: Operation) -> str:
    return "" if operation.scaling else "the operation states no relation of scales"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels: contiguous tensors of one dtype with finite values that can be scaled."""
    return narrowed(
        operation, contiguous(operation), (("values", ("normal", "rows")),), tuple(operation.telling.items())
    )


SCALE = Property(
    "scale",
    "arguments scaled by a power of two give the same bits, scaled as the formula says",
    judge,
    fixed=fixed,
    cannot=_cannot,
    void=_void,
)
