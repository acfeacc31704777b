"""A model of the machine: the error of each fp32 step of a kernel, with the source of every constant.

A step takes intervals and gives the interval of all its possible fp32 results. Errors are relative, in units
of ``U = 2**-24`` (half an ulp of a number just above a power of two), plus ``TINY``, half the smallest fp32
subnormal, for gradual underflow. Rounding never crosses zero, and an exact zero or infinity stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch

from conformance.oracle.contract import round_once
from conformance.oracle.interval import Interval

U = 2.0**-24
TINY = 2.0**-150
# of U: float64 steps of this model itself. exp and rsqrt of float64 differ by 1 ulp between machines (CUDA C++
# Programming Guide: 1 ulp each), sums by their order: log2(n) ulp in a tree, as torch has on CPUs and GPUs
MARGIN = 2.0**-16
MIN_NORMAL = 2.0**-126
MAX = float(torch.finfo(torch.float32).max)
FINITE = 2.0**800  # more than the product of any six float32 numbers; times one more it is still a float64 number

# IEEE 754: correctly rounded. CUDA C++ Programming Guide, table of maximum errors: "x+y, x*y: 0"
ADD = MULTIPLY = 1.0
# PTX ISA, div.full.f32: at most 2 ulp. Correctly rounded on AMD and on CPUs
DIVIDE = 4.0
# rsqrtf: at most 2 ulp, 4 U (CUDA C++ Programming Guide); PTX ISA, rsqrt.approx: 2**-22.9, 2.2 U.
# sqrt.approx: 2**-23, 2 U (PTX ISA). The common 1 / sqrt(v) is that root and a division: 6 U covers all three
RSQRT = 6.0
SQRT = 2.0
# exp(z) as ex2(z * log2 e): the product's rounding and the constant's cost 1.25 |z| U; PTX ISA, ex2.approx:
# 2 ulp; LLVM's AMDGPU guide: 1 ulp
EXP = 4.0
EXP_PER_UNIT = 1.25
# tanhf: at most 2 ulp (CUDA C++ Programming Guide; HIP math API), 1 ulp on CPUs (Sleef, as PyTorch has it).
# tanh.approx, 2**-11 (PTX ISA), is not among them
TANH = 4.0
# erff: at most 2 ulp (CUDA C++ Programming Guide), 4 ulp (HIP math API); erfcf: at most 4 and 2 ulp. PyTorch's own
# polynomial on x86 CPUs (Abramowitz and Stegun, 7.1.26) was 13 U of one from it, and is not among them
ERF = ERFC = 8.0
FAR = 2.0**10  # exp of twice as much is zero or infinite in float64 too
NEARLY = 2.0**-8
# log2, absolute in units of U, in addition to the rounding of its result: lg2.approx, 2**-22 (PTX ISA). Next to
# powers of two ceil(log2(v)) of an H200 needed 0.65 of both together
LOG2 = 4.0
# one update of a running mean, m + (x - m) * (count / whole): two additions, a product and a quotient. Chan,
# Golub and LeVeque, Algorithms for Computing the Sample Variance (1983): the relative error of an updated variance
# grows with the updates, and with the root of mean square over variance
UPDATE = 2 * ADD + MULTIPLY + DIVIDE
# div.approx (and CUDA's __fdividef) give 0 for a denominator above 2**126 (PTX ISA, div)
LARGE_DENOMINATOR = 2.0**126


@dataclass(frozen=True, slots=True)
class Machine:
    """fp32 arithmetic of one device.

    ``flushes``: a result below 2**-126 may be zero instead. ``running_variance``: squares are summed as
    differences from a running mean (Welford), which are up to twice as large as the numbers: the sum may overflow
    from a quarter of the largest number on, and is NaN where infinities are subtracted. ``fuses``: a product that
    is added may be rounded before, or not, as a compiler fuses them (IEEE 754-2019, 5.4.1: fusedMultiplyAdd).
    """

    flushes: bool = False
    running_variance: bool = False
    fuses: bool = False

    def widen(
        self, interval: Interval, relative: float | torch.Tensor, tiny: float | torch.Tensor = TINY
    ) -> Interval:
        """Let both ends move by ``relative`` U and ``tiny``, as far as zero and not beyond; then overflow."""
        lo, hi = interval.lo, interval.hi
        bound = (relative + MARGIN) * U
        # an infinite end stays where it is: it moves by a number, as inf - inf would be NaN
        below = lo.abs().clamp_(max=FINITE) * bound + tiny
        above = below if interval.is_exact else hi.abs().clamp_(max=FINITE) * bound + tiny
        lower, upper = lo - below, hi + above
        lower = torch.where(lo >= 0, lower.clamp(min=0.0), lower)
        upper = torch.where(hi <= 0, upper.clamp(max=0.0), upper)
        # past the largest number fp32 gives infinity; more exact arithmetic may still hold the number
        lower = torch.where(lower < -MAX, -math.inf, lower)
        upper = torch.where(upper > MAX, math.inf, upper)
        if self.flushes:
            lower = torch.where((lower > 0) & (lower < MIN_NORMAL), 0.0, lower)
            upper = torch.where((upper < 0) & (upper > -MIN_NORMAL), 0.0, upper)
        return Interval(lower, upper, interval.nan)

    def add(self, a: Interval, b: Interval) -> Interval:
        """Return ``a + b``. Known numbers give the sum rounded to fp32, or as exact as a kernel may keep it."""
        lo, hi = a.lo + b.lo, a.hi + b.hi
        if a.is_exact and b.is_exact:
            single = round_once(lo, torch.float32)
            lost = _lost(a.lo, b.lo, lo)
            low = torch.minimum(torch.where(lost < 0, lo.nextafter(lo.new_tensor(-math.inf)), lo), single)
            high = torch.maximum(torch.where(lost > 0, lo.nextafter(lo.new_tensor(math.inf)), lo), single)
            sums = Interval(low, high, lo.isnan() | a.nan | b.nan)
            return _with_zero(sums, lo.abs() < MIN_NORMAL) if self.flushes else sums
        opposite = _opposite_infinities(a, b) | _opposite_infinities(b, a)
        # where one end is inf - inf, every number of the sum is the other end
        lower, upper = torch.where(lo.isnan(), hi, lo), torch.where(hi.isnan(), lo, hi)
        return self.widen(Interval(lower, upper, a.nan | b.nan | opposite), ADD)

    def product(self, *factors: Interval) -> Interval:
        """Return the product of all factors, multiplied in any order: a contract orders only what it rounds.

        Two exactly known factors whose product fp32 holds give that product. Otherwise each multiplication
        costs one rounding; a partial product may underflow before the large factors come.
        """
        result = reduce(_times, factors)
        count = len(factors) - 1
        if count == 0:
            return result
        if result.is_exact and count == 1:
            held = _exact_or(result, self.widen(result, MULTIPLY), round_once(result.lo, torch.float32))
            return _with_zero(held, held.lo.abs() < MIN_NORMAL) if self.flushes else held
        largest = reduce(torch.mul, (_magnitude(factor).clamp(min=1.0) for factor in factors))
        tiny = torch.where(largest.isfinite(), TINY * count * largest, TINY)
        result = self.widen(result, MULTIPLY * count, tiny)
        if self.flushes:
            smallest = reduce(torch.mul, (_least(factor).clamp(max=1.0) for factor in factors))
            result = _with_zero(result, smallest < MIN_NORMAL)
        return result

    def square(self, x: Interval) -> Interval:
        """Return ``x * x``."""
        return self.widen(_squares(x), MULTIPLY)

    def mean(self, squares: Interval, depth: int) -> Interval:
        """Return the mean of non-negative numbers over the last dimension, kept; ``depth`` additions deep."""
        n = squares.lo.shape[-1]
        total = _summed(squares)
        if self.running_variance:
            overflows = total.hi > MAX / 4
            total = Interval(total.lo, torch.where(overflows, math.inf, total.hi), total.nan | overflows)
        total = self._of_terms(total, n, depth)
        return self.widen(Interval(total.lo / n, total.hi / n, total.nan), DIVIDE)

    def total(self, terms: Interval, depth: int) -> Interval:
        """Return the sum of non-negative numbers over the last dimension, kept; ``depth`` additions deep."""
        return self._of_terms(_summed(terms), terms.lo.shape[-1], depth)

    def _of_terms(self, total: Interval, n: int, depth: int) -> Interval:
        # sums of fp32 numbers are exact below 2**-126, unless the device flushes each of them
        return self.widen(total, _of_a_sum(depth), n * MIN_NORMAL if self.flushes else 0.0)

    def signed_mean(self, x: Interval, depth: int) -> Interval:
        """Return the mean of numbers of both signs over the last dimension, kept; ``depth`` additions deep.

        The error of their sum is relative to the sum of their magnitudes (Higham, Accuracy and Stability of
        Numerical Algorithms, 4.2), and may cross zero. Partial sums of either sign may overflow.
        """
        n = x.lo.shape[-1]
        if n == 1:
            return x
        relative = _of_a_sum(depth) * U * (UPDATE if self.running_variance else 1.0)
        slack = _magnitude(x).sum(-1, keepdim=True) * relative + (n * MIN_NORMAL if self.flushes else 0.0)
        low, high = x.lo.sum(-1, keepdim=True), x.hi.sum(-1, keepdim=True)
        # an infinity among the numbers is the sum; two of opposite signs have none
        low, high = torch.where(low.isnan(), high, low), torch.where(high.isnan(), low, high)
        lower = torch.where(low.isinf(), low, low - slack)
        upper = torch.where(high.isinf(), high, high + slack)
        finite = torch.where(slack.isfinite(), slack, 0.0)
        positive = x.hi.clamp(min=0.0).sum(-1, keepdim=True) + finite > MAX
        negative = x.lo.clamp(max=0.0).sum(-1, keepdim=True) - finite < -MAX
        lower = torch.where(negative & low.isfinite(), -math.inf, lower)
        upper = torch.where(positive & high.isfinite(), math.inf, upper)
        nan = x.nan.any(-1, keepdim=True) | (positive & negative)
        return self.widen(Interval(lower / n, upper / n, nan), DIVIDE)

    def deviation(self, x: Interval, mean: Interval) -> Interval:
        """Return ``x - mean``, to be multiplied by a factor: ``(x - mean) * r``, or ``x * r - mean * r``."""
        apart = self.add(x, -mean)
        slack = (_magnitude(x) + _magnitude(mean)) * (MULTIPLY * U)
        slack = torch.where(slack.isfinite(), slack, 0.0)
        return Interval(apart.lo - slack, apart.hi + slack, apart.nan)

    def variance(self, x: Interval, mean: Interval, depth: int) -> Interval:
        """Return the mean of ``(x - mean)**2`` of known numbers over the last dimension, kept.

        One number is subtracted from all of a row: if it misses the exact mean by d, the variance is d**2 larger.
        With ``running_variance`` it may come from updates of a running mean instead.
        """
        assert x.is_exact, "numbers that are not known have no exact mean"
        n = x.lo.shape[-1]
        exact = x.lo.mean(-1, keepdim=True)
        spread = (x.lo - exact).square().mean(-1, keepdim=True)
        ends = (mean.lo - exact).abs(), (mean.hi - exact).abs()
        inside = (mean.lo <= exact) & (exact <= mean.hi)
        least, most = torch.where(inside, 0.0, torch.minimum(*ends)), torch.maximum(*ends)
        nan = mean.nan | spread.isnan()
        total = Interval(n * (spread + least.square()), n * (spread + most.square()), nan)
        # each difference is rounded, its square, and every sum
        total = self.widen(
            total, 2 * ADD + MULTIPLY + _of_a_sum(depth), n * (MIN_NORMAL if self.flushes else TINY)
        )
        found = self.widen(Interval(total.lo / n, total.hi / n, nan), DIVIDE)
        if not self.running_variance:
            return found
        squares = x.lo.square().mean(-1, keepdim=True)
        error = UPDATE * _of_a_sum(depth) * U
        slack = 2 * error * (spread * squares).sqrt() + error**2 * squares
        overflows = n * squares > MAX / 4
        return Interval(
            torch.fmin(found.lo, (spread - slack).clamp(min=0.0)),
            torch.where(overflows, math.inf, torch.fmax(found.hi, spread + slack)),
            nan | overflows,
        )

    def rsqrt(self, v: Interval) -> Interval:
        """Return ``1 / sqrt(v)`` of non-negative ``v``; infinity gives an exact zero, zero an infinity."""
        _non_negative(v)
        return self.widen(Interval(v.hi.rsqrt(), v.lo.rsqrt(), v.nan), RSQRT)

    def sqrt(self, v: Interval) -> Interval:
        """Return ``sqrt(v)`` of non-negative ``v``."""
        _non_negative(v)
        return self.widen(Interval(v.lo.sqrt(), v.hi.sqrt(), v.nan), SQRT)

    def reciprocal(self, v: Interval) -> Interval:
        """Return ``1 / v`` of non-negative ``v``."""
        _non_negative(v)
        return self.widen(Interval(1 / v.hi, 1 / v.lo, v.nan), DIVIDE)

    def quotient(self, a: Interval, b: Interval) -> Interval:
        """Return ``a / b`` of non-negative ``b``, or ``a * (1 / b)``: both common forms, in one interval.

        A quotient by a power of two is exact either way where float32 holds it, as each of 11.8 million such
        quotients of an H200 was; other quotients were within 2.5 U.
        """
        ends = [a.lo / b.lo]
        if not a.is_exact or not b.is_exact:
            ends += [a.lo / b.hi, a.hi / b.lo, a.hi / b.hi]
        result = _spanned(ends, a, b, (_has_zero(a) & _has_zero(b)) | (_has_infinity(a) & _has_infinity(b)))
        wide = self.widen(result, DIVIDE + MULTIPLY)
        shift = (b.lo == b.hi) & (torch.frexp(b.lo).mantissa == 0.5)
        held = shift & (result.lo == result.hi) & (round_once(result.lo, torch.float32) == result.lo)
        held_or_wide = torch.where(held, result.lo, wide.lo), torch.where(held, result.hi, wide.hi)
        quotients = Interval(*held_or_wide, wide.nan)
        return _with_zero(quotients, held & (result.lo.abs() < MIN_NORMAL)) if self.flushes else quotients

    def largest(self, x: Interval) -> Interval:
        """Return the largest magnitude over the last dimension, kept; comparisons lose nothing.

        IEEE 754 has two such functions: ``maximum`` gives NaN where a number is NaN, ``maximumNumber`` the largest
        of the others, here zero where every number is NaN. Both are allowed.
        """
        certain = torch.where(x.nan, 0.0, _least(x))
        possible = _magnitude(x)
        possible = torch.where(possible.isnan(), 0.0, possible)
        return Interval(
            certain.amax(-1, keepdim=True), possible.amax(-1, keepdim=True), x.nan.any(-1, keepdim=True)
        )

    def power_of_two(self, v: Interval) -> Interval:
        """Return the least power of two not below positive ``v``, as ``exp2(ceil(log2(v)))`` finds it."""
        # an absolute error of the logarithm is a relative one of v
        wide = self.widen(v, _magnitude(v).log2().abs().nan_to_num(posinf=0.0) + LOG2)
        return Interval(_no_less(wide.lo), _no_less(wide.hi), v.nan)

    def exp(self, z: Interval) -> Interval:
        """Return ``exp(z)``."""
        low, high = (
            self.widen(Interval(e, e, z.nan), torch.where(end.isfinite(), EXP + EXP_PER_UNIT * end.abs(), 0.0))
            for end, e in ((z.lo, z.lo.exp()), (z.hi, z.hi.exp()))
        )
        return Interval(low.lo, high.hi, z.nan)

    def sigmoid(self, z: Interval) -> Interval:
        """Return ``1 / (1 + exp(-z))``. Where the denominator passes 2**126 the result may be zero."""
        lo = self._sigmoid_end(z.lo)
        hi = lo if z.is_exact else self._sigmoid_end(z.hi)
        return Interval(lo.lo, hi.hi, z.nan)

    def _sigmoid_end(self, z: torch.Tensor) -> Interval:
        e = torch.exp(-z)
        relative = torch.where(z.isfinite(), EXP + EXP_PER_UNIT * z.abs(), 0.0)
        nan = z.isnan()
        power = self.widen(Interval(e, e, nan), relative)
        denominator = self.widen(Interval(1 + power.lo, 1 + power.hi, nan), ADD)
        result = self.widen(Interval(1 / denominator.hi, 1 / denominator.lo, nan), DIVIDE)
        return _with_zero(result, denominator.hi > LARGE_DENOMINATOR)

    def silu(self, z: Interval) -> Interval:
        """Return ``z * sigmoid(z)``. At minus infinity both the formula's NaN and its limit, zero, are allowed."""
        result = self.product(z, self.sigmoid(z))
        limit = z.lo == -math.inf
        return Interval(torch.where(limit, 0.0, result.lo), torch.where(limit, 0.0, result.hi), result.nan | limit)

    def one_and_erf(self, z: Interval) -> Interval:
        """Return ``1 + erf(z)``, or ``erfc(-z)``."""
        return self._one_and(z, lambda end: torch.special.erfc(-end), ERF, lambda _, exact: exact * (ERFC * U))

    def one_and_tanh(self, z: Interval) -> Interval:
        """Return ``1 + tanh(z)``, or ``2 * sigmoid(2 * z)``; some kernels take one from it, and add one again."""

        def of_a_sigmoid(end: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
            power = (EXP + 2 * EXP_PER_UNIT * end.abs().clamp(max=FAR)) * (1 - exact / 2)
            # one and less than half an ulp of one is one, and nothing is left
            taken = torch.where(exact < U / 4, 0.0, 2 * ADD)
            return (exact * (power + ADD + DIVIDE) + taken) * U

        return self._one_and(z, lambda end: 2 / (1 + torch.exp(-2 * end)), TANH, of_a_sigmoid)

    def _one_and(
        self,
        z: Interval,
        formula: Callable[[torch.Tensor], torch.Tensor],
        relative: float,
        direct: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Interval:
        """Return one and an increasing function between -1 and 1; ``formula`` is the sum where it does not cancel.

        The sum keeps the error of the function, which near -1 is that of a number near one. ``direct`` is the
        error of a kernel's form that does not cancel either. Where even float64 has -1, whatever its error, the
        function is -1.
        """

        def bounded(end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            exact = formula(end)
            saturated = exact < 2.0**-60
            summed = torch.where(saturated, 0.0, (exact - 1).abs() * (relative * U) + exact * (ADD * U))
            bound = torch.maximum(summed, direct(end, exact)) + exact * (MARGIN * U)
            # a difference of two numbers nearly alike would depend on the machine that judges
            return torch.where(saturated | (exact < bound * (1 + NEARLY)), 0.0, exact - bound), exact + bound

        return Interval(bounded(z.lo)[0], bounded(z.hi)[1], z.nan)


def _times(a: Interval, b: Interval) -> Interval:
    """Return the exact product of two intervals, with NaN where they can give 0 · inf."""
    if a.is_exact and b.is_exact:
        exact = a.lo * b.lo
        return Interval(exact, exact, exact.isnan() | a.nan | b.nan)
    ends = [a.lo * b.lo, a.hi * b.hi]
    if not a.is_exact and not b.is_exact:
        ends += [a.lo * b.hi, a.hi * b.lo]
    return _spanned(ends, a, b, (_has_zero(a) & _has_infinity(b)) | (_has_infinity(a) & _has_zero(b)))


def _non_negative(x: Interval) -> None:
    assert not bool((x.lo < 0).any()), "of non-negative numbers only"


def _summed(terms: Interval) -> Interval:
    """Return the exact sums of non-negative numbers over the last dimension, kept."""
    _non_negative(terms)
    return Interval(
        terms.lo.sum(-1, keepdim=True), terms.hi.sum(-1, keepdim=True), terms.nan.any(-1, keepdim=True)
    )


def _of_a_sum(depth: int) -> float:
    """Return the relative error of a sum that is ``depth`` additions deep, (1 + U)**depth - 1, in units of U."""
    return math.expm1(depth * math.log1p(U)) / U


def _spanned(ends: list[torch.Tensor], a: Interval, b: Interval, invalid: torch.Tensor) -> Interval:
    """Return the interval between the ends of an operation, with NaN where that is ``invalid``."""
    lo, hi = reduce(torch.fmin, ends), reduce(torch.fmax, ends)
    missing = lo.isnan()
    if _may_hold(missing):
        # every end is 0 · inf (or inf / inf), and a number between the infinities gives zero
        numbers = ~a.lo.isnan() & ~b.lo.isnan() & ((a.lo < a.hi) | (b.lo < b.hi))
        lo, hi = (torch.where(missing & numbers, 0.0, end) for end in (lo, hi))
    return Interval(lo, hi, invalid | a.nan | b.nan)


def _may_hold(mask: torch.Tensor) -> bool:
    """Return whether a mask holds anywhere; on a GPU True, as work is done sooner there than an answer read."""
    return mask.is_cuda or bool(mask.any())


def _has_zero(x: Interval) -> torch.Tensor:
    return x.lo == 0 if x.is_exact else (x.lo <= 0) & (x.hi >= 0)


def _has_infinity(x: Interval) -> torch.Tensor:
    return x.lo.isinf() if x.is_exact else x.lo.isinf() | x.hi.isinf()


def _opposite_infinities(a: Interval, b: Interval) -> torch.Tensor:
    return (a.lo == -math.inf) & (b.hi == math.inf)


def _lost(a: torch.Tensor, b: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return the part of ``a + b`` that float64 lost, exactly (Knuth's two-sum)."""
    part = total - a
    return (a - (total - part)) + (b - part)


def _squares(x: Interval) -> Interval:
    low, high = x.lo * x.lo, x.hi * x.hi
    if x.is_exact:
        return Interval(low, low, x.nan)
    crosses = (x.lo < 0) & (x.hi > 0)
    return Interval(torch.where(crosses, 0.0, torch.minimum(low, high)), torch.maximum(low, high), x.nan)


def _magnitude(x: Interval) -> torch.Tensor:
    return torch.fmax(x.lo.abs(), x.hi.abs())


def _least(x: Interval) -> torch.Tensor:
    crosses = (x.lo < 0) & (x.hi > 0)
    return torch.where(crosses, 0.0, torch.fmin(x.lo.abs(), x.hi.abs()))


def _exact_or(exact: Interval, widened: Interval, single: torch.Tensor) -> Interval:
    held = (single == exact.lo) | exact.lo.isnan()
    if bool(held.all()):
        # an answer worth waiting for: sums of exactly known numbers are narrower
        return exact
    return Interval(torch.where(held, exact.lo, widened.lo), torch.where(held, exact.hi, widened.hi), exact.nan)


def _no_less(values: torch.Tensor) -> torch.Tensor:
    mantissa, exponent = torch.frexp(values)
    power = torch.ldexp(torch.ones_like(values), exponent - (mantissa == 0.5).int())
    return torch.where(values.isfinite(), power, values)


def _with_zero(interval: Interval, where: torch.Tensor) -> Interval:
    return Interval(
        torch.where(where, interval.lo.clamp(max=0.0), interval.lo),
        torch.where(where, interval.hi.clamp(min=0.0), interval.hi),
        interval.nan,
    )
