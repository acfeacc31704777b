"""The formula of ``layer_norm`` is right by 50 digits and by PyTorch, and its bounds hold what fp32 gives."""

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

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "layer_norm_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["layer_norm"]
ROUNDS = contracts(OPERATION.rounds)
HALVES = (torch.bfloat16, torch.float16)
PARAMS = [pytest.param(case, id=case["id"]) for case in CASES]


def _interval(machine: Machine, contract: Contract, given: dict[str, torch.Tensor], eps: float) -> Interval:
    tensors = tuple((name, TensorSpec(tuple(t.shape), str(t.dtype).split(".")[1])) for name, t in given.items())
    return OPERATION.formula(machine, contract, given, Case("layer_norm", tensors, (("eps", eps),)))["y"]


def _numbers(rows: Any, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows[0], list):
        return torch.stack([_numbers(row, dtype) for row in rows])
    return torch.tensor([float.fromhex(value) for value in rows], dtype=torch.float64).to(dtype)


def _of(golden: dict[str, Any]) -> dict[str, torch.Tensor]:
    dtype = getattr(torch, golden["dtype"])
    return {name: _numbers(golden[name], dtype) for name in ("x", "weight", "bias") if golden[name] is not None}


@pytest.mark.parametrize("golden", PARAMS)
@pytest.mark.parametrize("running", [False, True])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any], running: bool) -> None:  # noqa: FBT001
    """The true result is inside, and the interval is narrow where nothing cancels."""
    given = _of(golden)
    got = _interval(Machine(running_variance=running), Contract(depth="tile"), given, float.fromhex(golden["eps"]))
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]
    largest = max(abs(value) for value in true)
    cancels = running or len(golden["x"][0]) == 1 or golden["id"].split("-")[-1] != "0"
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert cancels or hi - lo <= 1e-4 * largest + 1e-6


def test_golden_values_have_every_vector_and_means_far_from_zero() -> None:
    """A file without one of these would prove nothing about it."""
    assert {(True, True), (True, False), (False, True), (False, False)} == {
        (case["weight"] is not None, case["bias"] is not None) for case in CASES
    }
    assert {"0", "4", "64"} == {case["id"].split("-")[-1] for case in CASES}


def _rows(profile: str, n: int, dtype: torch.dtype) -> torch.Tensor:
    return draw(profile, (64, n), dtype, torch.Generator().manual_seed(n))


@pytest.mark.parametrize("profile", ["normal", "rows", "constant", "shifted", "large", "subnormal"])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 100, 1000, 4096])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_pytorch_is_inside(profile: str, n: int, dtype: torch.dtype) -> None:
    """Every bit of ``F.layer_norm``, with its running variance, is allowed."""
    x, (weight, bias) = _rows(profile, n, dtype), _rows("weight", n, dtype)[:2]
    out = functional.layer_norm(x, (n,), weight, bias, 1e-5)
    got = _interval(Machine(running_variance=True), Contract(), {"x": x, "weight": weight, "bias": bias}, 1e-5)

    assert rounded(got, dtype).contains(out.double()).all()


def _eager(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


@pytest.mark.parametrize("profile", ["normal", "rows", "constant", "shifted"])
@pytest.mark.parametrize("n", [2, 16, 128, 769])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_plain_pytorch_follows_eager_alone(profile: str, n: int, dtype: torch.dtype) -> None:
    """The formula written in low precision is inside ``eager``, and in wide rows not inside ``fp32``."""
    x, (weight, bias) = _rows(profile, n, dtype), _rows("weight", n, dtype)[:2]
    given, out = {"x": x, "weight": weight, "bias": bias}, _eager(x, weight, bias, 1e-5).double()
    inside = {
        name: rounded(_interval(Machine(), Contract(ROUNDS[name]), given, 1e-5), dtype).contains(out).all()
        for name in ("eager", "fp32")
    }

    assert inside["eager"]
    # nothing is left of a constant row, however it is rounded
    assert n < 16 or profile == "constant" or not inside["fp32"]


def test_a_mean_of_both_signs_may_cross_zero() -> None:
    """Where numbers cancel, the sum's error is relative to their magnitudes, not to their sum."""
    x = Interval.exactly(torch.tensor([[1e6, 1.0, -1e6, -1.0]]))
    mean = Machine().signed_mean(x, 24)

    assert bool((mean.lo < 0).all())
    assert bool((mean.hi > 0).all())
    assert float(mean.hi) == pytest.approx(24 * 2.0**-24 * 2e6 / 4, rel=0.01)


@pytest.mark.parametrize(
    ("numbers", "nan", "ends"),
    [
        ([torch.inf, 1.0, 2.0], False, (torch.inf, torch.inf)),
        ([-torch.inf, 1.0, 2.0], False, (-torch.inf, -torch.inf)),
        ([torch.inf, -torch.inf, 2.0], True, None),
        ([torch.nan, 1.0, 2.0], True, None),
        ([3e38, 3e38, 1.0], False, None),
        ([3e38, 3e38, -3e38, -3e38], True, (-torch.inf, torch.inf)),
    ],
)
def test_a_mean_of_special_numbers(numbers: list[float], nan: bool, ends: tuple[float, float] | None) -> None:  # noqa: FBT001
    """An infinity is the mean, two of opposite signs have none, and partial sums of either sign may overflow."""
    mean = Machine().signed_mean(Interval.exactly(torch.tensor([numbers])), 24)

    assert nan == bool(mean.nan)
    assert ends is None or ends == (float(mean.lo), float(mean.hi))
    assert numbers[0] != 3e38 or torch.isinf(mean.hi).all()


def test_a_mean_of_squares_takes_no_other_numbers() -> None:
    """Used on numbers of both signs it would give an interval that is silently too narrow."""
    x = Interval.exactly(torch.tensor([[1.0, -1.0]]))
    for step in (lambda v: Machine().mean(v, 2), Machine().rsqrt, Machine().sqrt, Machine().reciprocal):
        with pytest.raises(AssertionError, match="non-negative"):
            step(x)


def test_a_variance_is_larger_by_the_square_of_what_the_mean_misses() -> None:
    """A mean that is off by a quarter adds a sixteenth; a known right mean adds nothing."""
    x = Interval.exactly(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    for off, want in ((0.0, 1.25), (0.25, 1.25 + 0.0625)):
        got = Machine().variance(x, Interval.exactly(torch.tensor([[2.5 + off]])), 24)

        assert float(got.lo) <= want <= float(got.hi)
        assert float(got.hi) - float(got.lo) < 1e-5


def test_a_running_variance_may_miss_what_two_passes_do_not() -> None:
    """Its error grows with the mean, and NaN is allowed where squares come near the largest number."""
    numbers = torch.tensor([[1000.0, 1001.0, 1002.0, 1003.0]])

    def found(scale: float, *, running: bool) -> Interval:
        x = numbers.double() * scale
        machine = Machine(running_variance=running)
        return machine.variance(Interval.exactly(x), Interval.exactly(x.mean(-1, keepdim=True)), 24)

    two, running = (found(1.0, running=declared) for declared in (False, True))
    # the squares sum to 0.4 of the largest number, and the deviations to far less
    near, beyond = (found(6e15, running=declared) for declared in (False, True))

    assert float(running.lo) < float(two.lo)
    assert float(running.hi) > float(two.hi)
    assert float(running.hi - running.lo) > 10 * float(two.hi - two.lo)
    assert not near.nan.any()
    assert near.hi.isfinite().all()
    assert beyond.nan.all()
    assert beyond.hi.isinf().all()
