"""The known adapters of other people's implementations are right, and declare what those do."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from conformance.adapter import UsageError, load
from conformance.case import Case, TensorSpec
from conformance.item import PROFILES
from conformance.operations import OPERATIONS
from conformance.oracle.contract import NAMED
from conformance.strategies import DTYPES, Scope, enumerated_cases
from conformance.verdict import BAD, Status, Subject, discover, judge_call

OPERATION = OPERATIONS["rms_norm_gated"]


class QwenNorm(torch.nn.Module):
    """Stands for Hugging Face's class: normalise, round, weigh, gate in float32, round."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Qwen3-Next's gated norm."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        y = self.weight * y.to(x.dtype)
        return (y * torch.nn.functional.silu(gate.float())).to(x.dtype)


@pytest.fixture(name="stand_in")
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in the place of Transformers, so that the adapter is judged wherever this runs."""
    module = ModuleType("modeling_qwen3_next")
    module.Qwen3NextRMSNormGated = QwenNorm  # type: ignore[attr-defined]  # what the adapter looks for
    package = ModuleType("transformers.models.qwen3_next")
    package.modeling_qwen3_next = module  # type: ignore[attr-defined]
    for name in ("transformers", "transformers.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)


def _cases(dtype: str) -> list[Case]:
    """The covering array of the quick profile."""
    scope = Scope(dtype)
    strength = PROFILES["quick"].strength
    return list(enumerated_cases(OPERATION.factors, OPERATION.complete, scope, strength=strength, seed=1))


def _telling(dtype: str) -> Case:
    """Ordinary rows of real size, on which contracts differ in thousands of elements."""
    shape = (32, 128)
    tensors = (
        ("x", TensorSpec(shape, dtype)),
        ("gate", TensorSpec(shape, dtype, values="gate")),
        ("weight", TensorSpec(shape[-1:], dtype, values="weight")),
    )
    flags = (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True))
    return Case("rms_norm_gated", tensors, flags)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", ["torch", "transformers"])
def test_nothing_that_a_known_implementation_does_fails(target: str, dtype: str, stand_in: None) -> None:
    """Every call is right or declined for a stated reason, and some are right."""
    subject = Subject(load(target))
    verdicts = [verdict for case in _cases(dtype) for verdict in judge_call(subject, case)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert [] == [v for v in verdicts if v.status is Status.DECLINED and not v.reason]
    assert any(v.status is Status.PASSED and v.comparison.elements for v in verdicts)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("target", "contract"), [("torch", "two_step"), ("transformers", "hf")])
def test_the_declared_contract_is_the_one_that_discovery_finds(
    target: str, contract: str, dtype: str, stand_in: None
) -> None:
    """The smallest set of rounding points that explains every element is the declared one; fp32 does not."""
    found = discover(Subject(load(target)), _telling(dtype))
    shares = {follow.contract.rounds: follow.share for follow in found}

    assert (NAMED[contract], 1.0) == (found[0].contract.rounds, found[0].share)
    assert 0.9 > shares[NAMED["fp32"]]


def test_without_transformers_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for an implementation that is not there is bad usage, with one line of help."""
    there = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("transformers"):
            raise ImportError(name)
        return there(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(UsageError, match="pip install transformers"):
        load("transformers")
