"""The formula of ``rope`` is right by 50 digits and three models' code, and its cases show all mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import permutations, product
from operator import add
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.operations.head_sizes import MODEL_CACHE, Sizes
from conformance.operations.rows import count, flat, row_tensors, with_rows
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import intervals
from conformance.runs.item import cases_of, items
from conformance.runs.judge import judge_item
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_rope import KINDS, RIGHT, CorrectRope, EagerRope, LowRope
from conformance.selftest.oracle.golden import from_bits, golden_cases, numbers

OPERATION = OPERATIONS["rope"]
ROUNDS = contracts(OPERATION.rounds)
OUTPUTS = {"rotated_q": "q", "rotated_k": "k"}
OTHER = {"halves": "neighbours", "neighbours": "halves"}


def _intervals(contract: Contract, given: dict[str, torch.Tensor], golden: dict[str, Any]) -> dict[str, Interval]:
    specs = {name: TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in given.items()}
    flags = {name: golden[name] for name in ("head_dim", "pairs")}
    case = Case("rope", tuple(specs.items()), tuple(flags.items()))
    return intervals(Subject(CorrectRope()), contract, case, given, slice(0, count(case)))


# --- 50 digits ----------------------------------------------------------------------------------------------


@every("golden", golden_cases("rope_mpmath.json"))
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside the interval, a few fp32 roundings of the larger product wide."""
    given = {name: numbers(golden[name], golden["dtype"]) for name in ("q", "k")}
    given |= {name: numbers(golden[name], golden["angle_dtype"]) for name in ("cos", "sin")}
    given |= {} if golden["positions"] is None else {"positions": torch.tensor(golden["positions"])}
    for output, got in _intervals(Contract(), given, golden).items():
        largest = float(given[OUTPUTS[output]].abs().max())
        # to the nearest float64, which keeps values between two of them there; 30 digits do not represent a copy
        true = [float(value) for row in golden[output] for value in row]
        for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
            assert lo <= value <= hi
            assert hi - lo <= 8 * 2.0**-24 * largest


# --- Hugging Face -------------------------------------------------------------------------------------------

MODELS = [
    *golden_cases("rope_llama.json"),
    *golden_cases("rope_gpt_neox.json"),
    *golden_cases("rope_gptj.json"),
]
LOW = [param for param in MODELS if param.values[0]["dtype"] != "float32"]


def _forbidden(rounds: frozenset[str], golden: dict[str, Any]) -> float:
    """Return the share of a model's rotated elements that are outside a contract."""
    dtype = getattr(torch, golden["dtype"])
    given = {name: from_bits(golden[name], dtype) for name in ("q", "k", "cos", "sin")}
    given["positions"] = torch.tensor(golden["positions"])
    turned = 2 * given["cos"].shape[1]
    outside = []
    for output, got in _intervals(Contract(rounds), given, golden).items():
        inside = rounded(got, dtype).contains(from_bits(golden[output], dtype).double())
        heads = inside.reshape(-1, golden["head_dim"])
        assert heads[:, turned:].all()
        outside.append(~heads[:, :turned])
    return float(torch.cat(outside).double().mean())


@every("golden", MODELS)
@every("name", ["low", "eager"])
def test_models_follow_the_arithmetic_of_their_tensors(name: str, golden: dict[str, Any]) -> None:
    """Every bit of Llama's, GPT-NeoX's and GPT-J's rotations is inside ``eager`` and, with low tables, ``low``."""
    assert 0.0 == _forbidden(ROUNDS[name], golden)


@every("golden", LOW)
def test_models_do_not_follow_fp32(golden: dict[str, Any]) -> None:
    """One rounding instead of two forbids at least a tenth of the rotated elements."""
    assert _forbidden(ROUNDS["fp32"], golden) >= 0.1


@every("golden", MODELS)
def test_models_do_not_follow_the_other_pairs(golden: dict[str, Any]) -> None:
    """Halves taken for neighbours, or the other way round, forbid elements of every case."""
    assert _forbidden(ROUNDS["eager"], {**golden, "pairs": OTHER[golden["pairs"]]}) >= 0.1


# --- cases --------------------------------------------------------------------------------------------------


def _drawn(prop: str) -> Iterator[Case]:
    """Return the cases of the quick profile, as a property draws them."""
    subject = Subject(CorrectRope())
    for item in items(subject, operations=("rope",), properties=(prop,)):
        yield from cases_of(item, subject)


def test_layouts_reach_every_argument() -> None:
    """Cases have slices of one buffer for q and k, halves of a cache, and positions of every kind."""
    # without calls of real models, which are slices and halves for any drawn level
    cases = [case for case in _drawn("layout") if Sizes.of(case).cache != MODEL_CACHE]
    specs = [dict(case.tensors) for case in cases]
    kinds = {
        (case["q"].layout.kind, case["k"].layout.kind) for case in specs if case["q"].dtype == case["k"].dtype
    }
    positions = [spec.get("positions") for spec in specs]
    forms = {
        (spec and spec.dtype, Sizes.of(case).rank, case.flag("pairs"))
        for spec, case in zip(positions, cases, strict=True)
    }

    assert ("slice", "slice") in kinds
    assert ("shared", "shared") in {(spec["cos"].layout.kind, spec["sin"].layout.kind) for spec in specs}
    assert set(OPERATION.factors["positions_layout"]) == {spec.layout.kind for spec in positions if spec}
    assert set(product((None, "int32", "int64"), (2, 3), KINDS)) == forms


def _one_dtype(spec: dict[str, TensorSpec]) -> bool:
    return spec["q"].dtype == spec["k"].dtype


@pytest.mark.parametrize("level", OPERATION.factors["positions"])
def test_tables_have_a_row_a_token_where_nothing_indexes_them(level: str) -> None:
    """Without positions cos and sin are row tensors, as many rows as tokens, in whatever number these come."""
    for case in _drawn("values"):
        spec, sizes = case.tensor("positions"), Sizes.of(case)
        if (spec.dtype if spec else "none") != level:
            continue
        more = with_rows(flat(case), sizes.tokens + 1)
        tables = {"cos", "sin"} if level == "none" else {"positions"}

        assert {"q", "k"} | tables == row_tensors(case) & set(dict(case.tensors))
        assert sizes.tokens + 1 == Sizes.of(more).tokens
        assert (sizes.cache + 1 if level == "none" else sizes.cache) == Sizes.of(more).cache


def test_positions_say_what_rows_say() -> None:
    """A call without positions is allowed the results of one whose positions count the rows, and no others."""
    case = next(case for case in _drawn("values") if case.tensor("positions") is None and count(case) > 1)
    values = values_of(case)
    spec = TensorSpec((count(case),), "int64")
    counted = Case("rope", (*case.tensors, ("positions", spec)), case.flags, case.seed)
    subject, rows = Subject(CorrectRope()), slice(0, count(case))
    without = intervals(subject, Contract(), case, values, rows)
    along = intervals(subject, Contract(), counted, {**values, "positions": torch.arange(count(case))}, rows)

    for name, interval in without.items():
        assert torch.equal(interval.lo, along[name].lo)
        assert torch.equal(interval.hi, along[name].hi)


def test_simpler_cases_are_calls() -> None:
    """Every case that shrinking tries is a valid call: a right implementation takes it."""
    tried = [(case, simpler) for case in _drawn("layout") for simpler in OPERATION.simpler(case)]
    assert 1000 < len(tried)

    # as many calls however many cases are drawn, of first ones and last ones alike
    for case, simpler in tried[:: len(tried) // 200]:
        _run(CorrectRope(), simpler, values_of(simpler))
        assert simpler != case


# --- right implementations ----------------------------------------------------------------------------------

# in total over dtypes and implementations: more than 10**7
TOKENS = 160


def _large(dtype: str, pairs: str, profile: str) -> Case:
    tensors = {
        "q": TensorSpec((TOKENS, 3, 64), dtype, values=profile),
        "k": TensorSpec((TOKENS, 2, 64), dtype, values=profile),
        "positions": TensorSpec((TOKENS,), "int64", values="positions<900"),
        "cos": TensorSpec((900, 24), dtype, values="cos"),
        "sin": TensorSpec((900, 24), dtype, values="sin"),
    }
    return Case("rope", tuple(tensors.items()), (("head_dim", None), ("pairs", pairs)), seed=len(profile))


def _run(adapter: CorrectRope, case: Case, values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return adapter.rope(*(values.get(name) for name in OPERATION.positional), **dict(case.flags))  # type: ignore[arg-type]


def _compared(kind: type[CorrectRope], declared: str, case: Case) -> Comparison:
    values = values_of(case)
    adapter = kind()
    allowed = intervals(Subject(adapter), Contract(ROUNDS[declared]), case, values, slice(0, count(case)))
    parts = [
        compare(name, out.reshape(count(case), -1), allowed[name], tuple(out.shape), 0)
        for name, out in zip(allowed, _run(adapter, case, values), strict=True)
    ]
    return reduce(add, parts)


def _in_float32(case: Case) -> Case:
    """Return the case with tables in float32."""
    for name in ("cos", "sin"):
        case = case.with_tensor(name, TensorSpec((900, 24), "float32", values=name))
    return case


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_rotation_is_outside(dtype: str) -> None:
    """No element of 10**7, over value profiles, pairs and float32 tables, is judged wrong."""
    total = Comparison()
    for pairs, profile, wide in product(KINDS, ("normal", "rows", "large"), (False, True)):
        case = _large(dtype, pairs, profile)
        for kind in RIGHT:
            total += _compared(kind, str(kind.contracts["rope"]), _in_float32(case) if wide else case)

    assert total.outside == 0, total.first
    assert total.elements >= 3_400_000


@pytest.mark.parametrize("pairs", KINDS)
def test_almost_every_bfloat16_element_has_one_right_value(pairs: str) -> None:
    """Products of bfloat16 numbers are exact in fp32: one rounding leaves a choice for one in ten thousand."""
    total = _compared(CorrectRope, "fp32", _large("bfloat16", pairs, "normal"))

    assert total.exact / total.elements >= 0.9999


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("follows", "declares"),
    list(permutations({"fp32": CorrectRope, "low": LowRope, "eager": EagerRope}.items(), 2)),
)
def test_contracts_are_told_apart(
    follows: tuple[str, type[CorrectRope]], declares: tuple[str, type[CorrectRope]], dtype: str
) -> None:
    """Tables in q's dtype distinguish fp32 from the others, float32 tables distinguish eager."""
    case = _large(dtype, "neighbours", "normal")
    case = _in_float32(case) if "eager" in {follows[0], declares[0]} else case

    assert _compared(follows[1], declares[0], case).outside > 0


def test_a_right_rotation_never_fails() -> None:
    """No verdict of the quick profile is against it, and every property passes some case."""
    subject = Subject(CorrectRope())
    verdicts = [v for item in items(subject, operations=("rope",)) for v in judge_item(item, subject)]
    passed = {verdict.property for verdict in verdicts if verdict.status is Status.PASSED}
    # infinite if float16 overflows, which says nothing about the bound
    worst = max(verdict.comparison.worst for verdict in verdicts)

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert {"values", "layout", "specials", "contract", "copied", "row_independence", "empty", "errors"} <= passed
    assert {"in_place", "scale", "bias", "state", "kept_results", "large_index", "threads"} <= passed
    assert 0.9 <= worst <= 1.0
