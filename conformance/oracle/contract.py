"""Contracts: where an implementation rounds, and how deep its sums are.

A contract is a set of rounding points plus a summation depth. The points are the operation's, each of which
declares its own. The store always rounds. A point rounds to the promoted dtype of its operands, once, to nearest
even; but ``power_of_two`` rounds a scale up to a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from conformance.oracle.interval import Interval, Span

EXPONENT = 0x7FF0000000000000  # the exponent's bits of a float64: alone they are a power of two


@dataclass(frozen=True, slots=True)
class Point:
    """A rounding point of an operation.

    ``scales``: its numbers grow with a power of the arguments, and leave a narrow range with them. ``eager``:
    plain PyTorch on low-precision tensors rounds there; otherwise the point is another contract.
    """

    name: str
    scales: bool = False
    eager: bool = True


class Multiplier(Protocol):
    """An object that multiplies intervals: the model of the machine, which builds upon this module."""

    def product(self, *factors: Interval) -> Interval:
        """Return the product of all factors."""
        ...


Depth = int | Literal["tile", "lanes", "serial"]


@dataclass(frozen=True, slots=True)
class Contract:
    """Rounding points and the longest chain of additions in a sum of ``n`` terms.

    ``depth`` is a number or a rule: ``tile`` (24 up to 256 columns, 64 above: a block reduced by lanes and
    shuffles), ``lanes`` (at least that, and ``ceil(log2 n) + ceil(n / 128) + 2``: 128 lanes that each sum
    serially), ``serial`` (n - 1: one running sum).
    """

    rounds: frozenset[str] = frozenset()
    depth: Depth = "lanes"

    def __post_init__(self) -> None:
        """Refuse a depth that means nothing."""
        if isinstance(self.depth, str) and self.depth not in _DEPTHS:
            message = f"Contract: depth={self.depth!r}, must be a number or one of {tuple(_DEPTHS)}"
            raise ValueError(message)

    def additions(self, n: int) -> int:
        """Return the longest chain of additions in a sum of ``n`` terms.

        The relative error of the sum is at most that number times 2**-24.
        """
        return self.depth if isinstance(self.depth, int) else _DEPTHS[self.depth](n)

    def at(self, point: str, interval: Interval, dtype: torch.dtype) -> Interval:
        """Return ``interval``, rounded to ``dtype`` where this contract rounds at ``point``."""
        return rounded(interval, dtype) if point in self.rounds else interval

    def settle(
        self, point: str, machine: Multiplier, factors: tuple[Interval, ...], dtype: torch.dtype
    ) -> tuple[Interval, ...]:
        """Return the factors of a product, multiplied out and rounded where this contract rounds at ``point``.

        Where the contract does not round, the factors stay apart: no contract orders their multiplication.
        """
        return (rounded(machine.product(*factors), dtype),) if point in self.rounds else factors


def _tile(n: int) -> int:
    return 24 if n <= 256 else 64


def _lanes(n: int) -> int:
    return max(_tile(n), math.ceil(math.log2(max(n, 1))) + math.ceil(n / 128) + 2)


def _serial(n: int) -> int:
    return max(n - 1, 1)


_DEPTHS = {"tile": _tile, "lanes": _lanes, "serial": _serial}

# the named contracts that are the same for every operation
NAMED = {
    "fp32": frozenset[str](),
    "hf": frozenset({"normalised", "weighted"}),
    "two_step": frozenset({"weighted", "act"}),
    "low": frozenset({"turned"}),
}


def contracts(points: Iterable[Point]) -> dict[str, frozenset[str]]:
    """Return the named sets of rounding points; ``eager`` has all points but those of another contract."""
    return {**NAMED, "eager": frozenset(point.name for point in points if point.eager)}


def named(contract: str | Contract, points: Iterable[Point]) -> Contract:
    """Return the contract of a name, or the given contract. Raises ``ValueError`` for an unknown name."""
    if isinstance(contract, Contract):
        return contract
    known = contracts(points)
    if contract not in known:
        message = f"contract={contract!r}, must be one of {tuple(known)} or a Contract(rounds=…, depth=…)"
        raise ValueError(message)
    return Contract(known[contract])


def in_words(contract: Contract, points: tuple[Point, ...], shown: Iterable[str] | None = None) -> str:
    """Return the name of a contract, if it has one, and its points in the order of the formula.

    ``shown``: the only points that are mentioned, by default all.
    """
    name = next((f"{name} " for name, rounds in contracts(points).items() if rounds == contract.rounds), "")
    return f"{name}{in_braces(contract, [point.name for point in points] if shown is None else shown)}"


def in_braces(contract: Contract, points: Iterable[str]) -> str:
    """Return those of the points at which a contract rounds, in braces."""
    return f"{{{', '.join(point for point in points if point in contract.rounds)}}}"


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 values to ``dtype`` once, to nearest even; fp8 and integers saturate, as every kernel has to.

    ``values.to(bfloat16)`` goes through float32 and rounds twice.
    """
    if not dtype.is_floating_point:
        return values.round().clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if dtype.itemsize == 1:
        # PyTorch's cast saturates in some versions and gives NaN in others
        values = values.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    if dtype == torch.float32:
        return values.float().double()
    # the sum with a number whose last bit is the last one of the result is rounded there, to nearest even
    info = torch.finfo(dtype)
    power = values.view(torch.int64).bitwise_and(EXPONENT).view(torch.float64)
    carrier = power.clamp_(info.smallest_normal, info.max).mul_(1.5 * info.eps * 2.0**52)
    exact = (values + carrier).sub_(carrier).copysign_(values)
    # past the largest number the cast gives infinity
    return exact.to(dtype).double()


def rounded(interval: Interval, dtype: torch.dtype) -> Interval:
    """Return the interval with both ends rounded: rounding is monotonic, so no allowed value is lost or added."""
    ends = round_once(interval.ends, dtype)
    return Interval.of(ends, interval.missing, _rounded_span(interval.span, dtype))


def _rounded_span(span: Span, dtype: torch.dtype) -> Span:
    """Return loose bounds of what is rounded: it may become zero, or infinite."""
    loose = span.loose()
    if not dtype.is_floating_point:
        # every number below a half becomes zero, and a large one saturates
        return Span(0.0, torch.iinfo(dtype).max + 1, span.positive)
    info = torch.finfo(dtype)
    least = loose.least if loose.least > info.smallest_normal else 0.0
    # fp8 saturates
    past = info.max if dtype.itemsize == 1 else math.inf
    return Span(least, loose.most if loose.most < info.max else past, span.positive)
