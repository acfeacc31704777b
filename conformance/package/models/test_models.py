"""Norms and rotations swapped in small models of Hugging Face's: random weights, nothing downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_vl import modeling_qwen3_vl

from conformance.package.calls.tensors import DEVICE
from normkernels import GemmaRMSNorm, RMSNormGated, apply_rotary_pos_emb, plans, swap
from normkernels.operations.operation import ENVIRONMENT, reread_environment

WORDS = 64
TOKENS = (2, 5)  # sequences and their length
TINY = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    # a model's initial weights are so small that the embedding would make nearly all of the logits
    "initializer_range": 0.2,
}


# two gated delta-net layers, whose norm is gated, and one of full attention
DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}


def qwen3_next() -> nn.Module:
    """Return Qwen3-Next, whose layers have experts."""
    experts = {"num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    # every token goes to every expert: a choice of experts is not continuous in the norms' roundings
    model: nn.Module = Qwen3NextForCausalLM(Qwen3NextConfig(**TINY, **experts, **DELTA, num_experts_per_tok=2))
    return model


def qwen3_5() -> nn.Module:
    """Return Qwen3.5: layers as in Qwen3-Next, without experts."""
    model: nn.Module = modeling_qwen3_5.Qwen3_5ForCausalLM(modeling_qwen3_5.Qwen3_5TextConfig(**TINY, **DELTA))
    return model


def gemma3() -> nn.Module:
    """Return Gemma 3: four norms a layer and two a head, with a sliding window and without."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    model: nn.Module = Gemma3ForCausalLM(Gemma3TextConfig(**TINY, layer_types=layers, sliding_window=3))
    return model


@dataclass(frozen=True, slots=True)
class Model:
    """Constructor of a model, and the number of its norms of each class of ours."""

    make: Callable[[], nn.Module]
    norms: dict[type[nn.Module], int]


# norms of every layer, of q and k of full attention (Gemma 3: of every layer), of the last hidden state
MODELS = {
    "qwen3_next": Model(qwen3_next, {GemmaRMSNorm: 2 * 3 + 2 + 1, RMSNormGated: 2}),
    "qwen3_5": Model(qwen3_5, {GemmaRMSNorm: 2 * 3 + 2 + 1, RMSNormGated: 2}),
    "gemma3": Model(gemma3, {GemmaRMSNorm: 4 * 3 + 2 * 3 + 1}),
}


def norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return every norm of a model, ours or Hugging Face's: its parent, its name in the parent, and the norm."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if "RMSNorm" in type(child).__name__
    ]


def random_model(name: str) -> nn.Module:
    """Return the same model each time, with random changes to the weights of its norms."""
    torch.manual_seed(0)
    model = MODELS[name].make().eval()
    with torch.no_grad():
        for _, _, norm in norms(model):
            weight = norm.get_parameter("weight")
            weight.add_(torch.randn(weight.shape) / 2)
    return model.to(DEVICE)


def swapped(model: nn.Module) -> nn.Module:
    """Replace every norm of a model by ours."""
    assert {} == swap(model).unknown
    return model


def logits(model: nn.Module) -> torch.Tensor:
    """Return a model's logits for some tokens."""
    tokens = torch.randint(WORDS, TOKENS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=tokens.to(DEVICE), use_cache=False).logits
    return result.float()


@pytest.fixture(name="path", params=[None, "native"], ids=["chosen", "native"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a test on the dispatcher's paths, and natively."""
    path: str | None = request.param
    if path is not None:
        monkeypatch.setenv(ENVIRONMENT, path)
        reread_environment()
    return path


@pytest.mark.parametrize("name", MODELS)
def test_every_norm_is_swapped_and_no_parameter_with_it(name: str) -> None:
    """Our norms replace all of theirs, and the model's checkpoint fits as before."""
    model = random_model(name)
    before = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    swapped(model)

    assert MODELS[name].norms == Counter(type(norm) for _, _, norm in norms(model))
    assert before == {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_stay_in_float32(name: str, path: str | None, launched: list[plans.Plan]) -> None:
    """The logits agree within PyTorch's default tolerances, and every norm ran on the requested path."""
    model = random_model(name)
    theirs = logits(model)
    ours = logits(swapped(model))

    # logits have no contract: whole models sum in their own orders, and users expect these tolerances
    torch.testing.assert_close(ours, theirs)
    assert (0 if path == "native" else sum(MODELS[name].norms.values())) == len(launched)


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_no_worse_in_bfloat16(name: str, path: str | None) -> None:
    """Their distance from the float32 logits is at most 1.5 times that with Hugging Face's norms."""
    model = random_model(name)
    exact = logits(model)
    theirs = (logits(model.to(torch.bfloat16)) - exact).norm()
    ours = (logits(swapped(model)) - exact).norm()

    assert 0 < theirs < 0.1 * exact.norm()
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_show_every_norm(name: str) -> None:
    """One wrong norm, whichever it is, changes the model's float32 logits."""
    model = random_model(name)
    theirs = logits(model)
    for _, _, norm in norms(model):
        weight = norm.get_parameter("weight")
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.0 + 2.0**-8)
            # the test above would see it: these are its tolerances
            assert not torch.allclose(logits(model), theirs, rtol=1.3e-6, atol=1e-5)
            weight.copy_(kept)


# Models whose rotations are at positions on three axes: their code, the names of their classes, and flags.
ROTATIONS: dict[str, tuple[ModuleType, str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": (modeling_qwen2_vl, "Qwen2VLText", {}, {"mrope_section": [3, 3, 2]}),
    "qwen3_vl": (modeling_qwen3_vl, "Qwen3VLText", {}, {"mrope_section": [3, 3, 2]}),
    "qwen3_5": (
        modeling_qwen3_5,
        "Qwen3_5Text",
        {"layer_types": ["full_attention"] * 3},
        {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ROTATIONS)
def test_rotations_are_replaced(
    name: str, dtype: torch.dtype, launched: list[plans.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our function in place of theirs the logits stay the same, and every layer has called it."""
    code, kind, more, turn = ROTATIONS[name]
    turn |= {"rope_type": "default", "rope_theta": 10.0}
    config = getattr(code, f"{kind}Config")(
        **TINY, **more, rope_parameters=turn, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    model = getattr(code, f"{kind}Model")(config).eval().to(DEVICE, dtype)
    tokens, positions = torch.randint(WORDS, TOKENS), torch.randint(50, (3, *TOKENS))

    def said(positions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            state = model(tokens.to(DEVICE), position_ids=positions.to(DEVICE), use_cache=False).last_hidden_state
            return functional.linear(state, model.embed_tokens.weight).float()

    theirs = said(positions)
    # not a bound: one axis for all moves the result further than the error below may, so that a wrong axis shows
    assert not torch.allclose(theirs, said(positions[[0, 0, 0]]), rtol=0.1, atol=0.1)
    monkeypatch.setattr(code, "apply_rotary_pos_emb", apply_rotary_pos_emb)
    error = (said(positions) - theirs).norm() / theirs.norm()
    assert error < (1e-5 if dtype is torch.float32 else 0.05)
    assert 3 == len(launched)
