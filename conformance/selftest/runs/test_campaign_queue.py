"""Chunks of a campaign are handed out once each, in order, and again only where they came back."""

from __future__ import annotations

import itertools

import pytest

from conformance.runs.campaign.queue import TRIES, Queue, numbers, to_judge
from conformance.runs.item import PROFILES


@pytest.mark.parametrize(("text", "expected"), [("3", [0, 1, 2]), ("4-6", [4, 5, 6]), ("7-7", [7])])
def test_chunks_are_named_by_their_count_or_their_ends(text: str, expected: list[int]) -> None:
    """A number counts from the profile's first chunk; both ends of a span are in it."""
    assert expected == list(numbers(text))


@pytest.mark.parametrize("text", ["", "0", "-3", "3-", "5-4", "1-2-3", "1.5", "²"])
def test_other_texts_name_no_chunk(text: str) -> None:
    """They are errors, each of which shows the text."""
    with pytest.raises(ValueError, match=r"names no chunk|must be a number of chunks"):
        numbers(text)


def test_chunks_that_are_done_are_left_out() -> None:
    """The others are in order, and without an end where no chunks are named."""
    assert [1, 4] == list(to_judge(range(5), {0, 2, 3, 9}, "quick"))
    assert [0, 2, 3] == list(itertools.islice(to_judge(None, {1}, "quick"), 3))


def test_chunks_without_cases_are_left_out() -> None:
    """A property that is not enumerated has one chunk in a profile; one with given cases has none beyond it."""
    beyond = PROFILES["ci"].chunks

    assert [0, beyond, beyond + 1] == list(to_judge(range(beyond + 2), (), "ci", ["determinism"]))
    assert [0] == list(to_judge(range(beyond + 2), (), "ci", ["errors"]))
    # and that ends, although nobody said where
    assert [0] == list(to_judge(None, (), "ci", ["errors"]))
    assert list(range(beyond + 2)) == list(to_judge(range(beyond + 2), (), "ci", ["errors", "values"]))


def test_a_chunk_that_came_back_is_handed_out_again() -> None:
    """It comes before chunks that were not handed out yet, and no other comes twice."""
    queue = Queue(iter([5, 6]))
    taken = [queue.take()]
    queue.came_back(5)
    taken += [queue.take(), queue.take(), queue.take()]

    assert [5, 5, 6, None] == taken
    assert (1, []) == (queue.lost, queue.given_up)


def test_a_chunk_that_keeps_coming_back_is_given_up() -> None:
    """Others are still handed out."""
    queue = Queue(iter([5, 6]))
    for _ in range(TRIES):
        assert 5 == queue.take()
        queue.came_back(5)

    assert [6, None] == [queue.take(), queue.take()]
    assert (TRIES, [5]) == (queue.lost, queue.given_up)


def test_the_time_ends_the_queue() -> None:
    """Chunks that came back are not handed out after it either, and are not given up."""
    now = iter([0.0, 59.9, 60.0])
    queue = Queue(itertools.count(), until=60.0, clock=lambda: next(now))
    taken = [queue.take(), queue.take()]
    queue.came_back(0)

    assert [0, 1, None] == [*taken, queue.take()]
    assert [] == queue.given_up


def test_a_queue_that_stopped_hands_nothing_out() -> None:
    """Chunks that run go on, and none is begun."""
    queue = Queue(itertools.count())
    queue.stopped = True

    assert queue.take() is None
