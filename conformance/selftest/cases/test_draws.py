"""Draws of a profile follow from the seed alone: neither what is imported nor the settings around change them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.cases.case import Case
from conformance.cases.draws import drawn
from conformance.runs.item import Item, cases_of, drawing, scope_of
from conformance.selftest.processes import ran

ITEM = Item("rms_norm_gated", "contract", "bfloat16", seed=3)
COUNT = 200
# the program that draws in another process, after importing a local module with a thousand constants
OTHER = """
import constants
from conformance.selftest.cases.test_draws import ids
print(*ids())
"""


def ids() -> list[str]:
    """Return the ids of some drawn cases, in order."""
    scope = scope_of(ITEM, Subject(load("torch")))
    return [case.id for case in drawn(drawing(ITEM, scope), COUNT, ITEM.draw_seed())]


def test_imported_constants_do_not_change_what_is_drawn(tmp_path: Path) -> None:
    """The default backend of Hypothesis gives constants of local modules, and keeps them in a folder."""
    numbers = [7**k % 2**32 + 100 for k in range(1000)]
    (tmp_path / "constants.py").write_text(f"NUMBERS = {numbers}\n", encoding="utf-8")
    made = ran(tmp_path, "-c", OTHER)

    assert ids() == made.stdout.split()
    assert not (tmp_path / ".hypothesis").exists()


def test_settings_around_do_not_change_what_is_drawn() -> None:
    """A run may stand in a project that has a profile of its own."""
    expected, before = ids(), settings.default
    settings.register_profile("another", max_examples=3, derandomize=True, deadline=1)
    settings.load_profile("another")
    try:
        again = ids()
    finally:
        settings.register_profile("before", before)
        settings.load_profile("before")

    assert expected == again


def test_another_seed_gives_other_cases() -> None:
    """The seed of an item is what draws."""
    scope = scope_of(ITEM, Subject(load("torch")))

    first, second = (drawn(drawing(ITEM, scope), COUNT, number) for number in (1, 2))

    assert COUNT == len(first) == len(second)
    assert first != second


@pytest.mark.parametrize("count", [0, 1, 2, 9, 100])
def test_as_many_cases_are_drawn_as_a_profile_counts(count: int) -> None:
    """The simplest case, with which Hypothesis begins, is drawn in addition; equal cases are kept."""
    known = next(cases_of(ITEM, Subject(load("torch"))))

    def make(rng: random.Random) -> Case:
        return replace(known, seed=rng.randrange(2))

    assert count == len(drawn(make, count, 0))


def test_draws_in_which_no_case_is_found_are_left_out() -> None:
    """Few calls may be taken: what is not found is not judged, and no error."""
    case = next(cases_of(ITEM, Subject(load("torch"))))

    found = drawn(lambda rng: case if rng.randrange(2) else None, COUNT, 0)

    assert 0 < len(found) < COUNT
    assert [] == drawn(lambda rng: None, COUNT, 0)
