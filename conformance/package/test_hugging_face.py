"""Hugging Face's norms and ours on one state_dict: both follow the contract that is named after them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from conformance.package.gated_calls import DEVICE, values
from conformance.package.judged import by_the_oracle
from normkernels import GemmaRMSNorm, InvalidCall, RMSNorm, RMSNormGated, from_module, modules

# every class that is taken over, the model that has it, and ours
KNOWN: dict[str, tuple[str, type[nn.Module]]] = {
    "LlamaRMSNorm": ("llama", RMSNorm),
    "MistralRMSNorm": ("mistral", RMSNorm),
    "MixtralRMSNorm": ("mixtral", RMSNorm),
    "Qwen2RMSNorm": ("qwen2", RMSNorm),
    "Qwen3RMSNorm": ("qwen3", RMSNorm),
    "Qwen3MoeRMSNorm": ("qwen3_moe", RMSNorm),
    "Gemma2RMSNorm": ("gemma2", GemmaRMSNorm),
    "Gemma3RMSNorm": ("gemma3", GemmaRMSNorm),
    "Qwen3NextRMSNorm": ("qwen3_next", GemmaRMSNorm),
    "Qwen3_5RMSNorm": ("qwen3_5", GemmaRMSNorm),
    "Qwen3_5MoeRMSNorm": ("qwen3_5_moe", GemmaRMSNorm),
    "Qwen3NextRMSNormGated": ("qwen3_next", RMSNormGated),
}
OPERATION = {RMSNorm: "rms_norm", GemmaRMSNorm: "gemma_rms_norm", RMSNormGated: "rms_norm_gated"}
WIDTH, EPS = 128, 1e-3
LOW = torch.bfloat16


def hugging_face(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return a module of Hugging Face's class of this name."""
    model, _ = KNOWN[name]
    made = getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name)
    return made(WIDTH, eps=EPS).to(DEVICE, dtype)


def ours(name: str, dtype: torch.dtype) -> Any:
    """Return a module of ours that is made by hand to stand in for it."""
    _, kind = KNOWN[name]
    if kind is GemmaRMSNorm:
        return GemmaRMSNorm(WIDTH, eps=EPS).to(DEVICE, dtype)
    made: Any = RMSNorm(WIDTH, EPS) if kind is RMSNorm else RMSNormGated(WIDTH, EPS, norm_before_gate=True)
    made.rounding = "hf"
    return made.to(DEVICE, dtype)


def call(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the tensors of a call, by name and in the order of the modules' forward."""
    inputs = ("x", "gate") if KNOWN[name][1] is RMSNormGated else ("x",)
    return {key: values(key, 64, WIDTH, dtype=dtype) for key in inputs}


def outside(name: str, module: nn.Module, dtype: torch.dtype, rounding: str = "hf") -> int:
    """Return how many elements of the module's output a contract does not allow."""
    given = call(name, dtype)
    result = module(*given.values())
    arguments = {**given, "weight": module.get_parameter("weight"), "eps": EPS, "rounding": rounding}
    return by_the_oracle(OPERATION[KNOWN[name][1]], arguments, (result,), DEVICE).outside


def test_every_name_that_is_taken_over_is_tested() -> None:
    """The list above is the package's."""
    assert set(KNOWN) == set(modules._CONVERTERS)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dtype", [LOW, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_one_state_serves_both(name: str, dtype: torch.dtype, gradients: bool) -> None:  # noqa: FBT001
    """Theirs, ours with their checkpoint, and theirs taken over: every element is one that ``hf`` allows."""
    theirs = hugging_face(name, dtype)
    state = {"weight": values("weight", WIDTH, dtype=dtype)}
    with torch.set_grad_enabled(gradients):
        for module in (theirs, ours(name, dtype), from_module(theirs)):
            module.load_state_dict(state, strict=True)
            assert 0 == outside(name, module, dtype)


@pytest.mark.parametrize("name", KNOWN)
def test_the_bits_are_theirs(name: str) -> None:
    """In low precision nearly every one: where two values are allowed, one of us may take the other."""
    theirs = hugging_face(name, LOW)
    with torch.no_grad():
        theirs.weight.copy_(values("weight", WIDTH))
        given = call(name, LOW).values()
        assert (theirs(*given) != from_module(theirs)(*given)).float().mean() < 0.02


@pytest.mark.parametrize("name", [name for name, (_, kind) in KNOWN.items() if kind is not GemmaRMSNorm])
def test_the_default_rounding_is_another_contract(name: str) -> None:
    """Ours as made keeps ``fp32`` and breaks ``hf``; theirs the other way round."""
    theirs, kept = hugging_face(name, LOW), ours(name, LOW)
    kept.rounding = "fp32"
    with torch.no_grad():
        theirs.weight.copy_(values("weight", WIDTH))
        kept.weight.copy_(theirs.weight)
        assert 0 == outside(name, kept, LOW, "fp32")
        assert 0.1 * 64 * WIDTH < outside(name, kept, LOW, "hf")
        assert 0.1 * 64 * WIDTH < outside(name, theirs, LOW, "fp32")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_taken_over_is_kept(name: str, training: bool) -> None:  # noqa: FBT001
    """The very Parameter, eps and mode, in a module of the right class."""
    theirs = hugging_face(name).train(training)
    taken: Any = from_module(theirs)

    assert KNOWN[name][1] is type(taken)
    assert theirs.weight is taken.weight
    assert EPS == (taken.eps if isinstance(taken, RMSNormGated) else taken.variance_epsilon)
    assert training is taken.training


def test_a_class_built_on_a_known_one_is_taken_over() -> None:
    """A model that only renames a norm keeps its base."""
    theirs = hugging_face("Qwen3NextRMSNormGated")
    theirs.__class__ = type("Renamed", (type(theirs),), {})

    assert isinstance(from_module(theirs), RMSNormGated)


def test_an_unknown_module_is_refused() -> None:
    """The message says what it was and what is known."""
    with pytest.raises(InvalidCall, match=r"module is a LayerNorm, must be one of .*Qwen3NextRMSNormGated"):
        from_module(nn.LayerNorm(8))
