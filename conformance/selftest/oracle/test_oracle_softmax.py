"""The formula of ``softmax`` is right by 50 digits and by PyTorch, with a scale and a mask and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch

from conformance.calls.call import arguments_of
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope
from conformance.cases.values import draw
from conformance.operations import OPERATIONS, telling_cases
from conformance.operations.softmax import SCALES, VALUES
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, contracts, rounded
from conformance.oracle.interval import Interval

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "softmax_mpmath.json").read_text(encoding="utf-8"))["cases"]
MASKED: list[dict[str, Any]] = json.loads((GOLDEN / "masked_softmax_mpmath.json").read_text(encoding="utf-8"))[
    "cases"
]
OPERATION = OPERATIONS["softmax"]
ROUNDS = contracts(OPERATION.rounds)
HALVES = (torch.bfloat16, torch.float16)


def _interval(
    contract: Contract, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> Interval:
    given = {"x": x} if mask is None else {"x": x, "mask": mask}
    specs = {name: TensorSpec(tuple(each.shape), str(each.dtype).split(".")[1]) for name, each in given.items()}
    flags = () if scale is None else (("scale", scale),)
    return OPERATION.formula(Machine(), contract, given, Case("softmax", tuple(specs.items()), flags))["y"]


def _numbers(rows: list[list[Any]], dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows[0][0], bool):
        return torch.tensor(rows)
    return torch.tensor([[float.fromhex(value) for value in row] for row in rows], dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in (*CASES, *MASKED)])
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside, and the interval is narrow."""
    dtype = getattr(torch, golden["dtype"])
    mask = _numbers(golden["mask"], dtype) if "mask" in golden else None
    scale = float.fromhex(golden["scale"]) if "scale" in golden else None
    got = _interval(Contract(depth="tile"), _numbers(golden["x"], dtype), mask, scale)
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        # the error of a product grows with it
        assert hi - lo <= (2e-5 if scale is None else 5e-5) * value


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


ROW = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
MINUS, NO = torch.full((1, 4), -torch.inf), torch.zeros((1, 4), dtype=torch.bool)
LOWEST = torch.full((1, 4), torch.finfo(torch.float32).min)
RESULTS = {"nan": torch.nan, "zeros": 0.0, "shares": 0.25}


@pytest.mark.parametrize(
    ("promise", "mask", "expected"),
    [
        ((), MINUS, ["nan"]),
        ((), NO, ["nan"]),
        # sums that are more exact than float32 tell the scores apart
        ((), LOWEST, ["zeros", "shares"]),
        (("zeroed",), MINUS, ["zeros"]),
        (("zeroed",), NO, ["zeros"]),
        (("filled",), NO, ["shares"]),
        (("filled",), MINUS, ["nan"]),
    ],
)
def test_a_row_masked_whole_is_what_the_contract_promises(
    promise: tuple[str, ...], mask: torch.Tensor, expected: list[str]
) -> None:
    """NaN by the formula, zeros or equal shares where they are promised; a finite mask gives numbers."""
    got = _interval(Contract(frozenset(promise)), ROW, mask)
    allowed = [name for name, number in RESULTS.items() if got.contains(torch.full((1, 4), number).double()).all()]

    assert expected == allowed


def test_what_bools_mask_may_be_replaced_or_added_to() -> None:
    """NaN that is masked is lost where it is replaced, and stays where minus infinity is added: both are right."""
    x, mask = torch.tensor([[1.0, torch.nan, 1.0]]), torch.tensor([[True, False, True]])
    got = _interval(Contract(), x, mask)

    for allowed in ([0.5, 0.0, 0.5], [torch.nan] * 3):
        assert got.contains(torch.tensor([allowed], dtype=torch.float64)).all()
    assert not got.contains(torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)).any()
    assert not _interval(Contract(), x, torch.tensor([[0.0, -torch.inf, 0.0]])).contains(torch.zeros(1, 3)).any()


SCALED = [(None, None), (0.125, None), (SCALES["root"], "same"), (SCALES["root"], "float32"), (None, "bool")]


@pytest.mark.parametrize("level", OPERATION.ordinary)
@pytest.mark.parametrize(("scale", "kind"), SCALED)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_attention_in_pytorch_is_inside(
    level: str, scale: float | None, kind: str | None, dtype: torch.dtype
) -> None:
    """Every bit of its softmax is allowed, where the product and the sum are rounded, and where they are not."""
    profiles, generator = VALUES[level], torch.Generator().manual_seed(3)
    x, mask = draw(profiles[0], (64, 129), dtype, generator), None
    if kind is not None:
        mask = draw(profiles[1], x.shape, dtype if kind == "same" else getattr(torch, kind), generator)
    for rounds, wide in ((frozenset({"scaled", "masked"}), x), (frozenset(), x.float())):
        scores = wide if scale is None else wide * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if kind == "bool" else scores + mask
        out = torch.softmax(scores, -1).to(dtype)

        assert rounded(_interval(Contract(rounds), x, mask, scale), dtype).contains(out.double()).all()


def test_a_rounded_product_and_a_rounded_sum_are_seen() -> None:
    """Scores that PyTorch rounds are outside of ``fp32``, and exact ones outside of the point, for each point."""
    generator = torch.Generator().manual_seed(5)
    x, bias = (draw("wide_gate", (64, 129), torch.bfloat16, generator) for _ in range(2))
    for point, mask, scale in (("scaled", None, SCALES["root"]), ("masked", bias, None)):
        outs = {}
        for name, wide in (("fp32", x.float()), (point, x)):
            scores = wide if scale is None else wide * scale
            outs[name] = torch.softmax(scores if mask is None else scores + mask, -1).to(x.dtype).double()
        for name, rounds in (("fp32", frozenset[str]()), (point, frozenset({point}))):
            allowed = rounded(_interval(Contract(rounds), x, mask, scale), x.dtype)

            assert [name] == [other for other, out in outs.items() if allowed.contains(out).all()]


def test_scores_that_rounding_moves_far_stay_scores() -> None:
    """Products of large numbers err by more than a power can hold: a share is a number below two all the same."""
    got = _interval(Contract(), torch.full((1, 3), 1e37), scale=SCALES["root"])

    assert (got.hi <= 2.001).all()
    assert not got.nan.any()
    # one that is far above all others is the largest, whatever its error
    alone = _interval(Contract(), torch.tensor([[1e37, 5e36]]), scale=SCALES["root"])
    assert alone.contains(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).all()
    assert alone.lo[0, 0] > 0.99
    assert alone.hi[0, 1] < 1e-30


def test_calls_without_scale_and_mask_say_neither() -> None:
    """Their cases, and their ids, are those of an operation that has no such arguments."""
    plain = telling_cases(OPERATION, Scope("float16"))[0]
    saved = Case("softmax", (("x", TensorSpec((10, 128), "float16")),), ())

    assert ((), ["x"]) == (plain.flags, [name for name, _ in plain.tensors])
    assert "2b07812683" == saved.id
    assert {"mask": None, "scale": None} == {
        name: value
        for name, value in arguments_of(materialize(saved, values_of(saved), "cpu", POISONS[0])).items()
        if name != "x"
    }


def test_a_power_is_narrow() -> None:
    """The error grows with the argument's magnitude; where results are flushed, a subnormal one may be zero."""
    z = Interval.exactly(torch.tensor([0.0, -1.0, -80.0, -87.0, -88.0, -torch.inf]))
    got = Machine().exp(z)
    relative = (got.hi - got.lo) / got.hi * 2.0**24 / 2

    assert relative[:3].tolist() == pytest.approx([4.0, 5.25, 104.0], rel=1e-3)
    assert (got.lo == 0).tolist() == [False] * 5 + [True]
    assert (Machine(flushes=True).exp(z).lo == 0).tolist() == [False] * 4 + [True, True]
    assert (got.hi == 0).tolist() == [False] * 5 + [True]
