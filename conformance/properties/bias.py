"""Rounding errors cancel: their signed mean is zero, within what chance and the contract allow.

The error of an output, in units of its last place and measured from the middle of its interval before the store,
has two parts. The first is the distance of the stored number from the middle: at most the half width, so on
average at most the mean of the half widths. The second is the rounding at the store: rounding to nearest keeps
it within ±1/2, with mean zero over numbers whose low bits are arbitrary. The mean of N such errors passes ``b``
with a probability of at most ``2 exp(-2 N b**2)`` (Hoeffding's inequality), so that ``b = sqrt(ln(2 / CHANCE) /
(2 N))``. Large tensors repeat rows, whose errors are the same: N counts rows that differ. Truncation has a mean
of one half towards zero, and every tolerance accepts it.
"""

from __future__ import annotations

import math
import random

from conformance.adapter import Ran
from conformance.calls.call import Subject, metadata, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.cases.values import independent
from conformance.operations import OPERATIONS, Operation
from conformance.operations.rows import row_tensors
from conformance.oracle.comparison import Errors
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, contiguous, narrowed, several_rows

# probability, per case, of calling a right implementation biased
CHANCE = 1e-12
# ulp; with a wider bound half of a truncation would pass
TELLING = 0.25


# points whose results are multiplied or added in low precision, before the store
COARSE = frozenset({"normalised", "weighted", "act", "gated", "turned", "angle"})


def telling(case: Case) -> frozenset[str]:
    """Return the outputs whose errors are added up, by name: those of 16 bits.

    Before a store in float32 a contract allows a larger error than a truncation makes. There are so few numbers
    of 8 bits that right rounding leans with the density of the rounded numbers; the bound of a single element is
    narrow.
    """
    return frozenset(out.name for out in OPERATIONS[case.operation].outputs(case) if out.dtype.itemsize == 2)


def share_of_different(case: Case) -> float:
    """Return the share of a call's rows that count as different: of the tensor that repeats its rows most."""
    names = row_tensors(case)
    shapes = [spec.shape for name, spec in case.tensors if name in names and "float" in spec.dtype]
    rows = [(math.prod(shape[:-1]), shape[-1]) for shape in shapes if all(shape)]
    return min((independent(count, n) / count for count, n in rows), default=1.0)


def bound(errors: Errors, share: float = 1.0) -> float:
    """Return the bound, in ulp, on the mean error of a right implementation, a ``share`` of whose rows differ."""
    if not errors.count:
        return math.inf
    return errors.half / errors.count + math.sqrt(math.log(2 / CHANCE) / (2 * share * errors.count))


def leaning(errors: Errors, share: float = 1.0) -> str:
    """Return which way outputs lean, and by how much, or nothing."""
    for total, way in ((errors.up, "upwards"), (errors.away, "away from zero")):
        mean, most = total / max(errors.count, 1), bound(errors, share)
        if abs(mean) > most:
            said = f"the mean error {way} is {mean:+.4f} ulp over {errors.count} elements"
            return f"{said}, must be within ±{most:.4f}"
    return ""


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call once, and add up the signed errors of all elements."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("bias", case, made.outcome),)
    wrong = metadata(subject, case, made.outcome.outputs)
    if wrong:
        return (Verdict("bias", case, Status.FAILED, f"nothing to compare: {wrong}"),)
    contract = subject.contract(case.operation)
    values = values_for(subject, case)
    errors = measure(subject, contract, case, values, made.outcome.outputs, signed=telling(case)).errors
    share = share_of_different(case)
    wrong = leaning(errors, share)
    if wrong:
        return (Verdict("bias", case, Status.FAILED, wrong),)
    if bound(errors, share) > TELLING:
        reason = "too few elements, or too wide a contract, to tell a truncation from chance"
        return (Verdict("bias", case, Status.NOT_JUDGED, reason),)
    return (Verdict("bias", case, Status.PASSED),)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    if dtype == "float32":
        return "what the contract allows before a store in float32 is wider than a truncation"
    if subject.contract(operation).rounds & COARSE:
        return "the contract rounds factors: products of few different numbers have errors that need not cancel"
    return ""


def _void(operation: Operation) -> str:
    if operation.one_factor:
        # of a factor next to a power of two, every product rounds back in the same direction
        return "a row is multiplied by one number: its errors need not cancel"
    levels = {factor: kept[0] for factor, kept in (*operation.factors.items(), *fixed(operation))}
    case = operation.complete(levels, random.Random(0), Scope("bfloat16"))  # noqa: S311 - any call will do
    return "" if telling(case) else "no output has 16 bits, and those of others do not tell"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: many ordinary elements."""
    return narrowed(
        operation,
        contiguous(operation),
        several_rows(operation),
        (("values", ("normal",)), ("width", ("tile", "wide")), ("rows", ("many",))),
        # copied or quantised outputs have no mean error, or dilute it
        (("dims", ("whole",)), ("unquantised", ("yes",))),
        tuple(operation.telling.items()),
    )


BIAS = Property(
    "bias",
    "rounding errors cancel: their signed mean is zero, within chance and contract",
    judge,
    fixed=fixed,
    cannot=_cannot,
    void=_void,
)
