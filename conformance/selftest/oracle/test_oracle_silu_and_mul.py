"""The formula of ``silu_and_mul`` is right by 50 digits and by PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from torch.nn import functional

from conformance.cases.case import Case, TensorSpec
from conformance.cases.values import draw
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "silu_and_mul_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["silu_and_mul"]
ROUNDS = contracts(OPERATION.rounds)


def _interval(contract: Contract, gate: torch.Tensor, up: torch.Tensor) -> Interval:
    specs = (TensorSpec(tuple(t.shape), str(t.dtype).split(".")[1]) for t in (gate, up))
    case = Case("silu_and_mul", tuple(zip(("gate", "up"), specs, strict=True)), ())
    return OPERATION.formula(Machine(), contract, {"gate": gate, "up": up}, case)["y"]


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true product is inside, and the interval is narrow."""
    gate, up = (
        torch.tensor([[float.fromhex(v) for v in row] for row in golden[name]], dtype=torch.float64).to(
            getattr(torch, golden[dtype])
        )
        for name, dtype in (("gate", "dtype"), ("up", "up_dtype"))
    )
    got = _interval(Contract(), gate, up)
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert hi - lo <= 1e-4 * abs(value) + 2.0**-120


@pytest.mark.parametrize("profile", ["gate", "wide_gate", "rows", "subnormal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pytorch_follows_eager_alone(profile: str, dtype: torch.dtype) -> None:
    """``F.silu(gate) * up`` rounds the activation, which no result of one rounding explains."""
    gate, up = (draw(name, (64, 128), dtype, torch.Generator().manual_seed(7)) for name in (profile, "normal"))
    out = (functional.silu(gate) * up).double()
    inside = {n: rounded(_interval(Contract(ROUNDS[n]), gate, up), dtype).contains(out) for n in ("eager", "fp32")}

    assert inside["eager"].all()
    assert profile == "subnormal" or not inside["fp32"].all()
