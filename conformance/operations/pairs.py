"""Pairs of levels of different factors, numbered: what judged cases have covered is a set of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, combinations, product

from conformance.cases.factors import DTYPES, Level
from conformance.operations import OPERATIONS

Pair = tuple[Level, Level]


def pairs_of(operation: str) -> Mapping[Pair, int]:
    """Return every pair of levels of an operation, the dtype included, with its number.

    Some pairs occur in no call, such as a layout of a tensor with the flag that leaves the tensor out.
    """
    return _numbered(tuple(OPERATIONS[operation].factors.items()))


@cache
def _numbered(factors: tuple[tuple[str, tuple[str, ...]], ...]) -> Mapping[Pair, int]:
    named = {**dict(factors), "dtype": DTYPES}
    levels = [[(name, level) for level in named[name]] for name in sorted(named)]
    every = chain.from_iterable(product(*two) for two in combinations(levels, 2))
    return {pair: number for number, pair in enumerate(every)}


def pairs_in(operation: str, levels: Mapping[str, str]) -> Iterator[int]:
    """Yield the numbers of the pairs that a case with these levels, one for each factor, has."""
    known = pairs_of(operation)
    return (known[pair] for pair in combinations(sorted(levels.items()), 2) if pair in known)


def written(numbers: Iterable[int]) -> str:
    """Return a set of numbers as hexadecimal digits, a bit for each."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return f"{bits:x}"
