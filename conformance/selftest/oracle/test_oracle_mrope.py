"""The formula of ``mrope`` is right by 50 digits and third-party code, and its cases show all mistakes."""

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
from conformance.operations.head_sizes import DIMS, MODEL_CACHE, Sizes, spec_of
from conformance.operations.mrope import axis_of_frequency
from conformance.operations.mrope_calls import sections
from conformance.operations.rows import by_row, count
from conformance.oracle.arithmetic import MIN_NORMAL, Machine
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import intervals
from conformance.runs.item import cases_of, items
from conformance.runs.judge import judge_item
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_rotation import RIGHT, CorrectRotation, EagerRotation, LowRotation
from conformance.selftest.oracle.golden import from_bits, golden_cases, numbers

OPERATION = OPERATIONS["mrope"]
ROUNDS = contracts(OPERATION.rounds)
OUTPUTS = {"rotated_q": "q", "rotated_k": "k"}


def _case(given: dict[str, torch.Tensor], golden: dict[str, Any]) -> Case:
    specs = {name: TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in given.items()}
    flags = {name: golden[name] for name in ("head_dim", "interleaved")} | {"sections": tuple(golden["sections"])}
    return Case(OPERATION.name, tuple(specs.items()), tuple(flags.items()))


def _intervals(contract: Contract, given: dict[str, torch.Tensor], golden: dict[str, Any]) -> dict[str, Interval]:
    case = _case(given, golden)
    return intervals(Subject(CorrectRotation()), contract, case, given, slice(0, count(case)))


# --- 50 digits ----------------------------------------------------------------------------------------------


@every("golden", golden_cases("mrope_mpmath.json"))
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside the interval, a few fp32 roundings of the larger product wide."""
    given = {name: numbers(golden[name], golden["dtype"]) for name in ("q", "k")}
    given |= {name: numbers(golden[name], golden["angle_dtype"]) for name in ("cos", "sin")}
    given["positions"] = torch.tensor(golden["positions"])
    for output, got in _intervals(Contract(), given, golden).items():
        largest = float(given[OUTPUTS[output]].abs().max())
        # to the nearest float64, which keeps values between two of them there; 30 digits do not represent a copy
        true = [float(value) for row in golden[output] for value in row]
        for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
            assert lo <= value <= hi
            assert hi - lo <= 8 * 2.0**-24 * largest


# --- Hugging Face -------------------------------------------------------------------------------------------


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


MODELS = [*golden_cases("mrope_qwen2_vl.json"), *golden_cases("mrope_qwen3_5.json")]
LOW = [param for param in MODELS if param.values[0]["dtype"] != "float32"]


@every("golden", MODELS)
@every("name", ["low", "eager"])
def test_models_follow_the_arithmetic_of_their_tensors(name: str, golden: dict[str, Any]) -> None:
    """Every bit of Qwen2-VL's and Qwen3.5's rotations is inside ``eager`` and, with their low tables, ``low``."""
    assert 0.0 == _forbidden(ROUNDS[name], golden)


@every("golden", LOW)
def test_models_do_not_follow_fp32(golden: dict[str, Any]) -> None:
    """One rounding instead of two forbids at least a tenth of the rotated elements."""
    assert _forbidden(ROUNDS["fp32"], golden) >= 0.1


@every("golden", MODELS)
def test_models_do_not_follow_the_other_order(golden: dict[str, Any]) -> None:
    """Sectioned taken for interleaved, or the other way round, forbids elements of every case."""
    other = {**golden, "interleaved": not golden["interleaved"]}

    assert _forbidden(ROUNDS["eager"], other) >= 0.1


# --- axes ---------------------------------------------------------------------------------------------------


def test_axes_of_real_models() -> None:
    """Qwen3.5's frequencies are interleaved and end with time; Qwen2-VL's go section by section."""
    interleaved = axis_of_frequency((11, 11, 10), interleaved=True)

    assert [0, 1, 2, 0, 1, 2] == interleaved[:6]
    assert [2, 0, 1] == interleaved[-3:]
    assert (11, 11, 10) == tuple(interleaved.count(axis) for axis in range(3))
    assert [0] * 16 + [1] * 24 + [2] * 24 == axis_of_frequency((16, 24, 24), interleaved=False)


def test_short_sections_leave_their_turns_to_time() -> None:
    """An axis is among the first three times its section; time has all other frequencies."""
    assert [0, 0, 2, 0, 0, 2, 0, 0] == axis_of_frequency((6, 0, 2), interleaved=True)
    assert [0, 1, 0, 0, 1, 0] == axis_of_frequency((1, 5, 0), interleaved=True)


@pytest.mark.parametrize("level", ["even", "uneven", "two", "text"])
def test_sections_give_every_frequency_an_axis(level: str) -> None:
    """Every drawn number of frequencies gives axes to all; three axes occur if there are three frequencies."""
    halves = {half for sizes in DIMS.values() for _, half in sizes}
    for half in halves:
        given = sections(level, half)

        assert half == sum(given)
        assert min(given) >= 0
        assert level != "even" or half < 3 or {0, 1, 2} == set(axis_of_frequency(given, interleaved=True))


# --- cases --------------------------------------------------------------------------------------------------


def _drawn(prop: str) -> Iterator[Case]:
    """Return the cases of the quick profile, as a property draws them."""
    subject = Subject(CorrectRotation())
    for item in items(subject, operations=(OPERATION.name,), properties=(prop,)):
        yield from cases_of(item, subject)


# pairs of axes that tokens may have equal, and no others, by profile of positions: t and h, h and w, t and w
ALIKE = {
    "positions": {(False, False, False)},
    "time_is_height": {(True, False, False)},
    "time_is_width": {(False, False, True)},
    "height_is_width": {(False, True, False)},
    "prompt": {(True, True, True), (True, False, False), (False, False, True), (False, True, False), (False,) * 3},
}


@pytest.mark.parametrize("prop", ["values", "specials"])
def test_any_two_axes_may_be_alike(prop: str) -> None:
    """Calls have all axes different, each pair equal, and all equal, and every position is in the tables."""
    seen = set()
    for case in _drawn(prop):
        values, profile = values_of(case), spec_of(case, "positions").values.partition("<")[0]
        positions, cache = values["positions"], len(values["cos"])
        assert 0 <= int(positions.min())
        assert int(positions.max()) == cache - 1
        if positions.dim() == 2:
            t, h, w = positions
            pairs = {(bool(a), bool(b), bool(c)) for a, b, c in zip(t == h, h == w, t == w, strict=True)}
            assert pairs <= ALIKE[profile]
            seen.add(profile)

    assert set(ALIKE) == seen


def test_layouts_reach_every_argument() -> None:
    """Cases have slices of one buffer for q and k, halves of a cache, and every form of positions."""
    # without calls of real models, which are slices and halves for any drawn level
    cases = [case for case in _drawn("layout") if Sizes.of(case).cache != MODEL_CACHE]
    together = [case for case in cases if _kinds(case, "q", "k") == ("slice", "slice") and _one_dtype(case)]
    chunked = [case for case in cases if _kinds(case, "cos", "sin") == ("shared", "shared")]
    positions = [dict(case.tensors)["positions"] for case in cases]
    forms = {(len(p.shape), p.dtype, Sizes.of(case).rank) for p, case in zip(positions, cases, strict=True)}

    assert together
    assert chunked
    assert set(OPERATION.factors["positions_layout"]) == {p.layout.kind for p in positions}
    assert set(product((1, 2), ("int32", "int64"), (2, 3))) == forms


def _kinds(case: Case, *names: str) -> tuple[str, ...]:
    return tuple(dict(case.tensors)[name].layout.kind for name in names)


def _one_dtype(case: Case) -> bool:
    tensors = dict(case.tensors)
    return tensors["q"].dtype == tensors["k"].dtype


def test_simpler_cases_are_calls() -> None:
    """Every case that shrinking tries is a valid call: a right implementation takes it."""
    tried = [(case, simpler) for case in _drawn("layout") for simpler in OPERATION.simpler(case)]
    assert 1000 < len(tried)

    # as many calls however many cases are drawn, of first ones and last ones alike
    for case, simpler in tried[:: len(tried) // 200]:
        _run(CorrectRotation(), simpler, values_of(simpler))
        assert simpler != case


# --- right implementations ----------------------------------------------------------------------------------

# in total over dtypes and implementations: more than 10**7
TOKENS = 512


def _large(dtype: str, order: bool, profile: str) -> Case:  # noqa: FBT001 - a parameter of the test
    tensors = {
        "q": TensorSpec((TOKENS, 3, 64), dtype, values=profile),
        "k": TensorSpec((TOKENS, 2, 64), dtype, values=profile),
        "positions": TensorSpec((3, TOKENS), "int64", values="positions<900"),
        "cos": TensorSpec((900, 24), dtype, values="cos"),
        "sin": TensorSpec((900, 24), dtype, values="sin"),
    }
    flags = {"head_dim": None, "interleaved": order, "sections": (8, 8, 8)}
    return Case("mrope", tuple(tensors.items()), tuple(flags.items()), seed=len(profile))


def _run(adapter: CorrectRotation, case: Case, values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return adapter.mrope(*(values[name] for name in OPERATION.positional), **dict(case.flags))  # type: ignore[arg-type]


def _compared(kind: type[CorrectRotation], declared: str, case: Case) -> Comparison:
    values = values_of(case)
    adapter = kind()
    allowed = intervals(Subject(adapter), Contract(ROUNDS[declared]), case, values, slice(0, count(case)))
    parts = [
        compare(name, out.reshape(count(case), -1), allowed[name], tuple(out.shape), 0)
        for name, out in zip(allowed, _run(adapter, case, values), strict=True)
    ]
    return reduce(add, parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_rotation_is_outside(dtype: str) -> None:
    """No element of 10**7, over value profiles, orders and float32 tables, is judged wrong."""
    total = Comparison()
    for order, profile, tables in product((True, False), ("normal", "rows", "large"), (dtype, "float32")):
        case = _large(dtype, order, profile)
        for name in ("cos", "sin"):
            case = case.with_tensor(name, TensorSpec((900, 24), tables, values=name))
        for kind in RIGHT:
            total += _compared(kind, str(kind.contracts["mrope"]), case)

    assert total.outside == 0, total.first
    assert total.elements >= 3_400_000


def test_almost_every_bfloat16_element_has_one_right_value() -> None:
    """Products of bfloat16 numbers are exact in fp32: one rounding leaves a choice for one in ten thousand."""
    total = _compared(CorrectRotation, "fp32", _large("bfloat16", order=True, profile="normal"))

    assert total.exact / total.elements >= 0.9999


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("follows", "declares"),
    list(permutations({"fp32": CorrectRotation, "low": LowRotation, "eager": EagerRotation}.items(), 2)),
)
def test_contracts_are_told_apart(
    follows: tuple[str, type[CorrectRotation]], declares: tuple[str, type[CorrectRotation]], dtype: str
) -> None:
    """Tables in q's dtype distinguish fp32 from the others, float32 tables distinguish eager."""
    case = _large(dtype, order=True, profile="normal")
    names = {follows[0], declares[0]}
    if "eager" in names:
        for name in ("cos", "sin"):
            case = case.with_tensor(name, TensorSpec((900, 24), "float32", values=name))

    assert _compared(follows[1], declares[0], case).outside > 0


def test_a_right_rotation_never_fails() -> None:
    """No verdict of the quick profile is against it, and every property passes some case."""
    subject = Subject(CorrectRotation())
    verdicts = [v for item in items(subject, operations=(OPERATION.name,)) for v in judge_item(item, subject)]
    passed = {verdict.property for verdict in verdicts if verdict.status is Status.PASSED}
    # infinite if float16 overflows, which says nothing about the bound
    worst = max(verdict.comparison.worst for verdict in verdicts)

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert {"values", "layout", "specials", "contract", "copied", "row_independence", "empty", "errors"} <= passed
    assert 0.9 <= worst <= 1.0


def test_a_flushing_machine_is_allowed_its_zeros() -> None:
    """Products below the smallest normal number may be zero, and nothing else changes."""
    case = _large("bfloat16", order=True, profile="subnormal")
    values = values_of(case)
    given = {name: by_row(case, name, t) if name in OPERATION.row_tensors else t for name, t in values.items()}
    plain, flushing = (
        OPERATION.formula(Machine(flushes=flushes), Contract(), given, case) for flushes in (False, True)
    )
    for name, exact in plain.items():
        lo, hi, loose = (ends.reshape(-1, 64)[:, :48] for ends in (exact.lo, exact.hi, flushing[name].lo))
        small = (torch.maximum(lo.abs(), hi.abs()) < MIN_NORMAL) & (lo > 0)
        normal = lo > 4 * MIN_NORMAL

        assert small.any()
        assert (loose[small] <= 0).all()
        assert (loose[normal] > 0).all()
