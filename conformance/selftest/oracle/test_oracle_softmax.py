"""The formula of ``softmax`` is right by 50 digits and by PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch

from conformance.cases.case import Case, TensorSpec
from conformance.cases.values import draw
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "softmax_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["softmax"]
ROUNDS = contracts(OPERATION.rounds)
HALVES = (torch.bfloat16, torch.float16)


def _interval(contract: Contract, x: torch.Tensor) -> Interval:
    spec = TensorSpec(tuple(x.shape), str(x.dtype).split(".")[1])
    return OPERATION.formula(Machine(), contract, {"x": x}, Case("softmax", (("x", spec),), ()))["y"]


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside, and the interval is narrow."""
    numbers = [[float.fromhex(value) for value in row] for row in golden["x"]]
    x = torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, golden["dtype"]))
    got = _interval(Contract(depth="tile"), x)
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert hi - lo <= 2e-5 * value


def test_golden_values_have_rows_far_below_and_above_zero() -> None:
    """A file without one of these would prove nothing about the maximum."""
    largest = [max(map(float.fromhex, row)) for case in CASES for row in case["x"]]

    assert min(largest) < -200
    assert max(largest) > 200


@pytest.mark.parametrize("profile", ["normal", "rows", "constant", "far", "wide_gate", "large", "masked"])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_pytorch_is_inside(profile: str, n: int, dtype: torch.dtype) -> None:
    """Every bit of ``torch.softmax`` is allowed."""
    x = draw(profile, (64, n), dtype, torch.Generator().manual_seed(n))

    assert rounded(_interval(Contract(), x), dtype).contains(torch.softmax(x, -1).double()).all()


@pytest.mark.parametrize("profile", ["normal", "rows", "far"])
@pytest.mark.parametrize("n", [16, 128, 769])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_plain_pytorch_follows_eager_alone(profile: str, n: int, dtype: torch.dtype) -> None:
    """The formula written in low precision is inside ``eager``, and not inside ``fp32``."""
    x = draw(profile, (64, n), dtype, torch.Generator().manual_seed(7))
    powers = torch.exp(x - x.amax(-1, keepdim=True))
    out = (powers / powers.sum(-1, keepdim=True)).double()
    inside = {
        name: rounded(_interval(Contract(ROUNDS[name]), x), dtype).contains(out).all()
        for name in ("eager", "fp32")
    }

    assert inside["eager"]
    assert not inside["fp32"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([-torch.inf, -torch.inf], [torch.nan, torch.nan]),
        ([torch.inf, -torch.inf], [torch.nan, torch.nan]),
        ([torch.nan, -torch.inf], [torch.nan, torch.nan]),
        ([-torch.inf, 5.0], [0.0, 1.0]),
        ([-3e38, 3e38], [0.0, 1.0]),
    ],
)
def test_infinities(row: list[float], expected: list[float]) -> None:
    """A row has to give NaN where infinities of one sign are subtracted, and must not elsewhere."""
    got = _interval(Contract(), torch.tensor([row]))

    assert got.contains(torch.tensor([expected], dtype=torch.float64)).all()
    for wrong in (0.0, 1.0) if expected[0] != expected[0] else (torch.nan,):
        assert not got.contains(torch.full((1, 2), wrong, dtype=torch.float64)).any()


def test_a_power_is_narrow() -> None:
    """The error grows with the argument's magnitude; where results are flushed, a subnormal one may be zero."""
    z = Interval.exactly(torch.tensor([0.0, -1.0, -80.0, -87.0, -88.0, -torch.inf]))
    got = Machine().exp(z)
    relative = (got.hi - got.lo) / got.hi * 2.0**24 / 2

    assert relative[:3].tolist() == pytest.approx([4.0, 5.25, 104.0], rel=1e-3)
    assert (got.lo == 0).tolist() == [False] * 5 + [True]
    assert (Machine(flushes=True).exp(z).lo == 0).tolist() == [False] * 4 + [True, True]
    assert (got.hi == 0).tolist() == [False] * 5 + [True]
