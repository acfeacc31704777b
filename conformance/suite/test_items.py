"""Tests of every property of every operation in every dtype, on the adapter that ``--adapter`` names."""

import pytest

from conformance.runs.item import Item
from conformance.runs.judging import Judging


def test_item(item: Item, judging: Judging) -> None:
    """The promise of the item's property holds on all of its cases."""
    judged = judging.run(item)

    if judged.skipped:
        pytest.skip(judged.skipped)
    if judged.broken:
        pytest.fail(judged.broken, pytrace=False)
    assert not judged.failures, "\n\n".join(map(str, judged.failures))
