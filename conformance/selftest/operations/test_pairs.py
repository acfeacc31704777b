"""Pairs of levels of different factors have numbers of their own, by which coverage adds up."""

from __future__ import annotations

from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.operations.pairs import pairs_in, pairs_of, written
from conformance.selftest.every import every


@every("operation", OPERATIONS)
def test_every_pair_of_levels_has_a_number_of_its_own(operation: str) -> None:
    """The numbers are those from zero on, and no pair is of one factor."""
    pairs, factors = pairs_of(operation), OPERATIONS[operation].factors
    sizes = [len(levels) for levels in (*factors.values(), DTYPES)]

    assert list(range(len(pairs))) == sorted(pairs.values())
    assert (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2 == len(pairs)
    assert all(one[0] < other[0] for one, other in pairs)


@every("operation", OPERATIONS)
def test_a_case_has_a_pair_for_any_two_factors(operation: str) -> None:
    """Also where its levels come in another order; a level without a name is in no pair."""
    levels = {name: choices[0] for name, choices in OPERATIONS[operation].factors.items()} | {"dtype": "float16"}
    pairs = set(pairs_in(operation, levels))
    another = dict(reversed(levels.items())) | {next(iter(levels)): "no level"}

    assert len(levels) * (len(levels) - 1) // 2 == len(pairs)
    assert len(levels) - 1 == len(pairs - set(pairs_in(operation, another)))
    assert set(pairs_in(operation, another)) < pairs


def test_sets_are_written_as_bits() -> None:
    """A union of sets is an or of their numbers."""
    assert ("0", "1", "13") == (written([]), written([0]), written([4, 1, 0, 4]))
