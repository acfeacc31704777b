"""The formula of ``qk_norm_rope`` is right by 50 digits and two models' code, and tells its contracts apart."""

from __future__ import annotations

from functools import reduce
from itertools import product
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
from conformance.operations.rows import count
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import intervals
from conformance.runs.item import cases_of, items
from conformance.runs.judge import judge_item
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_rope import KINDS, RIGHT_WITH_NORMS, CorrectRope, EagerRope, ModelsRope
from conformance.selftest.oracle.golden import from_bits, golden_cases, numbers

OPERATION = OPERATIONS["qk_norm_rope"]
ONE, BETWEEN, MODELS = (Subject(kind()).contract("qk_norm_rope") for kind in (CorrectRope, EagerRope, ModelsRope))


def _intervals(contract: Contract, given: dict[str, torch.Tensor], golden: dict[str, Any]) -> dict[str, Interval]:
    specs = {name: TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in given.items()}
    flags = {name: golden[name] for name in ("head_dim", "pairs")}
    flags |= {name: float.fromhex(golden[name]) for name in ("eps", "weight_offset")}
    case = Case("qk_norm_rope", tuple(specs.items()), tuple(flags.items()))
    return intervals(Subject(CorrectRope()), contract, case, given, slice(0, count(case)))


# --- 50 digits ----------------------------------------------------------------------------------------------


@every("golden", golden_cases("qk_norm_rope_mpmath.json"))
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside the interval, whose width is some fp32 roundings of the larger product."""
    given = {name: numbers(golden[name], golden["dtype"]) for name in ("q", "k")}
    given |= {name: numbers(golden[name], golden["parameter_dtype"]) for name in ("cos", "sin")}
    for name in ("q_weight", "k_weight"):
        given[name] = numbers([golden[name]], golden["parameter_dtype"])[0]
    given["positions"] = torch.tensor(golden["positions"])
    for output, got in _intervals(Contract(depth="tile"), given, golden).items():
        true = [float(value) for row in golden[output] for value in row]
        largest = max(map(abs, true))
        for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
            assert lo <= value <= hi
            assert hi - lo <= 160 * 2.0**-24 * largest


# --- Hugging Face -------------------------------------------------------------------------------------------

# Qwen3 rounds before the weight, Qwen3-Next after it alone; both rotate in the dtype of q
QWEN3 = Contract(frozenset({"normalised", "normed", "angle", "turned"}))
QWEN3_NEXT = Contract(frozenset({"normed", "angle", "turned"}))
FILES = {"qk_norm_rope_qwen3.json": QWEN3, "qk_norm_rope_qwen3_next.json": QWEN3_NEXT}
FOLLOWED = [pytest.param(*case.values, FILES[file], id=case.id) for file in FILES for case in golden_cases(file)]
LOW = [case for case in FOLLOWED if "float32" not in str(case.id)]


def _forbidden(contract: Contract, golden: dict[str, Any]) -> float:
    """Return the share of a model's elements that are outside a contract."""
    dtype = getattr(torch, golden["dtype"])
    given = {name: from_bits(golden[name], dtype) for name in ("q", "k", "cos", "sin")}
    given |= {name: from_bits([golden[name]], dtype)[0] for name in ("q_weight", "k_weight")}
    given["positions"] = torch.tensor(golden["positions"])
    outside = [
        ~rounded(got, dtype).contains(from_bits(golden[output], dtype).double()).flatten()
        for output, got in _intervals(contract, given, golden).items()
    ]
    return float(torch.cat(outside).double().mean())


@every(("golden", "contract"), FOLLOWED)
def test_models_follow_their_contract(golden: dict[str, Any], contract: Contract) -> None:
    """Every bit of Qwen3's and Qwen3-Next's is inside, in every dtype."""
    assert 0.0 == _forbidden(contract, golden)


@every(("golden", "contract"), LOW)
def test_models_do_not_follow_other_contracts(golden: dict[str, Any], contract: Contract) -> None:
    """One rounding forbids a twentieth of the elements of every case in 16 bits, the other model's order some.

    Qwen3-Next rotates a quarter of a head; one rounding allows the rest.
    """
    other = QWEN3_NEXT if contract is QWEN3 else QWEN3

    assert _forbidden(Contract(), golden) >= 0.05
    assert _forbidden(other, golden) > 0


# --- right implementations ----------------------------------------------------------------------------------

# in total over dtypes and implementations: more than 10**7
TOKENS = 160


def _large(dtype: str, pairs: str, profile: str, offset: float = 0.0, wide: str = "") -> Case:
    tensors = {
        "q": TensorSpec((TOKENS, 3, 64), dtype, values=profile),
        "k": TensorSpec((TOKENS, 2, 64), dtype, values=profile),
        "q_weight": TensorSpec((64,), wide or dtype, values="weight"),
        "k_weight": TensorSpec((64,), wide or dtype, values="weight"),
        "positions": TensorSpec((TOKENS,), "int64", values="positions<900"),
        "cos": TensorSpec((900, 24), wide or dtype, values="cos"),
        "sin": TensorSpec((900, 24), wide or dtype, values="sin"),
    }
    flags = {"eps": 1e-6, "head_dim": None, "pairs": pairs, "weight_offset": offset}
    return Case("qk_norm_rope", tuple(tensors.items()), tuple(flags.items()), seed=len(profile))


def _run(adapter: CorrectRope, case: Case) -> tuple[torch.Tensor, ...]:
    values = values_of(case)
    return adapter.qk_norm_rope(*(values.get(name) for name in OPERATION.positional), **dict(case.flags))  # type: ignore[arg-type]


def _compared(kind: type[CorrectRope], contract: Contract, case: Case) -> Comparison:
    adapter = kind()
    allowed = intervals(Subject(adapter), contract, case, values_of(case), slice(0, count(case)))
    parts = [
        compare(name, out.reshape(count(case), -1), allowed[name], tuple(out.shape), 0)
        for name, out in zip(allowed, _run(adapter, case), strict=True)
    ]
    return reduce(add, parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_implementation_is_outside(dtype: str) -> None:
    """No element of 10**7, over value profiles, pairs, offsets and float32 parameters, is judged wrong."""
    total = Comparison()
    for pairs, profile, (offset, wide) in product(
        KINDS, ("normal", "rows", "large"), ((0.0, ""), (-0.1, "float32"))
    ):
        case = _large(dtype, pairs, profile, offset, wide)
        for kind in RIGHT_WITH_NORMS:
            total += _compared(kind, Subject(kind()).contract("qk_norm_rope"), case)

    assert total.outside == 0, total.first
    assert total.elements >= 3_400_000


@pytest.mark.parametrize("pairs", KINDS)
def test_almost_every_bfloat16_element_has_one_right_value(pairs: str) -> None:
    """A sum of a head, one for both numbers of a pair, and some roundings leave a choice for one in a thousand."""
    total = _compared(CorrectRope, ONE, _large("bfloat16", pairs, "normal"))

    assert total.exact / total.elements >= 0.999


CONTRACTS = {"one": (CorrectRope, ONE), "between": (EagerRope, BETWEEN), "models": (ModelsRope, MODELS)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("follows", CONTRACTS)
@pytest.mark.parametrize("declares", CONTRACTS)
def test_contracts_are_told_apart(follows: str, declares: str, dtype: str) -> None:
    """Each of three right implementations follows its own contract, and none of the others."""
    case = _large(dtype, "neighbours", "normal")
    outside = _compared(CONTRACTS[follows][0], CONTRACTS[declares][1], case).outside

    assert (follows == declares) == (outside == 0)


# --- cases --------------------------------------------------------------------------------------------------


def test_simpler_cases_are_calls() -> None:
    """Every case that shrinking tries is a valid call: a right implementation takes it."""
    subject = Subject(CorrectRope())
    drawn = items(subject, operations=("qk_norm_rope",), properties=("layout",))
    cases = [case for item in drawn for case in cases_of(item, subject)]
    tried = [(case, simpler) for case in cases for simpler in OPERATION.simpler(case)]
    assert 1000 < len(tried)

    # as many calls however many cases are drawn, of first ones and last ones alike
    for case, simpler in tried[:: len(tried) // 200]:
        _run(CorrectRope(), simpler)
        assert simpler != case


def test_a_right_implementation_never_fails() -> None:
    """No verdict of the quick profile is against it, and every property passes some case."""
    subject = Subject(CorrectRope())
    verdicts = [v for item in items(subject, operations=("qk_norm_rope",)) for v in judge_item(item, subject)]
    passed = {verdict.property for verdict in verdicts if verdict.status is Status.PASSED}

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert {"values", "layout", "specials", "contract", "row_independence", "empty", "errors"} <= passed
    assert {"in_place", "scale", "bias", "state", "kept_results", "large_index", "threads"} <= passed
