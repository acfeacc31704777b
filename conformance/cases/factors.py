"""Common parts of the operations' strategies: factors, their covering array, widths, rows, layouts, values.

An operation describes its calls by *factors*, each with a few *levels* (``gate_layout``: contiguous, step, …).
A case is an assignment of levels, completed with sizes and seeds by a pure function of a random generator. The
covering array enumerates assignments so that every pair (or triple) of levels occurs; the rest is drawn.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from conformance.cases.case import Case, Layout
from conformance.cases.draws import strategy

Factors = Mapping[str, tuple[str, ...]]
Assignment = Mapping[str, str]
Level = tuple[str, str]  # a factor and one of its levels
Numbers = range | tuple[int, ...]  # numbers that a size may have

DTYPES = ("bfloat16", "float16", "float32")

# widths at which masks, tiles and vectors change, in addition to every power of two and its neighbours
ODD_WIDTHS = (3, 5, 7, 33, 100, 769, 1000)
TILE = 128
# factors that describe the values in the tensors
OF_VALUES = frozenset({"values", "two_alike"})


@dataclass(frozen=True, slots=True)
class Taken:
    """The calls that an implementation takes, as levels of factors and numbers of sizes; unnamed ones are free.

    ``apart`` holds pairs of levels that are each taken, but not together.
    """

    levels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    sizes: tuple[tuple[str, Numbers], ...] = ()
    apart: frozenset[frozenset[Level]] = frozenset()

    def numbers(self, size: str) -> Numbers | None:
        """Return the numbers that a size may have, None for any."""
        return dict(self.sizes).get(size)

    def fits(self, size: str, number: int) -> bool:
        """Return whether a size may have a number."""
        numbers = self.numbers(size)
        return numbers is None or number in numbers

    def fits_width(self, columns: int, parts: int = 1) -> bool:
        """Return whether a row may consist of ``parts`` groups of ``columns`` columns each."""
        return self.fits("columns", columns * parts) and self.fits("group_size", columns)


EVERYTHING = Taken()


@dataclass(frozen=True, slots=True)
class Scope:
    """Limits on the cases that one property may draw on one machine: dtype, sizes, and the levels it fixes.

    ``row_edges`` and ``column_edges`` are the thresholds of the implementation under test, so that both sides
    of each are drawn. ``widths`` closes the set of widths (on a GPU every width compiles), empty: any. Sizes that
    a kernel is compiled for follow from ``pinned`` where it is given, so that cases of one assignment share them.
    ``taken``: the calls that the implementation takes; ``zero_columns``: whether rows of no columns are among
    them; ``exact``: sizes that are set instead of drawn; ``fills``: many rows may also be as many as
    ``max_elements`` and ``max_rows`` allow.
    """

    dtype: str
    device: str = "cpu"
    row_edges: tuple[int, ...] = ()
    column_edges: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    max_rows: int = 48
    max_width: int = 5120
    max_elements: int = 2**16
    fixed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pinned: int | None = None
    taken: Taken = EVERYTHING
    zero_columns: bool = True
    exact: tuple[tuple[str, int], ...] = ()
    fills: bool = False

    def compiled(self, rng: random.Random) -> random.Random:
        """Return the generator for sizes that a kernel is compiled for: ``rng``, or one seeded with ``pinned``."""
        return rng if self.pinned is None else random.Random(self.pinned)  # noqa: S311

    def levels(self, factors: Factors) -> Factors:
        """Return the operation's factors, narrowed to the levels taken and to those that this scope fixes.

        If the implementation takes none of the fixed levels, all levels that it takes are used instead.
        """
        taken, fixed = dict(self.taken.levels), dict(self.fixed)
        narrowed = {}
        for name, levels in factors.items():
            possible = _of(levels, taken.get(name))
            if name == "width":
                possible = tuple(level for level in possible if _widths(level, self, 1)) or possible
            narrowed[name] = _of(possible, fixed.get(name))
        return narrowed

    def sized(self, **sizes: int) -> Scope:
        """Return this scope with sizes that are set instead of drawn."""
        return replace(self, exact=tuple(sizes.items()))


def _of(levels: tuple[str, ...], chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the levels that are chosen; all of them if ``chosen`` is None or names none of them."""
    return tuple(level for level in levels if chosen is None or level in chosen) or levels


Complete = Callable[[Assignment, random.Random, Scope], Case]


def covering_array(
    factors: Factors, strength: int, seed: int, apart: frozenset[frozenset[Level]] = frozenset()
) -> tuple[Assignment, ...]:
    """Return assignments in which every combination of ``strength`` levels of different factors occurs.

    The search is greedy. No pair of levels in ``apart`` occurs.
    """
    return _searched(tuple(sorted(factors.items())), strength, seed, apart)


# properties, dtypes and chunks of an operation have one array
@functools.lru_cache(maxsize=2**6)
def _searched(
    every: tuple[tuple[str, tuple[str, ...]], ...], strength: int, seed: int, apart: frozenset[frozenset[Level]]
) -> tuple[Assignment, ...]:
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    factors = dict(every)
    names = sorted(factors)
    missing = {
        combination
        for group in itertools.combinations(names, min(strength, len(names)))
        for combination in itertools.product(*[[(name, level) for level in factors[name]] for name in group])
        if not any(pair <= set(combination) for pair in apart)
    }
    # a fixed order, because sets of strings have none
    todo = sorted(missing)
    rng.shuffle(todo)
    rows = []
    for combination in todo:
        if combination not in missing:
            continue
        row = _extend(dict(combination), factors, names, missing, strength, rng, apart)
        missing -= set(itertools.combinations(sorted(row.items()), min(strength, len(names))))
        rows.append(row)
    return tuple(rows)


def _extend(
    row: dict[str, str],
    factors: Factors,
    names: list[str],
    missing: set[tuple[tuple[str, str], ...]],
    strength: int,
    rng: random.Random,
    apart: frozenset[frozenset[Level]],
) -> dict[str, str]:
    """Give every other factor the level that covers the most missing combinations."""
    rest = [name for name in names if name not in row]
    rng.shuffle(rest)
    for name in rest:
        levels = list(factors[name])
        if apart:
            levels = [level for level in levels if not clashes({**row, name: level}, apart)] or levels
        rng.shuffle(levels)
        row[name] = max(levels, key=lambda level: _gain(row, (name, level), missing, strength))
    return row


def clashes(row: Assignment, apart: Iterable[frozenset[Level]]) -> bool:
    """Return whether an assignment has a pair of levels that exclude each other."""
    levels = set(row.items())
    return any(pair <= levels for pair in apart)


def _gain(
    row: Mapping[str, str],
    item: tuple[str, str],
    missing: set[tuple[tuple[str, str], ...]],
    strength: int,
) -> int:
    others = itertools.combinations(row.items(), strength - 1)
    return sum(tuple(sorted((*other, item))) in missing for other in others)


def drawn_cases(factors: Factors, complete: Complete, scope: Scope) -> st.SearchStrategy[Case | None]:
    """Return a Hypothesis strategy of completed assignments. It shrinks to the first level of every factor."""
    levels = scope.levels(factors)
    return strategy(lambda rng: complete(picked(levels, rng), rng, scope))


def picked(levels: Factors, rng: random.Random) -> Assignment:
    """Return an assignment with one of the given levels for every factor."""
    return {name: rng.choice(choices) for name, choices in levels.items()}


def enumerated_cases(
    factors: Factors, complete: Complete, scope: Scope, *, strength: int, seed: int
) -> Iterator[Case]:
    """Yield the rows of the covering array in the scope's dtype, each completed once."""
    rng = random.Random(seed)  # noqa: S311
    for assignment, pinned in pinned_rows(factors, scope, strength=strength, seed=seed):
        yield complete(assignment, rng, pinned)


def pinned_rows(factors: Factors, scope: Scope, *, strength: int, seed: int) -> list[tuple[Assignment, Scope]]:
    """Return the rows of the covering array in the scope's dtype, each with the scope to complete it in.

    The dtype is one more factor: every combination occurs in one dtype, not in each. Where every size compiles,
    all cases of one row are compiled for the same sizes.
    """
    dtypes = dict(scope.taken.levels).get("dtype", DTYPES)
    levels = {**scope.levels(factors), "dtype": dtypes}
    array = [
        row for row in covering_array(levels, strength, seed, scope.taken.apart) if row["dtype"] == scope.dtype
    ]
    if not scope.widths:
        return [(assignment, scope) for assignment in array]
    pins = random.Random(seed)  # noqa: S311
    return [(assignment, replace(scope, pinned=pins.randrange(2**32))) for assignment in array]


def width(level: str, rng: random.Random, scope: Scope, parts: int = 1) -> int:
    """Return a row width of a class: ``tile`` is 128, ``narrow`` at most 16, ``edge`` next to a power of two.

    A row has ``parts`` parts of that width: the implementation must take the whole row.
    """
    exact = dict(scope.exact).get("columns")
    if exact is not None:
        return max(1, exact // parts)
    candidates = _widths(level, scope, parts) or _usual_widths(scope, parts)
    wanted = scope.compiled(rng).choice(candidates)
    fitting = [n for n in scope.widths if scope.taken.fits_width(n, parts)]
    if fitting:
        # the nearest width that is compiled anyway
        return min(fitting, key=lambda n: (abs(n - wanted), n))
    return wanted


@functools.lru_cache(maxsize=2**12)
def _widths(level: str, scope: Scope, parts: int) -> tuple[int, ...]:
    """Return the widths of a class that are taken."""
    most = scope.max_width
    return tuple(n for n in _WIDTHS[level](scope) if 1 <= n <= most and scope.taken.fits_width(n, parts))


def _usual_widths(scope: Scope, parts: int) -> tuple[int, ...]:
    """Return widths from the numbers of a claim, for a class that has no width that is taken."""
    groups = scope.taken.numbers("group_size")
    if groups is not None:
        return tuple(n for n in usual(groups) if scope.taken.fits_width(n, parts)) or (groups[0],)
    numbers = usual(scope.taken.numbers("columns") or range(1, scope.max_width + 1))
    return tuple(n // parts for n in numbers if n % parts == 0) or (numbers[0],)


def usual(numbers: Numbers) -> list[int]:
    """Return numbers to try: all of a tuple; of a range the ends, their neighbours, and near powers of two."""
    if isinstance(numbers, tuple):
        return list(numbers)
    powers = (2**k + d for k in range(20) for d in (-1, 0, 1))
    return sorted({*numbers[:2], *numbers[-2:], *(n for n in powers if n in numbers)})


def _edges(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(v + d for v in values for d in (-1, 0, 1))


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(low, high + 1))


_WIDTHS: dict[str, Callable[[Scope], tuple[int, ...]]] = {
    "tile": lambda _: (TILE,),
    "narrow": lambda _: tuple(range(1, 17)),
    "edge": lambda scope: _edges((*_powers(4, 12), *scope.column_edges)),
    "odd": lambda _: ODD_WIDTHS,
    "wide": lambda _: (2048, 2560, 3584, 4096, 5120),
}


def rows(level: str, rng: random.Random, scope: Scope, n: int) -> int:
    """Return a number of rows: ``one``, ``few``, or next to a dispatch threshold (``many``)."""
    exact = dict(scope.exact).get("rows")
    if exact is not None:
        return exact
    most = max(1, min(scope.max_rows, scope.max_elements // max(n, 1)))
    if level == "one":
        candidates = [1]
    elif level == "few":
        candidates = list(range(2, max(2, min(8, most)) + 1))
    else:
        candidates = [r for r in _edges(scope.row_edges or (16, 32)) if 2 <= r <= most]
        if scope.fills or not candidates:
            # a quarter of them
            candidates += [max(2, most)] * max(1, -(-len(candidates) // 3))
    taken = [r for r in candidates if scope.taken.fits("rows", r)]
    return rng.choice(taken or usual(scope.taken.numbers("rows") or (candidates[-1],))[:1])


def leading(count: int, rank: int, rng: random.Random) -> tuple[int, ...]:
    """Return ``count`` rows as ``rank - 1`` leading dimensions, each of several rows if there are three."""
    if rank == 1:
        return ()
    # three that are not one in memory are a way of their own through a kernel, which chance hardly draws
    first = next((d for d in range(2, count) if count % d == 0), count)
    rest = count // first if count else 0
    second = next((d for d in range(2, rest) if rest % d == 0), count)
    if rank == 4 and second < count:
        spread = [first, second, count // (first * second)]
        rng.shuffle(spread)
        return tuple(spread)
    sizes = [1] * (rank - 1)
    sizes[rng.randrange(rank - 1)] = count
    for place in range(rank - 1):
        divisors = [d for d in range(2, count + 1) if count % d == 0] if count > 1 else []
        other = rng.randrange(rank - 1)
        if sizes[other] == count and divisors and place != other:
            part = rng.choice(divisors)
            sizes[other], sizes[place] = count // part, part
    return tuple(sizes)


AMOUNTS = {"offset": (1, 3), "row_gap": (1, 8, 16), "step": (2, 3), "shared": (0,)}


def layout(kind: str, rng: random.Random) -> Layout:
    """Return a layout of a kind, with an amount drawn for it."""
    return Layout(kind, rng.choice(AMOUNTS.get(kind, (0,))))
