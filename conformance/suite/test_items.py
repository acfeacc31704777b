"""Every property of every operation in every dtype, on the adapter that ``--adapter`` names."""

from conformance.plugin import Judging
from conformance.runs.item import Item


def test_item(item: Item, judging: Judging) -> None:
    """The promise of the item's property holds on all of its cases."""
    failures = judging.run(item)

    assert not failures, "\n\n".join(map(str, failures))
