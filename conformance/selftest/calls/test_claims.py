"""Claims are data: known words, calls inside and outside, and edges judged from both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from conformance.adapter import Adapter, UsageError
from conformance.calls.call import Subject
from conformance.calls.claim import claim, from_data, outside, said, to_data
from conformance.calls.declared import Traits, check
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.operations import OPERATIONS, flags_of
from conformance.runs.describe import claimed_with, method
from conformance.runs.item import Item, cases_of, items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm

GATED = "rms_norm_gated"
X = TensorSpec((2, 3, 128), "bfloat16")
CASE = Case(
    GATED,
    (("x", X), ("gate", replace(X, values="gate")), ("weight", TensorSpec((128,), "bfloat16", values="weight"))),
    (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True)),
)


class Plain(Adapter):
    """A gated norm that is never called."""

    contracts: ClassVar[Mapping[str, Any]] = {GATED: "fp32"}

    def rms_norm_gated(self, x: Any, gate: Any, weight: Any, **flags: Any) -> Any:
        """Return x."""
        return x


class Misspelt(Plain):
    """An adapter with a method named almost like an operation."""

    def rmsnorm(self, x: Any) -> Any:
        """Return x."""
        return x


class Unsigned(Plain):
    """An adapter with a method that lacks an argument."""

    def rms_norm_gated(self, x: Any, gate: Any) -> Any:  # type: ignore[override]  # on purpose
        """Return x."""
        return x


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"takes": {"rms_norm_gatd": {}}}, "'rms_norm_gatd' is unknown, did you mean 'rms_norm_gated'?"),
        ({"launches": {"rms_norm_gatd": {}}}, "'rms_norm_gatd' is unknown, did you mean 'rms_norm_gated'?"),
        ({"launches": {GATED: {"gat": "same"}}}, "launches['rms_norm_gated']: 'gat' is unknown"),
        ({"takes": {GATED: {"gat": "same"}}}, "'gat' is unknown, did you mean 'gate'?"),
        ({"takes": {GATED: {"x_layout": "contigous"}}}, "did you mean 'contiguous'?"),
        ({"takes": {GATED: {"rank": ()}}}, "is empty, must name at least one of 2, 1, 3, 4"),
        ({"takes": {GATED: {"columns": "many"}}}, "must be a positive number, several of them, or a range"),
        ({"takes": {GATED: {"dtype": "bf16"}}}, "did you mean 'bfloat16'?"),
        ({"takes": {GATED: {"apart": {"rank": "1"}}}}, "must be tables of two factors"),
        ({"contracts": {GATED: "fp23"}}, "contract='fp23', must be one of"),
        ({"contracts": {GATED: "fp32", "rmsnorm": "fp32"}}, "'rmsnorm' is unknown, did you mean 'rms_norm'?"),
        ({"deterministic": {"mropes": False}}, "deterministic: 'mropes' is unknown, did you mean 'mrope'?"),
        ({"strides": "contigous"}, "did you mean 'contiguous'?"),
        ({"specialises": ("esp",)}, "did you mean 'eps'?"),
        ({"batch_invarient": False}, "Wrong.batch_invarient: is unknown, did you mean 'batch_invariant'?"),
        ({"contract": {GATED: "fp32"}}, "Wrong.contract: is unknown, did you mean 'contracts'?"),
    ],
)
def test_an_unknown_word_is_one_line_with_the_nearest_known_one(changes: dict[str, Any], words: str) -> None:
    """The message is the same for any misspelt word in an adapter, in any place."""
    adapter = type("Wrong", (Plain,), changes)()

    with pytest.raises(UsageError) as caught:
        check(adapter)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_names_of_an_adapter_are_its_own() -> None:
    """A name that is less like a known one is no misspelling, and a table is a declaration as well."""
    mine = {"compiled": abs, "names": ("a",), "copies": 2, "strides": {GATED: "dense"}}

    check(type("Mine", (Plain,), mine)())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Misspelt, "Misspelt.rmsnorm: is unknown, did you mean 'rms_norm'?"),
        (
            Unsigned,
            "Unsigned.rms_norm_gated: too many positional arguments; must take (self, x, gate, weight",
        ),
        (Adapter, "Adapter: has no method named after an operation"),
    ],
)
def test_methods_that_cannot_be_called_are_told_before_any_call(kind: type[Adapter], words: str) -> None:
    """A misspelt name, a wrong signature or a missing operation is reported first."""
    with pytest.raises(UsageError) as caught:
        check(kind())

    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ""),
        ({"rank": "3", "columns": 128, "x_layout": ("contiguous", "offset")}, ""),
        ({"rank": ("1", "2")}, "rank is 3, taken: 1, 2"),
        ({"columns": range(8, 121, 8)}, "columns is 128, taken: 8 to 120 in steps of 8"),
        ({"columns": (64, 256)}, "columns is 128, taken: 64, 256"),
        ({"dtype": ("float16", "float32")}, "dtype is bfloat16, taken: float16, float32"),
        ({"rows": range(7, 9)}, "rows is 6, taken: 7 to 8"),
        ({"group_size": range(1, 129)}, ""),
        ({"group_size": range(1, 128)}, "group_size is 128, taken: 1 to 127"),
        (
            {"apart": {"gate": "same", "activation": ("silu", "swish")}},
            "taken apart only: activation silu and gate same",
        ),
    ],
)
def test_a_call_lies_inside_of_a_claim_or_the_reason_is_told(given: dict[str, Any], words: str) -> None:
    """Claims restrict levels, dtypes, numbers and pairs."""
    assert words == outside(claim("takes", GATED, given), CASE)


def test_a_vector_with_gaps_has_a_step() -> None:
    """Gaps between rows may be taken without gaps between the elements of a single one."""
    gaps = claim("takes", GATED, {"x_layout": ("contiguous", "row_gap")})
    both = claim("takes", GATED, {"x_layout": ("contiguous", "row_gap", "step")})
    case = replace(CASE, tensors=(("x", replace(X, shape=(128,), layout=Layout("row_gap", 3))), *CASE.tensors[1:]))

    assert outside(gaps, case) == "x_layout is step, taken: contiguous, row_gap"
    assert "" == outside(both, case) == outside(gaps, CASE)


def test_a_claim_survives_json_and_is_told_in_words() -> None:
    """A report has the claim as data and as a sentence."""
    given = {"rank": "3", "columns": 128, "x_layout": "contiguous", "gate_layout": "contiguous"}
    taken = claim("takes", GATED, {**given, "norm_before_gate": "yes", "dtype": ("bfloat16", "float16")})

    assert taken == from_data(to_data(taken))
    assert "takes rank 3, 128 columns, contiguous gate and x, gate after the norm; bf16 and fp16" == said(
        GATED, taken
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_everything_that_a_claim_may_say_is_listed(operation: str) -> None:
    """The listed words of an operation make a claim, and the listed method is the one called."""
    words = claimed_with(operation)
    levels = {name: text.split(", ") for name, text in words.items() if "a number" not in text and name != "apart"}
    text = method(operation)

    assert set(OPERATIONS[operation].factors) <= set(words)
    assert all(claim("takes", operation, {name: chosen}) for name, chosen in levels.items())
    described = OPERATIONS[operation]
    named = ", *, " if described.keywords or flags_of(described) else "):"
    assert text.startswith(f"def {operation}(self, {', '.join(described.positional)}{named}")


class Narrow(CorrectNorm):
    """An adapter that claims two ranks and some widths, and takes everything."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "rms_norm": {
            "rank": ("2", "3"),
            "columns": range(8, 513, 8),
            "weight_layout": "contiguous",
            "rows": (4, 8),
        }
    }


def test_all_that_is_drawn_lies_inside_of_a_claim() -> None:
    """Cases of every property are inside, except of those that test calls past the edge."""
    subject = Subject(Narrow())
    taken = Traits.of(Narrow(), "rms_norm").claim
    assert taken is not None
    drawn = [
        case
        for item in items(subject, operations=("rms_norm",))
        if item.property not in {"claim", "errors"}
        for case in cases_of(item, subject)
    ]

    assert len(drawn) > 500
    assert [] == [str(case) for case in drawn if outside(taken, case)]


def test_both_sides_of_every_edge_are_judged() -> None:
    """Ends of ranges, their neighbours, and unclaimed layouts are judged."""
    subject = Subject(Narrow())
    cases = list(cases_of(Item("rms_norm", "claim", "float32"), subject))
    columns = {case.tensors[0][1].shape[-1] for case in cases}
    layouts = {weight.layout.kind for case in cases if (weight := case.tensor("weight"))}

    assert {7, 8, 9, 16, 512, 513} <= columns
    assert {"contiguous", "offset", "step", "expanded"} == layouts
    assert {"1", "2", "3", "4"} == {str(len(case.tensors[0][1].shape)) for case in cases}


class ReadsStridedWeightsAsContiguous(Correct):
    """A norm whose guards accept a strided weight, which its claim does not name."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {GATED: {"weight_layout": "contiguous"}}

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Read adjacent elements of the weight, whatever its strides."""
        read = weight.as_strided(weight.shape, (1,)) if weight.stride(0) == 1 else weight[:1].expand(weight.shape)
        return super().rms_norm_gated(x, gate, read, **flags)


@pytest.mark.parametrize(
    ("kind", "operation", "wrong"), [(Narrow, "rms_norm", 0), (ReadsStridedWeightsAsContiguous, GATED, 1)]
)
def test_just_outside_of_a_claim_a_call_is_refused_or_right(
    kind: type[Adapter], operation: str, wrong: int
) -> None:
    """A silent mistake past the edge fails; a right result there passes."""
    subject = Subject(kind())
    verdicts = list(judge_item(Item(operation, "claim", "float32"), subject))
    bad = [verdict for verdict in verdicts if verdict.status in BAD]

    assert bool(wrong) == bool(bad), bad
    assert all("weight_layout is" in verdict.reason for verdict in bad)
    assert any(verdict.status is Status.PASSED for verdict in verdicts)


class SmallGroups(Correct):
    """A norm with groups of at most 100 columns; a row without groups is one group."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {GATED: {"group_size": range(1, 101)}}

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Raise for a wider group."""
        if (flags["group_size"] or x.shape[-1]) > 100:
            message = "at most 100 columns a group"
            raise RuntimeError(message)
        return super().rms_norm_gated(x, gate, weight, **flags)


@pytest.mark.parametrize("prop", ["values", "layout", "claim", "empty", "determinism"])
def test_a_row_without_groups_is_one_group(prop: str) -> None:
    """A claim about groups covers such rows: no wider row is judged, and rows of several groups are."""
    subject, item = Subject(SmallGroups()), Item(GATED, prop, "float32")
    claimed = claim("takes", GATED, SmallGroups.takes[GATED])
    verdicts = list(judge_item(item, subject))
    widths = {(case := v.case).flag("group_size") or case.tensors[0][1].shape[-1] for v in verdicts}

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert "takes 1 to 100 columns a group; bf16, fp16 and fp32" == said(GATED, claimed)
    assert prop != "claim" or {100, 101} <= widths
    assert prop not in {"values", "layout"} or max(v.case.tensors[0][1].shape[-1] for v in verdicts) > 100


@pytest.mark.parametrize(
    ("strides", "kind", "fits"),
    [
        ("contiguous", "contiguous", True),
        ("contiguous", "transposed", False),
        ("dense", "transposed", True),
        ("dense", "row_gap", False),
        ("like_input", "transposed", True),
        ("like_input", "contiguous", False),
    ],
)
def test_strides_of_outputs_are_what_is_declared(strides: str, kind: str, fits: bool) -> None:  # noqa: FBT001
    """Outputs are contiguous, dense in any order, or laid out as by elementwise operations."""
    [want] = OPERATIONS[GATED].outputs(CASE)
    place = Layout(kind, 1 if kind == "row_gap" else 0).place(want.shape)
    got = torch.empty(place.extent).as_strided(want.shape, place.strides)

    assert fits == (not want.misplaced(got, strides, Layout("transposed").place(want.shape).strides))
