"""A model of the machine: the error of each fp32 step of a kernel, with the source of every constant.

The result of a step holds every value that any allowed order of fp32 steps can give for all members of its
arguments, and their exact result. Errors are relative, in units
of ``U = 2**-24`` (half an ulp of a number just above a power of two), plus ``TINY``, half the smallest fp32
subnormal, for gradual underflow. Rounding never crosses zero, and an exact zero or infinity stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch.nn.functional import threshold

from conformance.oracle import exact
from conformance.oracle.contract import round_once
from conformance.oracle.interval import Interval, Span, either

U = 2.0**-24
TINY = 2.0**-150
# of U: float64 steps of this model itself. exp and rsqrt of float64 differ by 1 ulp between machines (CUDA C++
# Programming Guide: 1 ulp each), sums by their order: log2(n) ulp in a tree, as torch has on CPUs and GPUs
MARGIN = 2.0**-16
MIN_NORMAL = 2.0**-126
MAX = float(torch.finfo(torch.float32).max)
FINITE = 2.0**800  # more than the product of any six float32 numbers; times one more it is still a float64 number
FEW = 2.0**22  # of U: steps that move a number by less than half of itself
POWER = 0.5  # the mantissa of every power of two
ONE = Span(1.0, 1.0, positive=True)
LARGE_EXPONENT = 80.0  # float32 has exp of less, and of less below zero
NOTHING = 2.0**-160  # less is zero in float32, whatever the error of an exponential function
LEAST_EXPONENT = -746.0  # float64 has no exp of less

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
# on CPUs (Abramowitz and Stegun, 7.1.26: 2.3 U in exact steps) was within 7.5 U. Polynomials of oneDNN, to which
# PyTorch gives gelu of float32 on x86 CPUs, are not among them: one and erf was off by 12.8 U at 2.104, where
# nothing cancels
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
        self,
        interval: Interval,
        relative: float | torch.Tensor,
        tiny: float | torch.Tensor = TINY,
        *,
        most: tuple[float, float] = (math.inf, math.inf),
    ) -> Interval:
        """Let both ends move by ``relative`` U and ``tiny``, as far as zero and not beyond; then overflow.

        ``most``: the largest relative and tiny step, where they are tensors and this is known.
        """
        ends, span = interval.ends, interval.span
        most_relative = relative if isinstance(relative, float) else most[0]
        most_tiny = tiny if isinstance(tiny, float) else most[1]
        # an infinite end stays where it is: it moves by a number, as inf - inf would be NaN
        size = ends if span.positive else ends.abs()
        size = size if span.finite else size.clamp(max=FINITE)
        bound = (relative + MARGIN) * U
        furthest = span.most * 2 + most_tiny
        if not (furthest < MAX and most_relative < FEW):
            moved, after = self._limited(ends, size * bound + tiny), Span(positive=span.positive)
        elif span.least > 2 * max(most_tiny, MIN_NORMAL if self.flushes else 0.0):
            # no end comes near zero, or to the largest number
            moved, after = size * exact.directed(bound, ends), Span(span.least / 2, furthest, span.positive)
            if isinstance(tiny, torch.Tensor) or tiny:
                moved += exact.directed(tiny, ends)
            moved += ends
        else:
            moved, after = self._limited(ends, size * bound + tiny), Span(0.0, furthest, span.positive)
        return Interval.of(moved, interval.missing, after)

    def _limited(self, ends: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Move ends apart, as far as zero and not beyond; then overflow, and flush."""
        inward = exact.outward(-1.0, ends.dim(), ends.device)
        # lower ends as they are and upper ends negated: all of them move down, and steps end at zero from above
        lower = ends * inward
        steps = torch.minimum(steps, threshold(lower, exact.BELOW_ZERO, math.inf))
        lower -= steps
        # past the largest number fp32 gives infinity; more exact arithmetic may still hold the number
        lower = threshold(lower, exact.BELOW_LOWEST, -math.inf, inplace=True)
        if self.flushes:
            lower.masked_fill_((lower > 0) & (lower < MIN_NORMAL), 0.0)
        # a zero without a sign, whose inverse is a positive infinity
        return lower.mul_(inward).add_(0.0)

    def add(self, a: Interval, b: Interval) -> Interval:
        """Return ``a + b``. Known numbers give the sum rounded to fp32, or as exact as a kernel may keep it."""
        if not a.is_exact or not b.is_exact:
            return self.widen(exact.sums(a, b), ADD)
        total, below, above = exact.known_sums(a.lo, b.lo)
        single = round_once(total, torch.float32)
        ends = torch.stack((torch.minimum(below, single), torch.maximum(above, single)))
        span = a.span.plus(b.span).loose()
        span = span if span.most < MAX else Span(positive=span.positive)
        unknown = None if span.finite else total.isnan()
        sums = Interval.of(ends, either(unknown, a.missing, b.missing), span)
        return exact.with_zero(sums, total.abs() < MIN_NORMAL) if self.flushes else sums

    def product(self, *factors: Interval) -> Interval:
        """Return the product of all factors, multiplied in any order: a contract orders only what it rounds.

        Two exactly known factors whose product fp32 holds give that product. Otherwise each multiplication
        costs one rounding; a partial product may underflow before the large factors come.
        """
        result = reduce(exact.times, factors)
        count = len(factors) - 1
        if count == 0:
            return result
        if result.is_exact and count == 1:
            held = self._held(result)
            return exact.with_zero(held, held.lo.abs() < MIN_NORMAL) if self.flushes else held
        tiny, most = _underflow(factors)
        widened = self.widen(result, MULTIPLY * count, tiny, most=(math.inf, most))
        if self.flushes:
            smallest = reduce(torch.mul, (exact.smallest(factor).clamp(max=1.0) for factor in factors))
            widened = exact.with_zero(widened, smallest < MIN_NORMAL)
        return widened

    def _held(self, product: Interval) -> Interval:
        """Return known products as they are where fp32 holds them, and widened where it does not."""
        single = round_once(product.ends, torch.float32)
        # an answer worth waiting for: sums of exactly known numbers are narrower
        if torch.equal(single, product.ends):
            return product
        held = (single == product.ends) | product.ends.isnan()
        if not product.span.finite and bool(held.all()):
            return product
        widened = self.widen(product, MULTIPLY)
        return Interval.of(torch.where(held, product.ends, widened.ends), product.missing, widened.span)

    def square(self, x: Interval) -> Interval:
        """Return ``x * x``."""
        return self.widen(exact.squares(x), MULTIPLY)

    def mean(self, squares: Interval, depth: int) -> Interval:
        """Return the mean of non-negative numbers over the last dimension, kept; ``depth`` additions deep."""
        n = squares.ends.shape[-1]
        total = _summed(squares)
        if self.running_variance and not total.span.most < MAX / 4:
            overflows = total.hi > MAX / 4
            ends = torch.stack((total.lo, torch.where(overflows, math.inf, total.hi)))
            total = Interval.of(ends, either(total.missing, overflows), Span(positive=True))
        total = self._of_terms(total, n, depth)
        return self.widen(_divided(total, n), DIVIDE)

    def total(self, terms: Interval, depth: int) -> Interval:
        """Return the sum of non-negative numbers over the last dimension, kept; ``depth`` additions deep."""
        return self._of_terms(_summed(terms), terms.ends.shape[-1], depth)

    def _of_terms(self, total: Interval, n: int, depth: int) -> Interval:
        # sums of fp32 numbers are exact below 2**-126, unless the device flushes each of them
        return self.widen(total, _of_a_sum(depth), n * MIN_NORMAL if self.flushes else 0.0)

    def signed_mean(self, x: Interval, depth: int) -> Interval:
        """Return the mean of numbers of both signs over the last dimension, kept; ``depth`` additions deep.

        The error of their sum is relative to the sum of their magnitudes (Higham, Accuracy and Stability of
        Numerical Algorithms, 4.2), and may cross zero. Partial sums of either sign may overflow.
        """
        n = x.ends.shape[-1]
        if n == 1:
            return x
        relative = _of_a_sum(depth) * U * (UPDATE if self.running_variance else 1.0)
        slack = exact.magnitude(x).sum(-1, keepdim=True) * relative + (n * MIN_NORMAL if self.flushes else 0.0)
        ends, most = x.ends.sum(-1, keepdim=True), 4 * n * (x.span.most + MIN_NORMAL)
        if most < MAX:
            ends, missing = ends + exact.directed(slack, ends), _any(x.missing, x)
        else:
            ends, missing, most = *_overflown(x, ends, slack), math.inf
        return self.widen(_divided(Interval.of(ends, missing, Span(0.0, most)), n), DIVIDE)

    def deviation(self, x: Interval, mean: Interval) -> Interval:
        """Return ``x - mean``, to be multiplied by a factor: ``(x - mean) * r``, or ``x * r - mean * r``."""
        apart = self.add(x, -mean)
        slack = (exact.magnitude(x) + exact.magnitude(mean)) * (MULTIPLY * U)
        if not apart.span.finite:
            slack = torch.where(slack.isfinite(), slack, 0.0)
        ends = apart.ends + exact.directed(slack, apart.ends)
        return Interval.of(ends, apart.missing, Span(0.0, 2 * apart.span.most))

    def variance(self, x: Interval, mean: Interval, depth: int) -> Interval:
        """Return the mean of ``(x - mean)**2`` of known numbers over the last dimension, kept.

        One number is subtracted from all of a row: if it misses the exact mean by d, the variance is d**2 larger.
        With ``running_variance`` it may come from updates of a running mean instead.
        """
        assert x.is_exact, "numbers that are not known have no exact mean"
        numbers, n = x.lo, x.lo.shape[-1]
        centre = numbers.mean(-1, keepdim=True)
        spread = (numbers - centre).square_().mean(-1, keepdim=True)
        apart = (mean.ends - centre).abs()
        least, most = apart[0], apart[-1]
        inside = (mean.lo <= centre) & (centre <= mean.hi)
        missed = torch.stack((torch.where(inside, 0.0, torch.minimum(least, most)), torch.maximum(least, most)))
        size = max(x.span.most, mean.span.most)
        span = Span(0.0, 16 * n * size * size, positive=True)
        nan = either(mean.missing, None if span.finite else spread.isnan())
        total = Interval.of(n * (spread + missed.square_()), nan, span)
        # each difference is rounded, its square, and every sum
        total = self.widen(
            total, 2 * ADD + MULTIPLY + _of_a_sum(depth), n * (MIN_NORMAL if self.flushes else TINY)
        )
        found = self.widen(_divided(total, n), DIVIDE)
        if not self.running_variance:
            return found
        squares = numbers.square().mean(-1, keepdim=True)
        error = UPDATE * _of_a_sum(depth) * U
        slack = 2 * error * (spread * squares).sqrt() + error**2 * squares
        overflows = n * squares > MAX / 4
        low = torch.fmin(found.lo, (spread - slack).clamp(min=0.0))
        high = torch.where(overflows, math.inf, torch.fmax(found.hi, spread + slack))
        return Interval.of(torch.stack((low, high)), either(nan, overflows), Span(positive=True))

    def rsqrt(self, v: Interval) -> Interval:
        """Return ``1 / sqrt(v)`` of non-negative ``v``; infinity gives an exact zero, zero an infinity."""
        exact.non_negative(v)
        span = ONE.over(_root(v.span))
        return self.widen(Interval.of(v.ends.rsqrt().flip(0), v.missing, span), RSQRT)

    def sqrt(self, v: Interval) -> Interval:
        """Return ``sqrt(v)`` of non-negative ``v``."""
        exact.non_negative(v)
        return self.widen(Interval.of(v.ends.sqrt(), v.missing, _root(v.span)), SQRT)

    def reciprocal(self, v: Interval) -> Interval:
        """Return ``1 / v`` of non-negative ``v``."""
        exact.non_negative(v)
        span = ONE.over(v.span._replace(positive=True))
        return self.widen(Interval.of(v.ends.reciprocal().flip(0), v.missing, span), DIVIDE)

    def quotient(self, a: Interval, b: Interval) -> Interval:
        """Return ``a / b`` of non-negative ``b``, or ``a * (1 / b)``: both common forms, in one interval.

        A quotient by a power of two is exact either way where float32 holds it, as each of 11.8 million such
        quotients of an H200 was; other quotients were within 2.5 U.
        """
        result = exact.quotients(a, b)
        wide = self.widen(result, DIVIDE + MULTIPLY)
        if b.span.finite and b.span.least == b.span.most and math.frexp(b.span.most)[0] != POWER:
            return wide
        shift = (b.lo == b.hi) & (torch.frexp(b.lo).mantissa == POWER)
        if not exact.may_hold(shift):
            return wide
        low, high = result.lo, result.hi
        held = shift & (low == high) & (round_once(low, torch.float32) == low)
        found = Interval.of(torch.where(held, result.ends, wide.ends), wide.missing, wide.span)
        return exact.with_zero(found, held & (low.abs() < MIN_NORMAL)) if self.flushes else found

    def largest(self, x: Interval) -> Interval:
        """Return the largest magnitude over the last dimension, kept; comparisons lose nothing.

        IEEE 754 has two such functions: ``maximum`` gives NaN where a number is NaN, ``maximumNumber`` the largest
        of the others, here zero where every number is NaN. Both are allowed.
        """
        sizes = x.ends if x.span.positive else torch.stack((exact.smallest(x), exact.magnitude(x)))
        if x.missing is not None:
            # where a number may be NaN, the others are certain
            sizes = torch.where(torch.stack((x.nan, sizes[-1].isnan())), 0.0, sizes)
        return Interval.of(sizes.amax(-1, keepdim=True), _any(x.missing, x), Span(0.0, x.span.most, positive=True))

    def power_of_two(self, v: Interval) -> Interval:
        """Return the least power of two not below positive ``v``, as ``exp2(ceil(log2(v)))`` finds it."""
        # an absolute error of the logarithm is a relative one of v
        wide = self.widen(v, exact.magnitude(v).log2().abs().nan_to_num(posinf=0.0) + LOG2)
        return Interval.of(_no_less(wide.ends), v.missing, Span(positive=wide.span.positive))

    def exp(self, z: Interval) -> Interval:
        """Return ``exp(z)``."""
        size, span = z.ends.abs(), z.span
        relative = size * EXP_PER_UNIT + EXP
        if not span.finite:
            relative = torch.where(size < math.inf, relative, 0.0)
        bounds = Span(positive=True)
        if span.most < LARGE_EXPONENT:
            bounds = Span(math.exp(-span.most) / 2, math.exp(span.most) * 2, positive=True)
        ends = z.ends.exp()
        if span.most > -math.log(NOTHING):
            # the machine that judges may make zero of numbers that float64 has: all of them are taken for one
            ends = torch.where((ends < NOTHING) & (z.ends > LEAST_EXPONENT), NOTHING, ends)
        powers = Interval.of(ends, z.missing, bounds)
        return self.widen(powers, relative, most=(EXP + EXP_PER_UNIT * span.most, TINY))

    def sigmoid(self, z: Interval) -> Interval:
        """Return ``1 / (1 + exp(-z))``. Where the denominator passes 2**126 the result may be zero."""
        power = self.exp(-z)
        denominator = self.widen(Interval.of(power.ends + 1, z.missing, power.span.plus(ONE)), ADD)
        result = self.reciprocal(denominator)
        if denominator.span.most < LARGE_DENOMINATOR:
            return result
        return exact.with_zero(result, denominator.hi > LARGE_DENOMINATOR)

    def silu(self, z: Interval) -> Interval:
        """Return ``z * sigmoid(z)``. At minus infinity both the formula's NaN and its limit, zero, are allowed."""
        result = self.product(z, self.sigmoid(z))
        if z.span.finite:
            return result
        limit = z.hi == -math.inf
        return Interval.of(
            torch.where(limit, 0.0, result.ends), either(result.missing, limit), result.span._replace(least=0.0)
        )

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


def _summed(terms: Interval) -> Interval:
    """Return the exact sums of non-negative numbers over the last dimension, kept."""
    exact.non_negative(terms)
    n = terms.ends.shape[-1]
    span = Span(n * terms.span.least / 2, n * terms.span.most * 2, positive=True)
    return Interval.of(terms.ends.sum(-1, keepdim=True), _any(terms.missing, terms), span)


def _any(missing: torch.Tensor | None, x: Interval) -> torch.Tensor | None:
    """Return where NaN is allowed anywhere in the last dimension, kept."""
    return None if missing is None else x.nan.any(-1, keepdim=True)


def _divided(total: Interval, n: int) -> Interval:
    """Return a total of ``n`` numbers divided by that number."""
    span = total.span._replace(least=total.span.least / max(n, 1), most=total.span.most / max(n, 1))
    return Interval.of(total.ends / n, total.missing, span)


def _of_a_sum(depth: int) -> float:
    """Return the relative error of a sum that is ``depth`` additions deep, (1 + U)**depth - 1, in units of U."""
    return math.expm1(depth * math.log1p(U)) / U


def _overflown(x: Interval, sums: torch.Tensor, slack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends of sums of numbers of both signs, with infinities, and where NaN is allowed."""
    low, high = sums[0], sums[-1]
    # an infinity among the numbers is the sum; two of opposite signs have none
    low, high = torch.where(low.isnan(), high, low), torch.where(high.isnan(), low, high)
    lower = torch.where(low.isinf(), low, low - slack)
    upper = torch.where(high.isinf(), high, high + slack)
    finite = torch.where(slack.isfinite(), slack, 0.0)
    positive = x.hi.clamp(min=0.0).sum(-1, keepdim=True) + finite > MAX
    negative = x.lo.clamp(max=0.0).sum(-1, keepdim=True) - finite < -MAX
    lower = torch.where(negative & low.isfinite(), -math.inf, lower)
    upper = torch.where(positive & high.isfinite(), math.inf, upper)
    return torch.stack((lower, upper)), x.nan.any(-1, keepdim=True) | (positive & negative)


def _underflow(factors: tuple[Interval, ...]) -> tuple[float | torch.Tensor, float]:
    """Return the absolute error of a product, where a part may underflow before large factors come; its bound."""
    tiny = TINY * (len(factors) - 1)
    large = [factor for factor in factors if not factor.span.most <= 1.0]
    if not large:
        return tiny, tiny
    largest = reduce(torch.mul, (exact.magnitude(factor).clamp(min=1.0) for factor in large))
    most = math.prod(factor.span.most for factor in large)
    if most < math.inf:
        return largest * tiny, most * tiny
    return torch.where(largest.isfinite(), largest * tiny, TINY), math.inf


def _root(span: Span) -> Span:
    """Return the bounds of the square roots of non-negative numbers."""
    return Span(math.sqrt(span.least), math.sqrt(span.most), positive=True)


def _no_less(values: torch.Tensor) -> torch.Tensor:
    mantissa, exponent = torch.frexp(values)
    power = torch.ldexp(torch.ones_like(values), exponent - (mantissa == POWER).int())
    return torch.where(values.isfinite(), power, values)
