"""The oracle once more, number by number at 60 digits: from the formulas and the stated bounds, without a tensor.

Nothing here calls the machine model. Its bounds are restated: relative ones in units of ``U``, for each step.
Known numbers give sums, products and quotients as exact as there. Arguments are finite and far from overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import mpmath

from conformance.oracle.contract import Contract

mpf = mpmath.mpf
DIGITS = 60
U, TINY = mpf(2) ** -24, mpf(2) ** -150
ADD, MULTIPLY, DIVIDE, SQRT, RSQRT, EXP, EXP_PER_UNIT = (mpf(bound) for bound in (1, 1, 4, 2, 6, 4, "1.25"))
# digits of the significand, and the exponent of the smallest normal number
FORMATS = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126)}
POWER = 0.5  # the mantissa of every power of two


@dataclass(frozen=True, slots=True)
class Set:
    """All numbers between two ends; ``known``: this is one number."""

    lo: Any
    hi: Any
    known: bool = False

    def __neg__(self) -> Set:
        return Set(-self.hi, -self.lo, self.known)

    @property
    def size(self) -> Any:
        """Return the largest magnitude."""
        return max(abs(self.lo), abs(self.hi))


Row = list[Set]


def known(value: float) -> Set:
    """Return the set of one number."""
    return Set(mpf(value), mpf(value), known=True)


def nearest(value: Any, dtype: str) -> Any:
    """Round to nearest even by the definition."""
    digits, smallest = FORMATS[dtype]
    step = mpf(2) ** (
        max(int(mpmath.floor(mpmath.log(abs(value), 2))) if value else smallest, smallest) - digits + 1
    )
    # the logarithm may be off by one next to a power of two, where the smaller step is right as well
    return mpmath.nint(value / step) * step


def rounded(row: Row, dtype: str) -> Row:
    """Return the sets with both ends rounded."""
    return [Set(nearest(x.lo, dtype), nearest(x.hi, dtype), x.known) for x in row]


def moved(x: Set, relative: Any, tiny: Any = TINY) -> Set:
    """Let both ends move, but not past zero."""
    low, high = (abs(end) * relative * U + tiny for end in (x.lo, x.hi))
    return Set(
        max(x.lo - low, mpf(0)) if x.lo >= 0 else x.lo - low,
        min(x.hi + high, mpf(0)) if x.hi <= 0 else x.hi + high,
    )


def between(*ends: Any) -> Set:
    """Return the set between the outermost of some numbers."""
    return Set(min(ends), max(ends))


def hull(a: Set, b: Set) -> Set:
    """Return the set of both, and what is between."""
    return Set(min(a.lo, b.lo), max(a.hi, b.hi))


def add(a: Set, b: Set) -> Set:
    """Return a sum; of two known numbers it is exact or rounded."""
    if a.known and b.known:
        return between(a.lo + b.lo, nearest(a.lo + b.lo, "float32"))
    return moved(Set(a.lo + b.lo, a.hi + b.hi), ADD)


def product(*factors: Set) -> Set:
    """Return a product in any order; of two known numbers it is exact where float32 holds it."""
    if len(factors) == 1:
        return factors[0]
    exact = reduce(lambda a, b: between(*(x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi))), factors)
    if len(factors) == 2 and all(factor.known for factor in factors) and nearest(exact.lo, "float32") == exact.lo:
        return replace(exact, known=True)
    count = len(factors) - 1
    # a part of the product may underflow before the large factors come
    return moved(exact, MULTIPLY * count, TINY * count * mpmath.fprod(max(f.size, mpf(1)) for f in factors))


def square(x: Set) -> Set:
    """Return a square, which is not negative."""
    ends = x.lo * x.lo, x.hi * x.hi
    return moved(Set(mpf(0) if x.lo < 0 < x.hi else min(ends), max(ends)), MULTIPLY)


def of_a_sum(depth: int) -> Any:
    """Return the relative error of a sum so many additions deep."""
    return ((1 + U) ** depth - 1) / U


def total(row: Row, depth: int) -> Set:
    """Return the sum of numbers that are not negative."""
    return moved(Set(mpmath.fsum(x.lo for x in row), mpmath.fsum(x.hi for x in row)), of_a_sum(depth), mpf(0))


def mean(row: Row, depth: int) -> Set:
    """Return the mean of numbers that are not negative."""
    found = total(row, depth)
    return moved(Set(found.lo / len(row), found.hi / len(row)), DIVIDE)


def signed_mean(row: Row, depth: int) -> Set:
    """Return the mean of numbers of both signs, whose sum errs with the sum of their magnitudes."""
    n = len(row)
    if n == 1:
        return row[0]
    slack = mpmath.fsum(x.size for x in row) * of_a_sum(depth) * U
    low, high = mpmath.fsum(x.lo for x in row) - slack, mpmath.fsum(x.hi for x in row) + slack
    return moved(Set(low / n, high / n), DIVIDE)


def deviation(x: Set, centre: Set) -> Set:
    """Return a difference that is multiplied before or after it is taken."""
    apart, slack = add(x, -centre), (x.size + centre.size) * MULTIPLY * U
    return Set(apart.lo - slack, apart.hi + slack)


def variance(row: Row, centre: Set, depth: int) -> Set:
    """Return the mean of squares of differences from one number, which need not be the exact mean."""
    n = len(row)
    exact = mpmath.fsum(x.lo for x in row) / n
    spread = mpmath.fsum((x.lo - exact) ** 2 for x in row) / n
    off = sorted((abs(centre.lo - exact), abs(centre.hi - exact)))
    least = mpf(0) if centre.lo <= exact <= centre.hi else off[0]
    found = Set(n * (spread + least**2), n * (spread + off[1] ** 2))
    found = moved(found, 2 * ADD + MULTIPLY + of_a_sum(depth), n * TINY)
    return moved(Set(found.lo / n, found.hi / n), DIVIDE)


def inverse(x: Set) -> Set:
    """Return the reciprocal of a positive number."""
    return moved(Set(1 / x.hi, 1 / x.lo), DIVIDE)


def quotient(a: Set, b: Set) -> Set:
    """Return a quotient by a positive number, or a product with its reciprocal; by a power of two it is exact."""
    exact = between(*(x / y for x in (a.lo, a.hi) for y in (b.lo, b.hi)))
    if b.lo == b.hi and mpmath.frexp(b.lo)[0] == POWER and exact.lo == exact.hi == nearest(exact.lo, "float32"):
        return exact
    return moved(exact, DIVIDE + MULTIPLY)


def exp(z: Set) -> Set:
    """Return a power of e, whose error grows with the argument."""
    low, high = (moved(known(mpmath.exp(end)), EXP + EXP_PER_UNIT * abs(end)) for end in (z.lo, z.hi))
    return Set(low.lo, high.hi)


def sigmoid(z: Set) -> Set:
    """Return the reciprocal of one more than a power."""
    power = exp(-z)
    return inverse(moved(Set(1 + power.lo, 1 + power.hi), ADD))


def inverse_root(squares: Set, eps: float, kind: str, rounds: frozenset[str], point: str = "variance") -> Set:
    """Return one over the root of a mean of squares and eps; rounded steps may round eps and take another way."""
    at = _at(rounds, kind)
    added = known(eps)
    if point in rounds:
        added = hull(added, known(nearest(mpf(eps), kind)))
    summed = at(point, add(at(point, squares), added))
    direct = at("rstd", moved(Set(1 / mpmath.sqrt(summed.hi), 1 / mpmath.sqrt(summed.lo)), RSQRT))
    if "rstd" not in rounds:
        return direct
    root = at("rstd", moved(Set(mpmath.sqrt(summed.lo), mpmath.sqrt(summed.hi)), SQRT))
    return hull(direct, at("rstd", inverse(root)))


def _at(rounds: frozenset[str], kind: str) -> Callable[[str, Set], Set]:
    return lambda point, x: rounded([x], kind)[0] if point in rounds else x


def promoted(*kinds: str) -> str:
    """Return the dtype of a product: the two halves meet in float32."""
    return kinds[0] if len(set(kinds)) == 1 else "float32"


Given = Mapping[str, Sequence[float]]
Kinds = Mapping[str, str]


def normalised(
    row: Row, inverse_rms: Set, weight: Row, kinds: tuple[str, str], rounds: frozenset[str]
) -> list[tuple[Set, ...]]:
    """Return the factors of a norm's result, element by element, multiplied where they are rounded."""
    found = []
    for column, x in enumerate(row):
        factors: tuple[Set, ...] = (x, inverse_rms)
        if "normalised" in rounds:
            factors = (rounded([product(*factors)], kinds[0])[0],)
        factors = (*factors, weight[column])
        if "weighted" in rounds:
            factors = (rounded([product(*factors)], promoted(*kinds))[0],)
        found.append(factors)
    return found


def rms_norm(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``s = x + residual`` and ``y = s * rsqrt(mean(s**2) + eps) * (offset + weight)``."""
    kind, rounds, depth = kinds["x"], contract.rounds, contract.additions(len(given["x"]))
    row, outputs = [known(x) for x in given["x"]], {}
    if "residual" in given:
        row = [add(x, known(r)) for x, r in zip(row, given["residual"], strict=True)]
        row = outputs["s"] = rounded(row, kind) if "sum" in rounds else row
    squares = [square(x) for x in row]
    squares = rounded(squares, kind) if "square" in rounds else squares
    rstd = inverse_root(mean(squares, depth), flags["eps"], kind, rounds)
    weight, weight_kind, offset = (
        [known(w) for w in given["weight"]],
        kinds["weight"],
        flags.get("weight_offset", 1.0),
    )
    if offset:
        weight = [add(w, known(offset)) for w in weight]
        weight = rounded(weight, weight_kind) if "offset" in rounds else weight
        weight_kind = weight_kind if "offset" in rounds else "float32"
    factors = normalised(row, rstd, weight, (kind, weight_kind), rounds)
    return {**outputs, "y": [product(*each) for each in factors]}


def rms_norm_gated(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``norm(x) * weight * act(gate)``, or of ``norm(x * act(gate)) * weight``."""
    kind, rounds, depth = kinds["x"], contract.rounds, contract.additions(len(given["x"]))
    gate = [known(z) for z in given["gate"]]
    act = [sigmoid(z) if flags["activation"] == "sigmoid" else product(z, sigmoid(z)) for z in gate]
    act = rounded(act, kinds["gate"]) if "act" in rounds else act
    row, late = [known(x) for x in given["x"]], flags["norm_before_gate"]
    if not late:
        kind = promoted(kind, kinds["gate"])
        row = [product(x, a) for x, a in zip(row, act, strict=True)]
        row = rounded(row, kind) if "gated" in rounds else row
    squares = [square(x) for x in row]
    squares = rounded(squares, kind) if "square" in rounds else squares
    rstd = inverse_root(mean(squares, depth), flags["eps"], kind, rounds)
    factors = normalised(row, rstd, [known(w) for w in given["weight"]], (kind, kinds["weight"]), rounds)
    return {"y": [product(*each, *((a,) if late else ())) for each, a in zip(factors, act, strict=True)]}


def layer_norm(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``(x - mean(x)) * rsqrt(variance(x) + eps) * weight + bias``."""
    kind, rounds, depth = kinds["x"], contract.rounds, contract.additions(len(given["x"]))
    row = [known(x) for x in given["x"]]
    centre = _at(rounds, kind)("mean", signed_mean(row, depth))
    centred = [deviation(x, centre) for x in row]
    centred = rounded(centred, kind) if "centred" in rounds else centred
    spread = variance(row, centre, depth)
    if {"centred", "square"} & rounds:
        squares = [square(x) for x in centred]
        spread = mean(rounded(squares, kind) if "square" in rounds else squares, depth)
    rstd = inverse_root(spread, flags["eps"], kind, rounds)
    factors = normalised(centred, rstd, [known(w) for w in given["weight"]], (kind, kinds["weight"]), rounds)
    return {"y": [add(product(*each), known(b)) for each, b in zip(factors, given["bias"], strict=True)]}


def l2_norm(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``x * rsqrt(sum(x**2) + eps)``."""
    kind, rounds = kinds["x"], contract.rounds
    row = [known(x) for x in given["x"]]
    squares = [square(x) for x in row]
    squares = rounded(squares, kind) if "square" in rounds else squares
    length = total(squares, contract.additions(len(row)))
    rstd = inverse_root(length, flags["eps"], kind, rounds, "total")
    return {"y": [product(x, rstd) for x in row]}


def softmax(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``exp(s - max(s)) / sum(exp(s - max(s)))``, ``s = x * scale + mask``, of a finite mask."""
    kind, scores = kinds["x"], [known(x) for x in given["x"]]
    if "scale" in flags:
        scores = [_at(contract.rounds, kind)("scaled", product(score, known(flags["scale"]))) for score in scores]
        # the oracle in tensors takes numbers for known where all of a tensor are
        scores = [replace(score, known=all(each.known for each in scores)) for score in scores]
    if "mask" in given:
        kind = promoted(kind, kinds["mask"])
        sums = (add(score, known(number)) for score, number in zip(scores, given["mask"], strict=True))
        scores = [_at(contract.rounds, kind)("masked", score) for score in sums]
    at = _at(contract.rounds, kind)
    powers = [at("exp", exp(at("difference", z))) for z in _from_largest(scores)]
    summed = total(powers, contract.additions(len(powers)))
    if not all(score.known for score in scores):
        summed = replace(summed, lo=max(summed.lo, mpf("0.5")))
    summed = at("total", summed)
    return {"y": [quotient(power, summed) for power in powers]}


def _from_largest(scores: Row) -> Row:
    """Return scores less the largest, which is zero for the only one that can be the largest, and never above."""
    largest = Set(max(s.lo for s in scores), max(s.hi for s in scores), all(s.known for s in scores))
    found = [add(score, -largest) for score in scores]
    if largest.known:
        return found
    leading = [place for place, score in enumerate(scores) if score.hi >= largest.lo]
    below = [Set(min(z.lo, mpf(0)), min(z.hi, mpf(0))) for z in found]
    return [known(0.0) if leading == [place] else z for place, z in enumerate(below)]


def silu_and_mul(given: Given, kinds: Kinds, flags: Mapping[str, Any], contract: Contract) -> dict[str, Row]:
    """Return one row of ``silu(gate) * up``."""
    at = _at(contract.rounds, kinds["gate"])
    gates = [known(z) for z in given["gate"]]
    acts = [at("act", product(z, sigmoid(z))) for z in gates]
    return {"y": [product(act, known(up)) for act, up in zip(acts, given["up"], strict=True)]}


FORMULAS: dict[str, Callable[[Given, Kinds, Mapping[str, Any], Contract], dict[str, Row]]] = {
    "rms_norm": rms_norm,
    "gemma_rms_norm": rms_norm,
    "rms_norm_gated": rms_norm_gated,
    "layer_norm": layer_norm,
    "l2_norm": l2_norm,
    "softmax": softmax,
    "silu_and_mul": silu_and_mul,
}
