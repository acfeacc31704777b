"""The formula of ``l2_norm`` is right by 50 digits and by PyTorch."""

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
from conformance.runs.item import void_reason

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "l2_norm_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["l2_norm"]
ROUNDS = contracts(OPERATION.rounds)


def _interval(machine: Machine, contract: Contract, x: torch.Tensor, eps: float) -> Interval:
    spec = TensorSpec(tuple(x.shape), str(x.dtype).split(".")[1])
    return OPERATION.formula(machine, contract, {"x": x}, Case("l2_norm", (("x", spec),), (("eps", eps),)))["y"]


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
@pytest.mark.parametrize("running", [False, True])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any], running: bool) -> None:  # noqa: FBT001
    """The true result is inside, and the interval is narrow; a running variance is no part of it."""
    numbers = [[float.fromhex(value) for value in row] for row in golden["x"]]
    x = torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, golden["dtype"]))
    machine, contract = Machine(running_variance=running), Contract(depth="tile")
    got = _interval(machine, contract, x, float.fromhex(golden["eps"]))
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert hi - lo <= 1e-5 * abs(value) + 2.0**-120


def test_golden_values_have_every_eps_and_width() -> None:
    """A file without one of these would prove nothing about it."""
    assert len({case["eps"] for case in CASES}) == 4
    assert {len(case["x"][0]) for case in CASES} >= {1, 2, 33}


@pytest.mark.parametrize("profile", ["normal", "rows", "small", "constant", "large"])
@pytest.mark.parametrize("n", [16, 128, 769])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_plain_pytorch_follows_eager_alone(profile: str, n: int, dtype: torch.dtype) -> None:
    """The formula written in low precision is inside ``eager``, and not inside ``fp32``."""
    x = draw(profile, (64, n), dtype, torch.Generator().manual_seed(7))
    out = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)).double()
    inside = {
        name: rounded(_interval(Machine(), Contract(ROUNDS[name]), x, 1e-6), dtype).contains(out).all()
        for name in ("eager", "fp32")
    }

    assert inside["eager"]
    assert not inside["fp32"]


@pytest.mark.parametrize("flushes", [False, True])
def test_a_sum_is_a_mean_without_its_division(flushes: bool) -> None:  # noqa: FBT001
    """The sum of four numbers is four times as large, and lacks the division's error alone."""
    terms = Interval.exactly(torch.tensor([[1.0, 2.0, 3.0, 0.25], [0.75 * 2.0**-127] * 4]))
    machine = Machine(flushes=flushes)
    total, mean = machine.total(terms, 24), machine.mean(terms, 24)

    assert bool((total.lo >= 4 * mean.lo).all())
    assert bool((total.hi <= 4 * mean.hi).all())
    assert float(total.hi[0] - total.lo[0]) == pytest.approx(2 * 24 * 2.0**-24 * 6.25, rel=0.01)
    assert flushes == bool(total.lo[1] == 0)


def test_a_sum_takes_no_negative_numbers() -> None:
    """The interval of a sum of both signs would be silently too narrow."""
    with pytest.raises(AssertionError, match="non-negative"):
        Machine().total(Interval.exactly(torch.tensor([[1.0, -1.0]])), 2)


def test_right_roundings_of_a_row_times_one_number_lean() -> None:
    """A factor just above one leaves every number where it was, so that no bias is looked for."""
    x = draw("normal", (64, 128), torch.bfloat16, torch.Generator().manual_seed(7)).double()
    exact = x * (1 + 2.0**-10)

    assert ((rounded(Interval.exactly(exact), torch.bfloat16).lo - exact) * x.sign() <= 0).all()
    assert void_reason("l2_norm", "bias")
    assert not void_reason("layer_norm", "bias")
