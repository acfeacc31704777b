"""Of outputs that break their contract the suite says which one they follow, and how much each explains."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from conformance.adapters.native import Native
from conformance.calling import Subject
from conformance.case import Case, Flag, TensorSpec
from conformance.discovery import Evidence, follow
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract
from conformance.properties import contract
from conformance.verdict import Status

SHAPE = (16, 128)
FP8: dict[str, Flag] = {
    "also_unquantised": False,
    "fp8_dtype": "float8_e4m3fn",
    "quant_group": 128,
    "scale_layout": "row",
}
GATED: dict[str, Flag] = {"activation": "silu", "group_size": None, "norm_before_gate": True}
FLAGS: dict[str, dict[str, Flag]] = {
    "rms_norm": {"weight_offset": 0.0},
    "gemma_rms_norm": {},
    "rms_norm_gated": GATED,
    "rms_norm_fp8": {"weight_offset": 0.0, **FP8},
    "rms_norm_gated_fp8": {**GATED, **FP8},
}
# what is declared in place of what the native form does, and the set that explains all of its outputs
DECLARED = {
    "rms_norm": (frozenset({"sum", "normalised", "weighted"}), "{sum}"),
    "gemma_rms_norm": (frozenset({"sum", "offset"}), "{sum}"),
    "rms_norm_gated": (frozenset({"weighted", "act"}), "fp32 {}"),
    "mrope": (frozenset({"angle", "turned"}), "fp32 {}"),
    "rms_norm_fp8": (frozenset({"sum"}), "{sum, unquantised}"),
    "rms_norm_gated_fp8": (frozenset[str](), "{unquantised}"),
}


def _case(operation: str, dtype: str) -> Case:
    """Ordinary rows, on which rounding points show in many elements."""
    if operation == "mrope":
        return _rotation(dtype)
    companion = ("gate", "gate") if "gated" in operation else ("residual", "normal")
    tensors = (
        ("x", TensorSpec(SHAPE, dtype)),
        (companion[0], TensorSpec(SHAPE, dtype, values=companion[1])),
        ("weight", TensorSpec(SHAPE[-1:], dtype, values="weight")),
    )
    return Case(operation, tensors, (("eps", 1e-6), *FLAGS[operation].items()), seed=1)


def _rotation(dtype: str) -> Case:
    tensors = (
        ("q", TensorSpec((16, 4, 128), dtype)),
        ("k", TensorSpec((16, 2, 128), dtype)),
        ("positions", TensorSpec((3, 16), "int64", values="positions<64")),
        ("cos", TensorSpec((64, 64), "float32", values="cos")),
        ("sin", TensorSpec((64, 64), "float32", values="sin")),
    )
    flags: tuple[tuple[str, Flag], ...] = (
        ("head_dim", None),
        ("interleaved", True),
        ("sections", (24, 20, 20)),
    )
    return Case("mrope", tensors, flags, seed=1)


def _declaring(operation: str, rounds: frozenset[str], kind: type[Native] = Native) -> Subject:
    """The native form with another contract to its name."""
    adapter = kind()
    declared = {**adapter.contracts, operation: Contract(rounds, "lanes")}
    adapter.contracts = declared  # type: ignore[misc]  # of this one alone
    return Subject(adapter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_contract_that_is_not_followed_is_told_from_the_one_that_is(operation: str, dtype: str) -> None:
    """The case fails, and the sentence about it has both sets and the share that the declared one explains."""
    rounds, followed = DECLARED[operation]
    subject, case = _declaring(operation, rounds), _case(operation, dtype)
    (verdict,) = contract.judge(subject, case)
    said = follow(subject, Evidence((case,)))
    share = re.search(r"explains ([\d.]+)% of the elements; ", said)

    assert Status.FAILED is verdict.status
    assert share is not None, said
    assert 1.0 < float(share[1]) < 99.9
    assert said.startswith("the declared contract ")
    assert f"; {followed} explains all" in said


class Lossy(Native):
    """Loses the last bit of every fourth column: no rounding of the formula does that."""

    def _lost(self, results: Any) -> Any:
        first = (results if isinstance(results, torch.Tensor) else results[0]).clone()
        bits = first.view(torch.int16 if first.element_size() == 2 else torch.int8)
        bits[..., ::4] ^= 1
        return first if isinstance(results, torch.Tensor) else (first, *results[1:])

    def rms_norm(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().rms_norm(*given, **flags))

    def gemma_rms_norm(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().gemma_rms_norm(*given, **flags))

    def rms_norm_gated(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().rms_norm_gated(*given, **flags))

    def mrope(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().mrope(*given, **flags))

    def rms_norm_fp8(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().rms_norm_fp8(*given, **flags))

    def rms_norm_gated_fp8(self, *given: Any, **flags: Any) -> Any:
        """Give what is left."""
        return self._lost(super().rms_norm_gated_fp8(*given, **flags))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_no_contract_explains_is_said_to_be_that(operation: str) -> None:
    """With the best set and its share, which the damage bounds."""
    rounds = Native.contracts[operation]
    honest = rounds.rounds if isinstance(rounds, Contract) else frozenset[str]()
    subject = _declaring(operation, honest, Lossy)
    said = follow(subject, Evidence((_case(operation, "bfloat16"),)))
    best = re.search(r"no set of rounding points explains all \(best: .*, ([\d.]+)%\)", said)

    assert best is not None, said
    assert 50.0 < float(best[1]) < 95.0


def test_float32_outputs_show_no_rounding() -> None:
    """Nothing is said of them."""
    case = _case("rms_norm", "float32")

    assert "" == follow(_declaring("rms_norm", frozenset({"sum", "normalised"})), Evidence((case,)))
