"""Draws of cases by Hypothesis: the random part of a profile follows from an item's seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

from conformance.cases.case import Case

Make = Callable[[random.Random], Case | None]

UNIFORM = "conformance-uniform"


class UniformProvider(HypothesisProvider):
    """A backend of Hypothesis whose integers are uniform, and nothing but integers is drawn for a case.

    The default backend gives constants of imported local modules in a twentieth of its draws, reads all local
    modules for them, and keeps what it read in ``.hypothesis``. The same seed must give the same cases whatever
    adapter is loaded and wherever a run starts. The default also prefers small numbers, which would repeat seeds.
    """

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        """Return any number of the range."""
        assert self._random is not None
        assert min_value is not None
        assert max_value is not None
        assert weights is None
        return self._random.randint(min_value, max_value)


# the documented way of adding a backend
AVAILABLE_PROVIDERS[UNIFORM] = UniformProvider


def strategy(make: Make) -> st.SearchStrategy[Case | None]:
    """Return a strategy of the cases that ``make`` builds from a random generator, None where it finds none.

    Every number that ``make`` takes is a choice of Hypothesis: cases shrink to the first of all choices, and
    ``target`` climbs along each of them.
    """
    return st.randoms(use_true_random=False).map(make)


def drawn(make: Make, count: int, number: int) -> list[Case]:
    """Return the cases that ``make`` finds in ``count`` draws with the seed ``number``."""
    cases: list[Case | None] = []
    if count < 1:
        return []

    @seed(number)
    @settings(
        # Hypothesis begins with the simplest case, which is alike in all items; it is drawn in addition
        max_examples=count + 1,
        phases=(Phase.generate,),
        backend=UNIFORM,
        database=None,
        # neither the speed of a machine nor a profile of the tests around may change what is drawn
        deadline=None,
        suppress_health_check=tuple(HealthCheck),
        derandomize=False,
        verbosity=Verbosity.quiet,
    )
    @given(strategy(make))
    def collect(case: Case | None) -> None:
        cases.append(case)

    collect()
    return [case for case in cases[1:] if case is not None]
