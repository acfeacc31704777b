"""The levels read from a case are those that it was completed from."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from conformance.cases.case import SAME, Case, Layout, TensorSpec
from conformance.cases.corpus import model_shapes, saved_cases
from conformance.cases.factors import DTYPES, Scope, width
from conformance.operations import OPERATIONS
from conformance.operations.levels import effective_levels, levels_of
from conformance.operations.mrope_calls import sections

DRAWN = 400


def _ambiguous(assignment: Mapping[str, str], case: Case) -> set[str]:
    """Return the factors whose level a case does not show, or shares with another level."""
    lost = set()
    given = OPERATIONS[case.operation]
    for name in (*given.positional, *given.keywords):
        if assignment.get(name) == "none":
            lost |= {f"{name}_layout", "values"}
        if assignment.get(f"{name}_layout") == SAME:
            # the dtype and values of a tensor that is x are x's
            lost |= {name, "values"}
        if assignment.get(name) == case.dtype:
            lost |= {name}
    if case.dtype == "float32" and assignment.get("dtypes") != "other_k":
        lost |= {"dtypes"}
    # a vector is one row; memory may limit a case to few rows; widths are in several classes
    lost |= {"rows", "width", "sections", "quant_group"}
    return lost


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_levels_of_a_completed_assignment_are_the_assignment(operation: str, dtype: str) -> None:
    """Every factor has a reader, which returns the drawn level wherever the call shows it."""
    given, rng = OPERATIONS[operation], random.Random(f"{operation} {dtype}")  # noqa: S311 - reproducible
    for _ in range(DRAWN):
        drawn = {factor: rng.choice(levels) for factor, levels in given.factors.items()}
        case = given.complete(drawn, rng, Scope(dtype))
        read = levels_of(case)
        lost = _ambiguous(drawn, case)

        clear = [factor for factor in drawn if factor not in lost]

        assert {factor: drawn[factor] for factor in clear} == {factor: read.get(factor) for factor in clear}
        assert all(level in given.factors[factor] for factor, level in read.items())


@pytest.mark.parametrize("level", ["one", "few", "many"])
def test_a_number_of_rows_is_read_as_it_was_drawn(level: str) -> None:
    """Narrow calls can have many rows; a vector has one, whatever was drawn."""
    given, rng = OPERATIONS["rms_norm"], random.Random(level)  # noqa: S311
    plain = {factor: levels[0] for factor, levels in given.factors.items()}
    cases = [given.complete({**plain, "rows": level}, rng, Scope("float16")) for _ in range(50)]
    vector = given.complete({**plain, "rows": level, "rank": "1"}, rng, Scope("float16"))

    assert {level} == {levels_of(case)["rows"] for case in cases}
    assert "one" == levels_of(vector)["rows"]


@pytest.mark.parametrize("level", OPERATIONS["rms_norm"].factors["width"])
def test_a_width_is_read_as_a_class_that_draws_it(level: str) -> None:
    """Classes overlap: 16 is narrow, and next to a power of two."""
    given, scope = OPERATIONS["rms_norm"], Scope("float16")
    plain = {factor: levels[0] for factor, levels in given.factors.items()}
    possible = {
        name: {width(name, random.Random(seed), scope) for seed in range(400)}  # noqa: S311
        for name in given.factors["width"]
    }
    for seed in range(100):
        case = given.complete({**plain, "width": level}, random.Random(seed), scope)  # noqa: S311
        read = levels_of(case)["width"]

        assert case.tensors[0][1].shape[-1] in possible[read]


def test_cases_of_models_and_saved_ones_have_levels() -> None:
    """Every judged case has a rank, rows and a first layout."""
    shapes = [(shape, OPERATIONS[shape.operation]) for shape in model_shapes()]
    cases = [operation.model_case(shape, 1) for shape, operation in shapes] + list(saved_cases())
    for case in cases:
        first = case.tensors[0][0]

        assert {"rank", "rows", f"{first}_layout"} <= set(levels_of(case))


EFFECTIVE = [
    ((8,), Layout("transposed"), "step"),
    ((8,), Layout("row_gap", 3), "step"),
    ((8,), Layout("swapped"), "step"),
    ((1,), Layout("step", 3), "contiguous"),
    ((4, 8), Layout("swapped"), "row_gap"),
    ((2, 4, 8), Layout("swapped"), "swapped"),
    ((1, 8), Layout("transposed"), "contiguous"),
    ((4, 8), Layout("transposed"), "transposed"),
    ((1, 8), Layout("row_gap", 3), "contiguous"),
    ((1, 8), Layout("offset", 3), "offset"),
    ((1, 8), Layout("expanded"), "contiguous"),
]


@pytest.mark.parametrize(("shape", "given", "effective"), EFFECTIVE)
def test_a_layout_is_named_as_it_is_in_memory(shape: tuple[int, ...], given: Layout, effective: str) -> None:
    """A layout that makes no difference for a shape has the name of the plainer layout."""
    case = Case("rms_norm", (("x", TensorSpec(shape, "float32", given)),), (("eps", 1e-6), ("weight_offset", 0.0)))

    assert given.kind == levels_of(case)["x_layout"]
    assert effective == effective_levels(case)["x_layout"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_empty_call_has_a_rank_and_no_level_that_needs_elements(operation: str) -> None:
    """Zero rows are not few, and zero columns are not narrow."""
    for case in OPERATIONS[operation].empties(Scope("bfloat16")):
        read = levels_of(case)

        assert "rank" in read
        assert all(case.tensors[0][1].shape) or not {"rows", "width"} <= set(read)


@pytest.mark.parametrize("level", OPERATIONS["mrope"].factors["sections"])
def test_sections_are_read_as_a_level_that_gives_them(level: str) -> None:
    """With few frequencies several levels give the same sections."""
    given = OPERATIONS["mrope"]
    plain = {factor: levels[0] for factor, levels in given.factors.items()}
    for dims in given.factors["dims"]:
        drawn = {**plain, "sections": level, "dims": dims}
        case = given.complete(drawn, random.Random(0), Scope("float16"))  # noqa: S311
        half = sum(case.flag("sections"))

        assert case.flag("sections") == sections(levels_of(case)["sections"], half)
