"""The formula of ``rms_norm`` and ``gemma_rms_norm`` is right by 50 digits and third-party code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.cases.case import Case, TensorSpec
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import NAMED, Contract, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import measure
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_norm import CorrectNorm

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden"
MACHINE = Machine()
SUM = frozenset({"sum"})
CODES = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def _golden(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / name).read_text(encoding="utf-8"))["cases"]
    assert cases
    return cases


def _params(operation: str, cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(operation, case, id=f"{operation}-{case['id']}") for case in cases]


def _intervals(
    operation: str, contract: Contract, given: dict[str, torch.Tensor], golden: dict[str, Any]
) -> dict[str, Interval]:
    """Return a contract's intervals before the stores; ``s`` is among ``given`` if y is judged given it."""
    named = {name: tensor for name, tensor in given.items() if name != "s"}
    tensors = tuple((name, TensorSpec(tuple(t.shape), str(t.dtype).split(".")[1])) for name, t in named.items())
    flags: dict[str, float] = {"eps": float.fromhex(golden["eps"])}
    if operation == "rms_norm":
        flags["weight_offset"] = golden.get("weight_offset", 0.0)
    return OPERATIONS[operation].formula(MACHINE, contract, given, Case(operation, tensors, tuple(flags.items())))


# --- 50 digits ----------------------------------------------------------------------------------------------


def _numbers(rows: Any, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows[0], list):
        return torch.stack([_numbers(row, dtype) for row in rows])
    return torch.tensor([float.fromhex(value) for value in rows], dtype=torch.float64).to(dtype)


def _at_50_digits(golden: dict[str, Any]) -> dict[str, torch.Tensor]:
    dtypes = {"x": "dtype", "residual": "residual_dtype", "weight": "weight_dtype"}
    return {
        name: _numbers(golden[name], getattr(torch, golden[dtype]))
        for name, dtype in dtypes.items()
        if golden[name] is not None
    }


DIGITS = _golden("rms_norm_mpmath.json")
# with an offset of one and a weight, a case is Gemma's as well
GEMMA = [golden for golden in DIGITS if golden["weight_offset"] == 1.0 and golden["weight"]]
EXACT = [*_params("rms_norm", DIGITS), *_params("gemma_rms_norm", GEMMA)]


def _assert_holds(got: Interval, rows: list[list[str]], share: float) -> None:
    true = [mpmath.mpf(value) for row in rows for value in row]
    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert hi - lo <= share * abs(value) + 2.0**-126


@every(("operation", "golden"), EXACT)
def test_formula_holds_the_value_at_50_digits(operation: str, golden: dict[str, Any]) -> None:
    """With the sum rounded, and given that sum, the true result is in the narrow unrounded interval."""
    given = _at_50_digits(golden)
    if golden["residual"] is not None:
        given["s"] = _numbers(golden["sum"], given["x"].dtype)

    _assert_holds(_intervals(operation, Contract(SUM, "tile"), given, golden)["y"], golden["out"], 2e-5)


SUMS = [param for param in EXACT if param.values[1]["residual"] is not None]


@every(("operation", "golden"), SUMS)
def test_formula_holds_the_rounded_sum(operation: str, golden: dict[str, Any]) -> None:
    """The exact sum rounded once is allowed, nearly always alone, whether the norm uses it or not."""
    given = _at_50_digits(golden)
    dtype = given["x"].dtype
    true = _numbers(golden["sum"], dtype).double()
    for contract in (Contract(SUM, "tile"), Contract(depth="tile")):
        got = rounded(_intervals(operation, contract, given, golden)["s"], dtype)

        assert got.contains(true).all()
        # two ends if a float32 sum of other operands is at a tie of dtype
        assert (got.lo == got.hi).double().mean() >= (0.9 if dtype == torch.float32 else 1.0)


@every(("operation", "golden"), SUMS)
def test_formula_holds_the_norm_of_the_unrounded_sum(operation: str, golden: dict[str, Any]) -> None:
    """Without the point ``sum`` the norm uses the exact sum, and not the stored one."""
    given = _at_50_digits(golden)
    got = _intervals(operation, Contract(depth="tile"), given, golden)["y"]

    _assert_holds(got, golden["out_unrounded"], 2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_the_sum_shows(dtype: str) -> None:
    """The norms of the rounded and of the exact sum differ in most elements, at 50 digits already."""
    told, of = 0, 0
    for golden in DIGITS:
        if golden["dtype"] != dtype or golden["residual"] is None or len(golden["x"][0]) == 1:
            continue
        got = _intervals("rms_norm", Contract(depth="tile"), _at_50_digits(golden), golden)["y"]
        true = torch.tensor([[float(value) for value in row] for row in golden["out"]], dtype=torch.float64)
        told += int((~got.contains(true)).sum())
        of += true.numel()

    assert told >= 0.5 * of


# --- Hugging Face -------------------------------------------------------------------------------------------


def _from_bits(rows: list[str] | str, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows, list):
        return torch.stack([_from_bits(row, dtype) for row in rows])
    size = 8 * dtype.itemsize
    codes = [int(code, 16) for code in rows.split()]
    signed = [code - (1 << size) if code >> (size - 1) else code for code in codes]
    return torch.tensor(signed, dtype=CODES[dtype]).view(dtype)


def _from_module(golden: dict[str, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return arguments, including the sum of a decoder layer, and the module's output."""
    dtype = getattr(torch, golden["dtype"])
    dtypes = {"x": dtype, "residual": dtype, "s": dtype, "weight": getattr(torch, golden["weight_dtype"])}
    bits = {**golden, "s": golden["sum"]}
    given = {name: _from_bits(bits[name], kind) for name, kind in dtypes.items() if bits[name] is not None}
    return given, _from_bits(golden["out"], getattr(torch, golden["out_dtype"]))


def _forbidden(operation: str, rounds: frozenset[str], golden: dict[str, Any]) -> float:
    """Return the share of a module's elements outside a contract."""
    given, out = _from_module(golden)
    allowed = rounded(_intervals(operation, Contract(rounds), given, golden)["y"], out.dtype)
    return float((~allowed.contains(out.double())).double().mean())


LLAMA = _params("rms_norm", _golden("rms_norm_llama.json"))
GEMMA3 = _params("gemma_rms_norm", _golden("gemma_rms_norm_gemma3.json"))


def _low(params: list[Any]) -> list[Any]:
    return [param for param in params if param.values[1]["dtype"] != "float32"]


@every(("operation", "golden"), LLAMA)
def test_llama_follows_hf(operation: str, golden: dict[str, Any]) -> None:
    """Every bit of ``LlamaRMSNorm``, and of the sum before it, is inside the contract named after it."""
    assert 0.0 == _forbidden(operation, NAMED["hf"] | SUM, golden)


@every(("operation", "golden"), _low(LLAMA))
def test_llama_does_not_follow_fp32(operation: str, golden: dict[str, Any]) -> None:
    """One rounding instead of two forbids at least a tenth of its elements."""
    assert _forbidden(operation, NAMED["fp32"] | SUM, golden) >= 0.1


@every(("operation", "golden"), GEMMA3)
def test_gemma_follows_fp32(operation: str, golden: dict[str, Any]) -> None:
    """``Gemma3RMSNorm`` rounds at the store alone: Hugging Face's order for Gemma is ours."""
    assert 0.0 == _forbidden(operation, NAMED["fp32"] | SUM, golden)


@every(("operation", "golden"), _low(GEMMA3))
@every("rounds", [NAMED["hf"], frozenset({"normalised"})])
def test_gemma_does_not_follow_llamas_order(
    operation: str, golden: dict[str, Any], rounds: frozenset[str]
) -> None:
    """Rounding before the weight forbids at least a tenth of its elements."""
    assert _forbidden(operation, rounds | SUM, golden) >= 0.1


@every(("operation", "golden"), [param for param in _low(GEMMA3) if param.values[1]["weight_dtype"] != "float32"])
def test_gemma_does_not_form_its_weight_in_low_precision(operation: str, golden: dict[str, Any]) -> None:
    """``1 + w`` rounded to the weight's dtype forbids at least a tenth of its elements."""
    assert _forbidden(operation, frozenset({"offset"}) | SUM, golden) >= 0.1


@every(
    ("operation", "golden"),
    [param for param in (*LLAMA, *GEMMA3) if param.values[1]["residual"] is not None],
)
def test_the_sum_of_a_decoder_layer_is_the_rounded_one(operation: str, golden: dict[str, Any]) -> None:
    """``x + residual`` of torch in the tensors' dtype is the one value that the formula allows."""
    given, _ = _from_module(golden)
    got = rounded(_intervals(operation, Contract(SUM), given, golden)["s"], given["s"].dtype)

    assert torch.equal(got.lo, given["s"].double())
    assert torch.equal(got.hi, given["s"].double())


# --- contracts told apart -----------------------------------------------------------------------------------


class Following(CorrectNorm):
    """An implementation that rounds at the given points, of ``sum``, ``offset`` and ``normalised``."""

    def __init__(self, rounds: frozenset[str]) -> None:
        self.rounds = rounds

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Return the sum, rounded or not."""
        return s.float() if "sum" in self.rounds or residual is None else x.float() + residual.float()

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round the normalised values, or not."""
        y = super().normalise(stream, eps, x)
        return y.to(x.dtype).float() if "normalised" in self.rounds else y

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Round the offset weight, or not."""
        added = super().scale(weight, offset)
        return added.to(weight.dtype).float() if "offset" in self.rounds and offset else added


CONTRACTS = [frozenset(points) for points in ((), ("sum",), ("normalised",), ("sum", "normalised"))]
WITH_OFFSET = [rounds | more for rounds in CONTRACTS for more in (frozenset[str](), frozenset({"offset"}))]
FOLLOWED = [("rms_norm", rounds) for rounds in CONTRACTS] + [("gemma_rms_norm", rounds) for rounds in WITH_OFFSET]


def _judged(operation: str, follows: frozenset[str], declares: frozenset[str], dtype: torch.dtype) -> Comparison:
    """Compare rows of 128 of an implementation of one contract with another contract."""
    name = str(dtype).removeprefix("torch.")
    tensors = {
        "x": TensorSpec((8, 128), name),
        "residual": TensorSpec((8, 128), name),
        "weight": TensorSpec((128,), name, values="weight"),
    }
    flags = {"eps": 1e-6} | ({"weight_offset": 0.0} if operation == "rms_norm" else {})
    case = Case(operation, tuple(tensors.items()), tuple(flags.items()), seed=1)
    values, adapter = values_of(case), Following(follows)
    out = getattr(adapter, operation)(values["x"], values["weight"], residual=values["residual"], **flags)
    return measure(Subject(adapter), Contract(declares), case, values, out)


@every("dtype", [torch.bfloat16, torch.float16])
@every(("operation", "follows"), FOLLOWED)
def test_contracts_are_told_apart(operation: str, follows: frozenset[str], dtype: torch.dtype) -> None:
    """Each choice of ``sum``, ``normalised`` and ``offset`` is inside its own contract, and no other."""
    others = [rounds for name, rounds in FOLLOWED if name == operation and rounds != follows]

    assert 0 == _judged(operation, follows, follows, dtype).outside
    assert [] == [rounds for rounds in others if not _judged(operation, follows, rounds, dtype).outside]
