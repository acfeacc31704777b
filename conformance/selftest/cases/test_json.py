"""A case is the same case after it was written and read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from conformance.cases.case import BESIDE, Case, Flag, Layout, TensorSpec

NAMES = st.sampled_from(["x", "q", "k", "gate", "residual", "weight", "bias", "mask", "positions", "cos", "sin"])
LAYOUTS = st.builds(Layout, st.sampled_from([*BESIDE, "slice"]), st.integers(0, 99), st.integers(0, 999))
SPECS = st.builds(
    TensorSpec,
    st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    st.sampled_from(["bfloat16", "float16", "float32", "int64"]),
    LAYOUTS,
    st.text(max_size=8),
)
FLAGS: st.SearchStrategy[Flag] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3).map(tuple),
)
CASES = st.builds(
    Case,
    st.text(max_size=8),
    st.dictionaries(NAMES, SPECS, min_size=1, max_size=5).map(lambda each: tuple(each.items())),
    st.dictionaries(st.text(max_size=8), FLAGS, max_size=4).map(lambda each: tuple(each.items())),
    st.integers(0, 2**32 - 1),
    st.none() | st.text(max_size=8),
)


@given(case=CASES)
def test_a_case_survives_json(case: Case) -> None:
    """Types of flags included: True is not 1, and no tuple is a list."""
    again = Case.from_json(case.to_json())

    assert case == again
    assert case.id == again.id
    assert [type(value) for _, value in case.flags] == [type(value) for _, value in again.flags]


@given(case=CASES)
def test_order_does_not_change_a_case(case: Case) -> None:
    """Equal calls are equal cases, but for a tensor that would be the first of the others."""
    data = json.loads(case.to_json())
    data["flags"] = dict(reversed(data["flags"].items()))
    turned = Case(case.operation, case.tensors, tuple(reversed(case.flags)), case.seed, case.invalid)

    assert case == turned == Case.from_data(data)
    assert case.to_json() == turned.to_json()
