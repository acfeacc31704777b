"""RMSNorm of every head of q and of k, then their rotary embedding: the first steps of attention in one call.

``n = x * rsqrt(mean(x**2) + eps) * (weight_offset + weight)`` over a head, with a weight for q and one for k; then
:mod:`conformance.operations.rope`. Numbers that are not rotated are normalised all the same. Whether n is rounded
to x's dtype before it is rotated is the rounding point ``normed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch

from conformance.cases.case import Case
from conformance.operations import rotation
from conformance.operations.head_calls import DTYPES, HeadCalls, head_operation
from conformance.operations.head_mistakes import changed
from conformance.operations.head_sizes import Sizes
from conformance.operations.head_tensors import Heads, HeadWeight, Positions, Table
from conformance.operations.inverse_rms import STATISTICS, inverse_rms
from conformance.operations.operation import Scaling
from conformance.operations.rms_norm import OFFSETS, scale_of
from conformance.operations.rotation import ROTATED, rotated
from conformance.operations.row_calls import EPSILON, Setting, below_eps
from conformance.operations.term import Term, lacking, with_ones, without_flag
from conformance.oracle import exact
from conformance.oracle.arithmetic import MULTIPLY, Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

FAR_FROM_UNDERFLOW = 2.0**-100  # what is lost below 2**-149 is no part of the error of larger numbers
WEIGHTS = {"q": "q_weight", "k": "k_weight"}  # the weight by the argument
# profiles of q, k, both weights, cos and sin by level; the ordinary ones first
PLAIN = ("weight", "weight", "cos", "sin")
VALUES = {
    "normal": ("normal", "normal", *PLAIN),
    "rows": ("rows", "rows", *PLAIN),
    "constant": ("constant", "constant", *PLAIN),
    "large": ("large", "normal", *PLAIN),
    "large_k": ("normal", "large", *PLAIN),
    "specials": ("specials", "specials", *PLAIN),
    "special_weights": ("normal", "normal", "special_weight", "special_weight", "cos", "sin"),
    "special_angles": ("normal", "normal", "weight", "weight", "specials", "specials"),
    "subnormal": ("subnormal", "subnormal", *PLAIN),
    "huge": ("huge", "huge", *PLAIN),
}
ORDINARY = ("normal", "rows", "constant", "large", "large_k")

CALLS = HeadCalls(
    "qk_norm_rope",
    (
        Heads("q"),
        Heads("k"),
        HeadWeight("q_weight"),
        HeadWeight("k_weight"),
        Positions("positions"),
        Table("cos"),
        Table("sin"),
    ),
    VALUES,
    (EPSILON, Setting("weight_offset", OFFSETS, "offset"), rotation.PAIRS),
    dtypes={
        # q and k are of one projection
        "same": (),
        "cos_float32": DTYPES["cos_float32"],
        "weight_float32": tuple(WEIGHTS.values()),
        "all_float32": (*WEIGHTS.values(), *DTYPES["cos_float32"]),
    },
)


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of q and k after norm and rotation. Row tensors have one token per row."""
    return {ROTATED[name]: _normed_and_rotated(machine, contract, given, case, name) for name in ROTATED}


def _normed_and_rotated(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case, name: str
) -> Interval:
    """Return q or k after norm and rotation; ``(tokens, heads, head_dim)`` is one row per token."""
    angles, pairs, kind = rotation.angles_of(given), case.flag("pairs"), given[name].dtype
    stream, inv_rms, scale = _factors(machine, contract, given, case, name)
    factors = contract.settle("normalised", machine, (stream, inv_rms), kind)
    normed = contract.at("normed", machine.product(*factors, *scale), kind)
    found = rotated(machine, contract, normed, angles, kind, pairs)
    if {"normalised", "normed", "turned"} & contract.rounds:
        return found
    # a head has one norm: its error, the largest, is relative to what is left of a pair that cancels
    weighed = machine.widen(reduce(exact.times, (stream, *scale)), MULTIPLY * (1 + len(scale)))
    apart = rotated(machine, contract, weighed, angles, kind, pairs).reshape(*stream.lo.shape)
    return _narrowed(found, exact.times(apart, inv_rms).reshape(*found.lo.shape))


def _narrowed(wide: Interval, other: Interval) -> Interval:
    """Return the numbers that both intervals hold, but for those in which float32 may underflow or overflow."""
    usable = other.lo.isfinite() & other.hi.isfinite() & (exact.magnitude(wide) > FAR_FROM_UNDERFLOW)
    lo = torch.where(usable, torch.maximum(wide.lo, other.lo), wide.lo)
    hi = torch.where(usable, torch.minimum(wide.hi, other.hi), wide.hi)
    return Interval.of(torch.stack((lo, hi)), wide.missing)


def _factors(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case, name: str
) -> tuple[Interval, Interval, tuple[Interval, ...]]:
    """Return the factors of the norm: ``(tokens, heads, head_dim)``, one number for each head, and the weight."""
    x = given[name].reshape(len(given[name]), -1, Sizes.of(case).head_dim)
    stream = counted = Interval.exactly(x)
    if not dict(case.flags).get("count_last", True):
        counted = Interval.exactly(torch.cat((x[..., :-1], torch.zeros_like(x[..., -1:])), -1))
    inv_rms = inverse_rms(machine, contract, counted, case.flag("eps"), x.dtype)
    scale, _ = scale_of(machine, contract, given[WEIGHTS[name]], case.flag("weight_offset"), x)
    return stream, inv_rms, scale


# one call for both
_OFFSET = {"offset": "one"}
TERMS = (
    Term("eps", without_flag("eps", 0.0), levels=_OFFSET, made=below_eps),
    Term("offset", without_flag("weight_offset", 0.0), levels=_OFFSET, made=below_eps),
    *(Term(f"weight of {name}", with_ones(WEIGHTS[name]), outputs=(ROTATED[name],)) for name in ROTATED),
    Term("last column of a head", lacking("count_last")),
    rotation.PAIRING,
    *rotation.TERMS,
)

# the norm divides a factor of q and k out, so that the products of the rotation do not grow with it
ROUNDS = (*STATISTICS, Point("normalised"), Point("offset"), Point("normed"), Point("angle"), Point("turned"))


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call."""
    offset = () if case.flag("weight_offset") == 0.0 else ("offset",)
    return ("square", "variance", "rstd", "normalised", *offset, "normed", *rotation.points(case))


QK_NORM_ROPE = head_operation(
    CALLS,
    formula=formula,
    rounds=ROUNDS,
    points=points,
    ordinary=ORDINARY,
    terms=TERMS,
    mistakes={"unknown pairs": changed("pairs", lambda _: "thirds")},
    indexed=dict.fromkeys(("cos", "sin"), "positions"),
    # a norm divides out a factor of its input, if eps follows the square of the factor
    scaling=Scaling(dict.fromkeys(ROTATED, 1) | {"eps": 2}, dict.fromkeys(ROTATED.values(), 0)),
)
