"""The formula of ``gelu_and_mul`` is right by 50 digits, in every form that kernels have, and by PyTorch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import BAD
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.cases.values import draw
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine, U
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import agree, measure
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct_gelu_and_mul import RIGHT, CorrectGeluAndMul
from conformance.selftest.nightly import soaked

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "gelu_and_mul_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["gelu_and_mul"]
ROUNDS = contracts(OPERATION.rounds)
INF, NAN = math.inf, math.nan
# in total over dtypes: 10**7 in a nightly run
ELEMENTS = soaked(3_400_000)
PROPERTIES = ("values", "layout", "specials", "contract", "in_place", "empty", "errors")


def _case(gate: TensorSpec, up: TensorSpec, approximate: str) -> Case:
    return Case("gelu_and_mul", (("gate", gate), ("up", up)), (("approximate", approximate),))


def _interval(contract: Contract, gate: torch.Tensor, up: torch.Tensor, approximate: str) -> Interval:
    first, second = (TensorSpec(tuple(t.shape), str(t.dtype).split(".")[1]) for t in (gate, up))
    return OPERATION.formula(Machine(), contract, {"gate": gate, "up": up}, _case(first, second, approximate))["y"]


# --- the machine's steps ------------------------------------------------------------------------------------

# the step, its value at any size, and the function in it
STEPS: dict[str, tuple[Callable[[Machine, Interval], Interval], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "erf": (Machine.one_and_erf, lambda z: mpmath.erfc(-z), mpmath.erf),
    "tanh": (Machine.one_and_tanh, lambda z: 2 / (1 + mpmath.exp(-2 * z)), mpmath.tanh),
}
NUMBERS = st.one_of(st.floats(width=32, allow_nan=False), st.floats(-25, 25, width=32), st.floats(-2, 2, width=32))


@pytest.mark.parametrize("name", STEPS)
@given(ends=st.lists(NUMBERS, min_size=2, max_size=2).map(sorted))
def test_a_sum_with_one_holds_its_values_at_50_digits(name: str, ends: list[float]) -> None:
    """At both ends and between, also of a function two ulp off, and of what float32 makes of it."""
    step, exact, function = STEPS[name]
    lo, hi = (torch.tensor([end], dtype=torch.float64) for end in ends)
    got = step(Machine(), Interval(lo, hi, lo.isnan()))
    point = step(Machine(), Interval.exactly(lo))
    with mpmath.workdps(50):
        between = [end for end in (ends[0], sum(ends) / 2, ends[1]) if math.isfinite(end)]
        values = [float(exact(value)) for value in between]
        size = abs(float(function(ends[0]))) if math.isfinite(ends[0]) else 1.0
    assert all(got.lo.item() <= value <= got.hi.item() for value in values)
    if math.isfinite(ends[0]):
        # what float64 rounds to -1 is -1 in float32
        off = 0.0 if values[0] < 2.0**-60 else 3.9 * U * size
        single = float(1 + torch.tensor(values[0] - 1, dtype=torch.float64).float())
        for moved in (max(values[0] - off, 0.0), min(values[0] + off, 2.0), single):
            assert point.lo.item() <= moved <= point.hi.item()
        assert (point.hi - point.lo).item() <= (22 * U + 9 * abs(ends[0]) * U * values[0]) * (values[0] + size)


@pytest.mark.parametrize("name", STEPS)
def test_sums_with_one_at_infinities_are_their_limits(name: str) -> None:
    """At minus infinity nothing is left; NaN stays NaN."""
    got = STEPS[name][0](Machine(), Interval.exactly(torch.tensor([-INF, INF, NAN])))

    assert got.nan.tolist() == [False, False, True]
    assert got.contains(torch.tensor([0.0, 2.0, NAN], dtype=torch.float64)).all()
    assert got.lo[0].item() == got.hi[0].item() == 0.0
    assert got.lo[1] > 1.999999


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_functions_of_another_machine_give_the_same_intervals(
    approximate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's functions of float64 are a few ulp from a CPU's; what is allowed stays the same."""
    generator = torch.Generator().manual_seed(5)
    gate, up = (draw(profile, (2048, 64), torch.float32, generator) for profile in ("falling_gate", "normal"))
    gate[::2] *= 3.0
    ours = {"y": _interval(Contract(), gate, up, approximate)}
    exp, erfc = torch.exp, torch.special.erfc

    def off(exact: torch.Tensor) -> torch.Tensor:
        return exact * (1 + (2 * torch.rand(exact.shape, generator=generator, dtype=exact.dtype) - 1) * 2.0**-50)

    monkeypatch.setattr(torch, "exp", lambda z: off(exp(z)))
    monkeypatch.setattr(torch.special, "erfc", lambda z: off(erfc(z)))
    theirs = {"y": _interval(Contract(), gate, up, approximate)}

    assert not torch.equal(ours["y"].lo, theirs["y"].lo)
    agree(ours, theirs)


# --- the formula --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true product is inside, and the interval is as narrow as a sum with one allows."""
    gate, up = (
        torch.tensor([[float.fromhex(v) for v in row] for row in golden[name]], dtype=torch.float64).to(
            getattr(torch, golden[dtype])
        )
        for name, dtype in (("gate", "dtype"), ("up", "up_dtype"))
    )
    got = _interval(Contract(), gate, up, golden["approximate"])
    # numbers far below those of float32 are zero before they are those of float64
    true = [float(value) if abs(float(value)) > 1e-300 else 0.0 for row in golden["out"] for value in row]
    sizes = (gate.double() * up.double()).abs().flatten().tolist()
    ends = zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), sizes, strict=True)
    for lo, value, hi, size in ends:
        assert lo <= value <= hi
        assert hi - lo <= 32 * U * size + 1e-4 * abs(value) + 2.0**-120


def test_golden_values_have_gates_whose_sum_with_one_cancels() -> None:
    """A file without them would prove nothing about the tail."""
    gates = [float.fromhex(v) for case in CASES for row in case["gate"] for v in row]

    assert sum(-8 < gate < -3 for gate in gates) >= 20
    assert min(gates) < -10


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_implementation_is_outside(dtype: str, approximate: str) -> None:
    """Over value profiles no element is judged wrong, whichever form of the formula computes it."""
    total = Comparison()
    count = soaked(2**18)
    for level in OPERATION.ordinary:
        gate, up = (
            TensorSpec((count // 128, 128), dtype, values=profile)
            for profile in (("gate", "large") if level == "large" else (level.replace("normal", "gate"), "normal"))
        )
        case = _case(gate, up, approximate)
        values = values_of(case)
        for kind in RIGHT:
            adapter = kind()
            out = adapter.gelu_and_mul(values["gate"], values["up"], approximate=approximate)
            total += measure(Subject(adapter), Contract(), case, values, (out,))

    assert total.outside == 0, total.first
    assert 2 * total.elements >= ELEMENTS


# every implementation in one dtype; the test above covers all of them
@pytest.mark.parametrize(("kind", "dtype"), list(zip(RIGHT, itertools.cycle(DTYPES), strict=False)))
def test_right_implementation_never_fails(kind: type[CorrectGeluAndMul], dtype: str) -> None:
    """No verdict of the quick profile is against an implementation that follows its declaration."""
    subject = Subject(kind())
    every = items(subject, operations=("gelu_and_mul",), properties=PROPERTIES)
    chosen = [item for item in every if item.dtype == dtype]
    verdicts = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert verdicts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pytorch_follows_eager_alone(dtype: torch.dtype) -> None:
    """``F.gelu`` by tanh, times up, rounds the activation, which no result of one rounding explains."""
    for profile in ("gate", "wide_gate", "rows", "falling_gate"):
        generator = torch.Generator().manual_seed(7)
        gate, up = (draw(name, (64, 128), dtype, generator) for name in (profile, "normal"))
        out = (functional.gelu(gate, approximate="tanh") * up).double()
        inside = {
            name: rounded(_interval(Contract(ROUNDS[name]), gate, up, "tanh"), dtype).contains(out)
            for name in ("eager", "fp32")
        }

        assert inside["eager"].all(), profile
        assert not inside["fp32"].all(), profile


@pytest.mark.parametrize(("approximate", "share"), [("none", 0.87), ("tanh", 0.87)])
def test_most_bfloat16_elements_have_one_right_value(approximate: str, share: float) -> None:
    """Gates within 16, of which a sixth are below -3, where the sum with one has lost the bits of bfloat16."""
    gate, up = (
        draw(name, (256, 128), torch.bfloat16, torch.Generator().manual_seed(7)) for name in ("gate", "normal")
    )
    allowed = rounded(_interval(Contract(), gate, up, approximate), torch.bfloat16)
    one = allowed.lo == allowed.hi

    assert one.double().mean() >= share
    assert one[gate > -1].double().mean() >= 0.997


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(
    ("gate", "right", "wrong"),
    [
        (INF, (INF,), (NAN, 0.0)),
        (-INF, (NAN, 0.0), (-1.0, -INF)),
        (NAN, (NAN,), (0.0,)),
        (0.0, (0.0,), (NAN, 1e-30)),
        (-1e30, (0.0,), (-1.0, -1e20, NAN)),
        (1e30, (1e30,), (INF, NAN)),
    ],
)
def test_ends_of_the_range(
    approximate: str, gate: float, right: tuple[float, ...], wrong: tuple[float, ...]
) -> None:
    """Infinities give their limits, and where erf has saturated nothing is left."""
    got = _interval(Contract(), torch.tensor([[gate]]), torch.ones(1, 1), approximate)
    single = torch.tensor([[*right]]).double()

    assert got.contains(single).all()
    assert not got.contains(torch.tensor([[*wrong]], dtype=torch.float64)).any()
