"""A covering array has every pair or triple of levels that may occur together, and no other."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases.factors import Factors, Level, clashes, covering_array

LEVELS = st.integers(1, 4).map(lambda count: tuple(f"level {number}" for number in range(count)))


@st.composite
def factors_apart(draw: st.DrawFn) -> tuple[Factors, frozenset[frozenset[Level]]]:
    """Draw factors, and pairs of levels that exclude each other; the first level of each excludes none.

    So every combination that has none of the pairs is one of some whole assignment.
    """
    factors = {f"factor {place}": each for place, each in enumerate(draw(st.lists(LEVELS, max_size=5)))}
    later = [(name, level) for name, levels in factors.items() for level in levels[1:]]
    pairs = [frozenset(pair) for pair in itertools.combinations(later, 2) if pair[0][0] != pair[1][0]]
    return factors, draw(st.frozensets(st.sampled_from(pairs), max_size=4)) if pairs else frozenset()


@settings(max_examples=60)
@given(given_factors=factors_apart(), strength=st.integers(2, 3), seed=st.integers(0, 99))
def test_all_combinations_that_may_occur_do(
    given_factors: tuple[Factors, frozenset[frozenset[Level]]], strength: int, seed: int
) -> None:
    """And every row is a whole assignment without a pair of levels that exclude each other."""
    factors, apart = given_factors
    array = covering_array(factors, strength, seed, apart)
    seen = {c for row in array for c in itertools.combinations(sorted(row.items()), min(strength, len(factors)))}
    wanted = {
        combination
        for group in itertools.combinations(sorted(factors), min(strength, len(factors)))
        for combination in itertools.product(*[[(name, level) for level in factors[name]] for name in group])
        if not clashes(dict(combination), apart)
    }

    assert wanted == seen
    assert all(set(row) == set(factors) and not clashes(row, apart) for row in array)
    assert array == covering_array(factors, strength, seed, apart)
