"""Norms of Hugging Face's models and ours on one state_dict: both follow one contract, and agree bit for bit."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from conformance.package.calls.judged import by_the_oracle
from conformance.package.calls.tensors import DEVICE, values
from normkernels import GemmaRMSNorm, InvalidCall, RMSNorm, RMSNormGated, from_module

# Our flags for other classes: the default is Llama's kind of norm, which rounds before the weight too.
ONCE = {"rounding": "fp32"}
GROUPS = {"norm_before_gate": False, "group_size": 64}
SIGMOID = {"activation": "sigmoid", **ONCE}

# A class for each formula, ours, and the flags of ours in which it differs from Llama's kind.
KNOWN: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "LlamaRMSNorm": (RMSNorm, {}),
    "Llama4TextRMSNorm": (RMSNorm, {}),
    "IdeficsRMSNorm": (RMSNorm, {}),
    "Olmo2RMSNorm": (RMSNorm, ONCE),
    "Gemma4RMSNorm": (RMSNorm, ONCE),
    "MoshiRMSNorm": (RMSNorm, ONCE),
    "Gemma3RMSNorm": (GemmaRMSNorm, {}),
    "Qwen3_5RMSNorm": (GemmaRMSNorm, {}),
    "Qwen3NextRMSNormGated": (RMSNormGated, {}),
    "Qwen3_5RMSNormGated": (RMSNormGated, {}),
    "Qwen3_5MoeRMSNormGated": (RMSNormGated, {}),
    "MambaRMSNormGated": (RMSNormGated, GROUPS),
    "FalconH1RMSNormGated": (RMSNormGated, {"group_size": 64, **ONCE}),
    "KimiLinearRMSNormGated": (RMSNormGated, SIGMOID),
}
OPERATION = {RMSNorm: "rms_norm", GemmaRMSNorm: "gemma_rms_norm", RMSNormGated: "rms_norm_gated"}
# Classes of other formulas: every other class called a norm is taken over.
REFUSED = {
    "AXK2GatedRMSNorm": "a norm, which is taken over, and a network for its gate",
    "DeepseekV4UnweightedRMSNorm": "rounds the factor of a row, and multiplies in the dtype of x",
    "Glm5NextTextUnweightedRMSNorm": "rounds the factor of a row, and multiplies in the dtype of x",
    "Inkling2UnweightedRMSNorm": "rounds the factor of a row, and multiplies in the dtype of x",
    "HYV4UnweightedRMSNorm": "returns the factors of the rows alone",
    "MuseSparkTextCenteredRMSNorm": "rounds one plus the weight",
    "MuseSparkTextInputScaledRMSNorm": "multiplies by the weight before the norm",
    "Qwen4ExpTextRMSNorm": "has groups beside a weight centred on zero; without groups it is taken over",
}
WIDTH, EPS = 128, 1e-3
LOW = torch.bfloat16
MODELS = Path(transformers.__file__).parent / "models"
# Every class of the installed version that is called a norm of this kind, and the model that has it.
CLASSES = {
    name: file.parent.name
    for file in sorted(MODELS.glob("*/modeling_*.py"))
    for name in re.findall(r"^class (\w*RMSNorm\w*)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def hugging_face(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return a module of Hugging Face's class of this name, with weights that are neither one nor zero."""
    module = importlib.import_module(f"transformers.models.{CLASSES[name]}.modeling_{CLASSES[name]}")
    known: dict[str, Any] = {
        "hidden_size": WIDTH,
        "dim": WIDTH,
        "eps": EPS,
        "n_groups": 2,
        "group_size": WIDTH // 2,
    }
    known["config"] = SimpleNamespace(hidden_size=WIDTH, rms_norm_eps=EPS, gated_norm_rank=4)
    takes = inspect.signature(getattr(module, name).__init__).parameters
    made = getattr(module, name)(**{key: value for key, value in known.items() if key in takes})
    for weight in made.parameters():
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    return made.to(DEVICE, dtype)


def ours(name: str, dtype: torch.dtype) -> Any:
    """Return one of our modules, made by hand, that replaces a Hugging Face module."""
    kind, flags = KNOWN[name]
    made: Any = kind(WIDTH, EPS)
    if kind is not GemmaRMSNorm:
        made.rounding = "hf"
    for flag, value in ({"norm_before_gate": True} | flags if kind is RMSNormGated else flags).items():
        setattr(made, flag, value)
    return made.to(DEVICE, dtype)


def call(module: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """Return the tensors of a call by name, in the order of the module's forward."""
    names = ("x", "gate") if "gate" in inspect.signature(module.forward).parameters else ("x",)
    return {key: values(key, 64, WIDTH, dtype=dtype) for key in names}


def outside(name: str, module: nn.Module, dtype: torch.dtype, rounding: str | None = None) -> int:
    """Return how many elements of the module's output are outside a contract: its own by default."""
    kind, flags = KNOWN[name]
    given = call(hugging_face(name), dtype)
    result = module(*given.values())
    arguments = {**given, "weight": module.get_parameter("weight"), "eps": EPS, "rounding": "hf", **flags}
    if rounding is not None:
        arguments["rounding"] = rounding
    return by_the_oracle(OPERATION[kind], arguments, (result,), DEVICE).outside


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dtype", [LOW, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_one_state_serves_both(name: str, dtype: torch.dtype, gradients: bool) -> None:  # noqa: FBT001
    """The contract allows every element of theirs, of ours with their checkpoint, and of theirs taken over."""
    theirs = hugging_face(name, dtype)
    state = {"weight": values("weight", WIDTH, dtype=dtype)}
    with torch.set_grad_enabled(gradients):
        for module in (theirs, ours(name, dtype), from_module(theirs)):
            module.load_state_dict(state, strict=True)
            assert 0 == outside(name, module, dtype)


@pytest.mark.parametrize("name", [name for name, (_, flags) in KNOWN.items() if "rounding" not in flags])
def test_the_default_rounding_is_another_contract(name: str) -> None:
    """Our default keeps ``fp32`` and breaks ``hf``; theirs does the reverse. Gemma's two contracts are one."""
    theirs, kept = hugging_face(name, LOW), ours(name, LOW)
    kept.rounding, kept.weight = "fp32", theirs.weight
    few = -1 if KNOWN[name][0] is GemmaRMSNorm else 0.1 * 64 * WIDTH
    with torch.no_grad():
        assert 0 == outside(name, kept, LOW, "fp32")
        assert few < outside(name, kept, LOW, "hf")
        assert few < outside(name, theirs, LOW, "fp32")


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - REFUSED.keys()))
def test_every_norm_of_the_library_is_taken_over(name: str) -> None:
    """In low precision nearly every bit is theirs; where two values are allowed, each side may return either."""
    theirs = hugging_face(name, LOW)
    taken = from_module(theirs)
    with torch.no_grad():
        given = call(theirs, LOW).values()
        assert (theirs(*given) != taken(*given)).float().mean() < 0.02


@pytest.mark.parametrize("name", REFUSED)
def test_norms_of_other_formulas_are_refused(name: str) -> None:
    """A class of the list above is in the library, and the refusal names it."""
    with pytest.raises(InvalidCall, match=f"from_module: module is a {name} that (computes|has)"):
        from_module(hugging_face(name))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_taken_over_is_kept(name: str, training: bool) -> None:  # noqa: FBT001
    """The Parameter itself, eps under its name, flags and mode are kept in a module of the right class."""
    theirs = hugging_face(name).train(training)
    taken: Any = from_module(theirs)
    eps = "variance_epsilon" if hasattr(theirs, "variance_epsilon") else "eps"

    assert KNOWN[name][0] is type(taken)
    assert theirs.weight is taken.weight
    assert EPS == getattr(taken, eps)
    assert training is taken.training
    assert KNOWN[name][1].items() <= vars(taken).items()
