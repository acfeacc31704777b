"""Values: where special numbers are, and that one of every kind is among them."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from conformance.cases.values import draw

KINDS = 5  # NaN, both infinities, both zeros


@given(rows=st.integers(1, 40), columns=st.integers(1, 9), seed=st.integers(0, 2**40))
@example(rows=2, columns=1, seed=0)
def test_special_rows_have_numbers_of_every_kind(rows: int, columns: int, seed: int) -> None:
    """A row has one kind, next to another row's; the first has none, and no tensor of several rows is without."""
    generator = torch.Generator().manual_seed(seed)
    drawn = draw("specials", (rows, columns), torch.float32, generator)
    places = ~drawn.isfinite() | (drawn == 0)
    special = [
        {(str(number), str(1 / number)) for number in row[at].unbind()}
        for row, at in zip(drawn, places, strict=True)
    ]
    kinds = [kind for row in special for kind in row]

    assert not special[0]
    assert all(len(row) <= 1 for row in special)
    assert bool(kinds) is (rows > 1)
    assert len(set(kinds)) == min(len(kinds), KINDS)
