"""Norms swapped inside small models of Hugging Face's: random weights from a configuration, nothing downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3NextConfig, Qwen3NextForCausalLM

from conformance.package.gated_calls import DEVICE
from normkernels import GemmaRMSNorm, RMSNormGated, routes, swap
from normkernels.kernels import plans

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
    # weights of a model as it comes are so small that nearly all of the logits would be the embedding's
    "initializer_range": 0.2,
}


def qwen3_next() -> nn.Module:
    """Return Qwen3-Next: two gated delta-net layers, whose norm is gated, and one of full attention."""
    experts = {"num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    delta = {
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
    }
    layers = ["linear_attention", "full_attention", "linear_attention"]
    # every token goes to every expert: a choice among them is not continuous in the norms' roundings
    config = Qwen3NextConfig(**TINY, **experts, **delta, num_experts_per_tok=2, layer_types=layers)
    model: nn.Module = Qwen3NextForCausalLM(config)
    return model


def gemma3() -> nn.Module:
    """Return Gemma 3: four norms a layer and two a head, with a sliding window and without."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    model: nn.Module = Gemma3ForCausalLM(Gemma3TextConfig(**TINY, layer_types=layers, sliding_window=3))
    return model


@dataclass(frozen=True, slots=True)
class Model:
    """How to make a model, and how many norms of each class of ours it then has."""

    make: Callable[[], nn.Module]
    norms: dict[type[nn.Module], int]


# of every layer, of q and k of full attention (in Gemma 3 of every layer), of the last hidden state
MODELS = {
    "qwen3_next": Model(qwen3_next, {GemmaRMSNorm: 2 * 3 + 2 + 1, RMSNormGated: 2}),
    "gemma3": Model(gemma3, {GemmaRMSNorm: 4 * 3 + 2 * 3 + 1}),
}


def norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return every norm of a model, ours or Hugging Face's: its parent, its name there, and itself."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if "RMSNorm" in type(child).__name__
    ]


def random_model(name: str) -> nn.Module:
    """Return the same model every time; the weights of its norms tell."""
    torch.manual_seed(0)
    model = MODELS[name].make().eval()
    with torch.no_grad():
        for _, _, norm in norms(model):
            weight = norm.get_parameter("weight")
            weight.add_(torch.randn(weight.shape) / 2)
    return model.to(DEVICE)


def swapped(model: nn.Module) -> nn.Module:
    """Put ours in the place of every norm."""
    assert {} == swap(model).unknown
    return model


def logits(model: nn.Module) -> torch.Tensor:
    """Return what a model says of some tokens."""
    tokens = torch.randint(WORDS, TOKENS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=tokens.to(DEVICE), use_cache=False).logits
    return result.float()


@pytest.fixture(name="path", params=[None, "native"], ids=["chosen", "native"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a test on the paths that the dispatcher chooses, and natively."""
    path: str | None = request.param
    if path is not None:
        monkeypatch.setenv(routes.ENVIRONMENT, path)
        routes.reread_environment()
    return path


@pytest.mark.parametrize("name", MODELS)
def test_every_norm_is_swapped_and_no_parameter_with_it(name: str) -> None:
    """Ours stand where theirs stood, and a checkpoint of the model fits as before."""
    model = random_model(name)
    before = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    swapped(model)

    assert MODELS[name].norms == Counter(type(norm) for _, _, norm in norms(model))
    assert before == {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_stay_in_float32(name: str, path: str | None, launched: list[plans.Plan]) -> None:
    """They agree within PyTorch's default tolerances, and every norm ran on the path that was asked for."""
    model = random_model(name)
    theirs = logits(model)
    ours = logits(swapped(model))

    # logits have no contract: whole models sum in their own orders, and what users ask of them is this
    torch.testing.assert_close(ours, theirs)
    assert (0 if path == "native" else sum(MODELS[name].norms.values())) == len(launched)


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_no_worse_in_bfloat16(name: str, path: str | None) -> None:
    """They are at most half as far again from the float32 logits as with Hugging Face's norms."""
    model = random_model(name)
    exact = logits(model)
    theirs = (logits(model.to(torch.bfloat16)) - exact).norm()
    ours = (logits(swapped(model)) - exact).norm()

    assert 0 < theirs < 0.1 * exact.norm()
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_show_every_norm(name: str) -> None:
    """A model in which one norm is wrong, whichever it is, says something else in float32."""
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
