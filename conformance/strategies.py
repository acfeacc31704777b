"""What the operations' strategies share: factors and their covering array, widths, rows, layouts, values.

An operation describes its calls by *factors*, each with a few *levels* (``gate_layout``: contiguous, step, …).
A case is an assignment of levels, completed with sizes and seeds by a pure function of a random generator. The
covering array enumerates assignments so that every pair (or triple) of levels occurs; the rest is drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from conformance.case import Case, Layout

Factors = Mapping[str, tuple[str, ...]]
Assignment = Mapping[str, str]

DTYPES = ("bfloat16", "float16", "float32")

# widths at which masks, tiles and vectors change, beside every power of two and its neighbours
ODD_WIDTHS = (3, 5, 7, 33, 100, 769, 1000)
TILE = 128


@dataclass(frozen=True, slots=True)
class Scope:
    """What one property on one machine may draw: dtype, sizes, and the levels it fixes.

    ``row_edges`` and ``column_edges`` are the thresholds of the implementation under test, so that both sides
    of each are drawn. ``widths`` closes the set of widths (on a GPU every width compiles), empty: any. Sizes that
    a kernel is compiled for follow from ``pinned`` where it is given, so that cases of one assignment share them.
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

    def compiled(self, rng: random.Random) -> random.Random:
        """The generator of what a kernel is compiled for: ``rng``, or one that follows from ``pinned``."""
        return rng if self.pinned is None else random.Random(self.pinned)  # noqa: S311

    def levels(self, factors: Factors) -> Factors:
        """The operation's factors, narrowed to the levels that this scope fixes."""
        fixed = dict(self.fixed)
        # of the levels that a property fixes those that the operation has
        kept = {
            name: tuple(level for level in fixed.get(name, levels) if level in levels)
            for name, levels in factors.items()
        }
        return {name: kept[name] or levels for name, levels in factors.items()}


Complete = Callable[[Assignment, random.Random, Scope], Case]


def covering_array(factors: Factors, strength: int, seed: int) -> tuple[Assignment, ...]:
    """Assignments in which every combination of ``strength`` levels of different factors occurs. Greedy."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    names = sorted(factors)
    missing = {
        combination
        for group in itertools.combinations(names, min(strength, len(names)))
        for combination in itertools.product(*[[(name, level) for level in factors[name]] for name in group])
    }
    # a fixed order, because sets of strings have none
    todo = sorted(missing)
    rng.shuffle(todo)
    rows = []
    for combination in todo:
        if combination not in missing:
            continue
        row = _extend(dict(combination), factors, names, missing, strength, rng)
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
) -> dict[str, str]:
    """Give every other factor the level that covers most of what is missing."""
    rest = [name for name in names if name not in row]
    rng.shuffle(rest)
    for name in rest:
        levels = list(factors[name])
        rng.shuffle(levels)
        row[name] = max(levels, key=lambda level: _gain(row, (name, level), missing, strength))
    return row


def _gain(
    row: Mapping[str, str],
    item: tuple[str, str],
    missing: set[tuple[tuple[str, str], ...]],
    strength: int,
) -> int:
    others = itertools.combinations(row.items(), strength - 1)
    return sum(tuple(sorted((*other, item))) in missing for other in others)


def drawn_cases(factors: Factors, complete: Complete, scope: Scope) -> st.SearchStrategy[Case]:
    """Any assignment, completed, for tests with Hypothesis. Shrinks towards the first level of every factor.

    The profiles draw for themselves (``item.py``), because what they draw must depend on the seed alone.
    """
    assignments = st.fixed_dictionaries(
        {name: st.sampled_from(levels) for name, levels in scope.levels(factors).items()}
    )
    return st.builds(
        lambda assignment, seed: complete(assignment, random.Random(seed), scope),  # noqa: S311
        assignments,
        st.integers(0, 2**32 - 1),
    )


def enumerated_cases(
    factors: Factors, complete: Complete, scope: Scope, *, strength: int, seed: int
) -> Iterator[Case]:
    """The rows of the covering array in the scope's dtype, each completed once."""
    rng = random.Random(seed)  # noqa: S311
    for assignment, pinned in pinned_rows(factors, scope, strength=strength, seed=seed):
        yield complete(assignment, rng, pinned)


def pinned_rows(factors: Factors, scope: Scope, *, strength: int, seed: int) -> list[tuple[Assignment, Scope]]:
    """The rows of the covering array in the scope's dtype, each with the scope to complete it in.

    The dtype is a factor like others: every combination occurs in one of them, not in each. Where every size
    compiles, all cases of one row are compiled for the same sizes.
    """
    levels = {**scope.levels(factors), "dtype": DTYPES}
    array = [row for row in covering_array(levels, strength, seed) if row["dtype"] == scope.dtype]
    if not scope.widths:
        return [(assignment, scope) for assignment in array]
    pins = random.Random(seed)  # noqa: S311
    return [(assignment, replace(scope, pinned=pins.randrange(2**32))) for assignment in array]


def width(level: str, rng: random.Random, scope: Scope) -> int:
    """A row width of a class: ``tile`` is 128, ``narrow`` under 16, ``edge`` beside a power of two."""
    candidates = [n for n in _WIDTHS[level](scope) if 1 <= n <= scope.max_width]
    wanted = scope.compiled(rng).choice(candidates)
    if scope.widths:
        # the nearest width that is compiled anyway
        return min(scope.widths, key=lambda n: (abs(n - wanted), n))
    return wanted


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
    """A number of rows: ``one``, ``few``, or beside a dispatch threshold (``many``)."""
    most = max(1, min(scope.max_rows, scope.max_elements // max(n, 1)))
    if level == "one":
        return 1
    if level == "few":
        return rng.randint(2, max(2, min(8, most)))
    edges = [r for r in _edges(scope.row_edges or (16, 32)) if 2 <= r <= most]
    return rng.choice(edges) if edges else max(2, most)


def leading(count: int, rank: int, rng: random.Random) -> tuple[int, ...]:
    """``count`` rows as ``rank - 1`` leading dimensions."""
    if rank == 1:
        return ()
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
    """A layout of a kind, with an amount drawn for it."""
    return Layout(kind, rng.choice(AMOUNTS.get(kind, (0,))))
