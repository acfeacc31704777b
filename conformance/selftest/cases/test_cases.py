"""Cases are data: they survive JSON, keep their ids, and the same seed draws the same cases."""

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from typing import ClassVar

import pytest
import torch

from conformance.adapter import Adapter, UsageError, load
from conformance.calls.call import Subject
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status
from conformance.cases.case import LAYOUTS, SHARED_PARTS, Case, Layout, TensorSpec
from conformance.cases.corpus import saved_cases
from conformance.cases.factors import DTYPES, Scope, covering_array, enumerated_cases, pinned_rows
from conformance.cases.values import POSITIONS, PROFILES, SPECIAL, draw
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.passive import judge_call, property_of
from conformance.runs.item import PROFILES as DEPTHS
from conformance.runs.item import Item, cases_of, items, scope_of, void_reason
from conformance.runs.judge import unjudged
from conformance.selftest.every import every

CASE = Case(
    "rms_norm_gated",
    (
        ("weight", TensorSpec((6,), "float32", Layout("step", 2), "weight")),
        ("x", TensorSpec((2, 3, 6), "bfloat16", Layout("swapped"), "rows")),
    ),
    (("norm_before_gate", True), ("eps", 1e-6), ("activation", "silu"), ("group_size", None)),
    seed=7,
)


class _Nothing(Adapter):
    contracts: ClassVar = {"rms_norm_gated": "fp32"}

    def rms_norm_gated(self) -> None:
        """Do nothing: this file only draws cases, and never calls the method."""


def test_a_case_survives_json() -> None:
    """Reading a written case gives an equal case with the same id."""
    again = Case.from_json(CASE.to_json())

    assert CASE == again
    assert CASE.id == again.id


ROTATION = Case(
    "mrope",
    (
        ("sin", TensorSpec((9, 4), "bfloat16", Layout("shared", 1), "sin")),
        ("positions", TensorSpec((3, 5), "int32", Layout("transposed"), "positions<9")),
        ("k", TensorSpec((5, 1, 8), "bfloat16", Layout("slice", 16, 32))),
        ("q", TensorSpec((5, 16), "bfloat16", Layout("slice", 0, 32))),
        ("cos", TensorSpec((9, 4), "bfloat16", Layout("shared", 0), "cos")),
    ),
    (("sections", (2, 1, 1)), ("interleaved", True), ("head_dim", None)),
)


def test_a_case_of_integers_slices_and_tuples_survives_json() -> None:
    """Widths of layouts and tuple flags, which JSON writes as lists, survive too."""
    again = Case.from_json(ROTATION.to_json())

    assert ROTATION == again
    assert hash(ROTATION) == hash(again)
    assert ["q", "k", "positions", "cos", "sin"] == [name for name, _ in again.tensors]


def test_the_order_of_tensors_and_flags_means_nothing() -> None:
    """Equal calls are equal cases, and x names the dtype."""
    other = Case(CASE.operation, CASE.tensors[::-1], CASE.flags[::-1], CASE.seed)

    assert CASE == other
    assert other.dtype == "bfloat16"


def test_what_is_no_case_says_so() -> None:
    """JSON of something else raises a ValueError that shows the text."""
    with pytest.raises(ValueError, match="not a case"):
        Case.from_json('{"operation": "rms_norm_gated"}')


SHAPES = ((5,), (4, 6), (2, 3, 4), (2, 2, 3, 4), (1, 1), (1,), (0, 4), (3, 0))


@every("kind", LAYOUTS)
@every("shape", SHAPES)
def test_a_layout_places_every_element_inside_its_buffer(kind: str, shape: tuple[int, ...]) -> None:
    """Addresses are within the extent, and only ``expanded`` gives two elements the same address."""
    amount = {"row_gap": 3, "step": 2, "offset": 1, "shared": 1}.get(kind, 0)
    place = Layout(kind, amount).place(shape, 2)
    addresses = [
        place.offset + sum(i * s for i, s in zip(index, place.strides, strict=True))
        for index in product(*map(range, shape))
    ]

    assert all(0 <= address < place.extent for address in addresses)
    if kind != "expanded":
        assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_layout_drawn_is_the_layout_made(kind: str) -> None:
    """A materialised tensor has the case's strides and values, with any surroundings in memory."""
    amount = {"row_gap": 3, "step": 2, "offset": 1}.get(kind, 0)
    spec = TensorSpec((3, 2, 6), "bfloat16", Layout(kind, amount), "normal")
    case = CASE.with_tensor("x", spec)
    values = values_of(case)

    x = materialize(case, values, "cpu", POISONS[0]).arguments["x"]

    assert spec.layout.place(spec.shape, SHARED_PARTS).strides == x.stride()
    assert torch.equal(values["x"], x)


def test_shared_tensors_are_slices_of_one_buffer() -> None:
    """Slices x and gate of a projection are in one storage, one after the other in every row."""
    spec = TensorSpec((4, 8), "float32", Layout("shared", 0))
    case = CASE.with_tensor("x", spec)
    case = Case(
        case.operation,
        (*case.tensors, ("gate", TensorSpec((4, 8), "float32", Layout("shared", 1), "gate"))),
        case.flags,
    )

    call = materialize(case, values_of(case), "cpu", POISONS[0]).arguments

    assert call["x"].untyped_storage().data_ptr() == call["gate"].untyped_storage().data_ptr()
    assert call["x"].data_ptr() + 8 * 4 == call["gate"].data_ptr()


def test_slices_of_one_width_lie_in_one_buffer() -> None:
    """Slices q and k of a projection are adjacent in one storage, halves of a cache in another."""
    case = ROTATION
    call = materialize(case, values_of(case), "cpu", POISONS[0]).arguments
    place = {
        name: (tensor.untyped_storage().data_ptr(), tensor.data_ptr())
        for name, tensor in call.items()
        if isinstance(tensor, torch.Tensor)
    }

    assert 3 == len({storage for storage, _ in place.values()})
    assert place["q"][0] == place["k"][0] != place["cos"][0] == place["sin"][0]
    assert place["q"][1] + 16 * 2 == place["k"][1]
    assert (32, 1) == call["q"].stride()
    assert (32, 8, 1) == call["k"].stride()
    assert (8, 1) == call["sin"].stride()
    assert all(torch.equal(values, call[name]) for name, values in values_of(case).items())


@every("rows", [1, 3])
@every("bound", [3, 17, 1000])
@every("dtype", [torch.int32, torch.int64])
@every("profile", POSITIONS)
def test_positions_are_rows_of_a_table(profile: str, rows: int, bound: int, dtype: torch.dtype) -> None:
    """Positions are integers below the bound, from the last row to the first, with the profile's equal axes."""
    drawn = draw(f"{profile}<{bound}", (rows, 40), dtype, torch.Generator().manual_seed(2))
    patterns = POSITIONS[profile]

    assert (dtype, 0, bound - 1) == (drawn.dtype, int(drawn.min()), int(drawn.max()))
    assert (bound - 1, 0) == (int(drawn[0, 0]), int(drawn[0, -1]))
    for token, column in enumerate(drawn.t().tolist()):
        assert len(set(column)) == len(set(patterns[token % len(patterns)][:rows]))


def test_a_tensor_may_be_the_first_one() -> None:
    """The gate may be the same object as x, and the case has one way to write it: equal calls are equal cases."""
    x = TensorSpec((4, 8), "bfloat16", Layout("row_gap", 3), "rows")
    gates = (TensorSpec((4, 8), "bfloat16", Layout("same"), "gate"), TensorSpec((2,), "float32", Layout("same")))
    case, other = (Case(CASE.operation, (("gate", gate), ("x", x)), CASE.flags) for gate in gates)

    values = values_of(case)
    call = materialize(case, values, "cpu", POISONS[0]).arguments

    assert call["gate"] is call["x"]
    assert torch.equal(values["gate"], call["x"])
    assert case == other == Case.from_json(case.to_json())
    assert "layout" == property_of(case)
    assert [(1, 8)] * 2 == [spec.shape for _, spec in case.with_tensor("x", replace(x, shape=(1, 8))).tensors]


@pytest.mark.parametrize("strength", [2, 3])
def test_a_covering_array_covers(strength: int) -> None:
    """Every combination of that many levels of different factors is in some row."""
    factors = {"a": ("1", "2", "3"), "b": ("1", "2"), "c": ("1", "2", "3", "4"), "d": ("1", "2")}
    rows = covering_array(factors, strength, seed=3)
    for names in combinations(factors, strength):
        wanted = set(product(*(factors[name] for name in names)))

        assert wanted == {tuple(row[name] for name in names) for row in rows}


def test_a_covering_array_is_much_smaller_than_the_product() -> None:
    """All pairs of the gated norm's factors need under a hundred cases of millions."""
    factors = OPERATIONS["rms_norm_gated"].factors

    assert len(covering_array(factors, 2, seed=0)) < 100


@pytest.mark.parametrize("operation", OPERATIONS)
def test_dtypes_share_out_the_covering_array(operation: str) -> None:
    """Every pair of levels occurs in some dtype, and every level in each; no dtype has all pairs."""
    factors = OPERATIONS[operation].factors
    by_dtype = {d: [row for row, _ in pinned_rows(factors, Scope(d), strength=2, seed=1)] for d in DTYPES}
    rows = [row for part in by_dtype.values() for row in part]

    for names in combinations(factors, 2):
        assert set(product(*(factors[n] for n in names))) == {tuple(row[n] for n in names) for row in rows}
    for name, levels in factors.items():
        assert all(set(levels) == {row[name] for row in part} for part in by_dtype.values())
    assert len(rows) < 1.5 * len(covering_array(factors, 2, seed=1))


def test_the_same_seed_gives_the_same_cases() -> None:
    """An item's cases depend only on its name and the run's seed, and another seed gives others."""
    subject = Subject(_Nothing())
    item = Item("rms_norm_gated", "layout", "float16", "quick", seed=5)
    first, again = list(cases_of(item, subject)), list(cases_of(item, subject))
    other = list(cases_of(Item("rms_norm_gated", "layout", "float16", "quick", seed=6), subject))

    assert first == again
    assert first != other


def test_there_are_items_exactly_where_a_property_says_something() -> None:
    """A property that says nothing of an operation has no items; where it alone is asked for, that is an error."""
    subject = Subject(load("native"))
    made = {(item.operation, item.property) for item in items(subject, "ci")}

    assert made == {pair for pair in product(OPERATIONS, PROPERTIES) if not void_reason(*pair)}
    assert ("rms_norm", "chain") in made
    assert ("rms_norm_gated", "chain") not in made
    with pytest.raises(UsageError, match="--op rms_norm_gated --property chain: nothing to judge, no result"):
        items(subject, operations=("rms_norm_gated",), properties=("chain",))


@pytest.mark.parametrize("profile", DEPTHS)
def test_an_operation_without_a_method_has_one_item(profile: str) -> None:
    """The item says that the operation is not implemented, whatever was selected; later chunks have none."""
    subject = Subject(_Nothing())

    others = [name for name in OPERATIONS if name != "rms_norm_gated"]
    made = [str(item) for item in items(subject, profile) if item.operation in others]
    assert made == [f"{name}/values/bfloat16/0" for name in others]
    [scale] = items(subject, profile, operations=("rms_norm",), properties=("scale",))
    assert unjudged(scale, subject) == (Status.DECLINED, "not implemented")
    assert not items(subject, profile, operations=tuple(others), chunk=1)


@pytest.mark.parametrize("profile", DEPTHS)
def test_every_profile_replays_every_saved_case(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier failures, and the calls nearest to their bounds, are judged once in each run."""
    monkeypatch.setattr("conformance.runs.item.chosen_cases", lambda *_: ())
    layouts = items(Subject(load("native")), profile, properties=("layout",))
    judged = Counter(case for item in layouts for case in cases_of(item, Subject(load("native"))))

    assert dict.fromkeys(saved_cases(), 1) == {case: judged[case] for case in saved_cases()}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_its_worst_case_in_every_dtype(operation: str) -> None:
    """The saved worst case is small enough for every run; the native form is within bounds on all of them."""
    worst = [case for case in saved_cases() if case.operation == operation]
    verdicts = [verdict for case in worst for verdict in judge_call(Subject(load("native")), case)]
    fraction = max(verdict.comparison.worst for verdict in verdicts)

    assert set(DTYPES) == {case.dtype for case in worst}
    assert all(math.prod(case.tensors[0][1].shape) <= 2**12 for case in worst)
    assert {Status.PASSED} == {verdict.status for verdict in verdicts}
    assert 0.1 < fraction < 1.0


def test_chunks_share_out_the_covering_array() -> None:
    """The chunks of an item together judge the whole array, each chunk its own part."""
    subject = Subject(_Nothing())
    operation = OPERATIONS["rms_norm_gated"]
    found = items(subject, "ci", 0, operations=(operation.name,), properties=("values",))
    parts = [item for item in found if item.dtype == "float32"]
    scope = scope_of(parts[0], subject)
    seed = parts[0].array_seed()
    array = set(enumerated_cases(operation.factors, operation.complete, scope, strength=3, seed=seed))
    shares = [array & set(cases_of(part, subject)) for part in parts]

    assert len(parts) > 1
    assert array == set.union(*shares)
    assert not any(a & b for a, b in combinations(shares, 2))


MASKS = {"padding", "whole"}


@every("profile", PROFILES)
@every("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_values_are_the_same_every_time_and_ordinary_ones_are_finite(profile: str, dtype: torch.dtype) -> None:
    """A profile and a seed give the same bits; only special profiles and masks have non-finite values."""
    first, again = (draw(profile, (9, 40), dtype, torch.Generator().manual_seed(1)) for _ in range(2))

    assert torch.equal(first.view(torch.uint8), again.view(torch.uint8))
    # a mask has minus infinity beside zeros, and nothing else
    plain = first[first != -torch.inf] if profile in MASKS else first
    assert profile in SPECIAL or bool(plain.isfinite().all())
    assert profile not in MASKS or not plain.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_number_past_the_largest_becomes_the_largest(dtype: torch.dtype) -> None:
    """Huge numbers are past those of float16 alone, and give no infinity."""
    drawn = draw("huge", (999, 64), dtype, torch.Generator().manual_seed(1))

    assert drawn.isfinite().all()
    assert (drawn.abs().max() == torch.finfo(dtype).max) == (dtype == torch.float16)
