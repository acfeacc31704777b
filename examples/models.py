"""Text models of transformers with random weights in the shapes of real models: no network, no checkpoint."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

import normkernels

BEFORE, OURS, CONTROL = "before", "ours", "control"
# standard deviation of what is added to the weights of norms, which begin as ones or zeros: all shall count
SPREAD = 0.1

TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    # a model's initial weights are made for wide layers: in narrow ones the embedding would be most of the logits
    "initializer_range": 0.2,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Arguments of a configuration of transformers, and those that differ where the model is ``tiny``."""

    model_type: str
    arguments: Mapping[str, Any]
    tiny: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False  # the head is the embedding


SHAPES = {
    # pytorch/torchtitan 0276e6ed, torchtitan/models/qwen3_5/flavors.py, _27b
    "Qwen3.5-27B": Shape(
        "qwen3_5_text",
        {
            "vocab_size": 248320,
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "num_hidden_layers": 64,
            "num_attention_heads": 24,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 48,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "mrope_section": [11, 11, 10],
                "partial_rotary_factor": 0.25,
            },
        },
        {
            "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    # huggingface/transformers 0d7e95d9, src/transformers/models/gemma3/convert_gemma3_weights.py, gemma3_4b
    "Gemma-3-4B": Shape(
        "gemma3_text",
        {
            "vocab_size": 262144,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
        },
        {"head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
        tied=True,
    ),
    # config.json of Qwen/Qwen2-VL-7B-Instruct, without its tower for images
    "Qwen2-VL-7B": Shape(
        "qwen2_vl_text",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}},
    ),
}


class Decoder(nn.Module):
    """A text model and its head, which gives the logits of the last token of each sequence."""

    def __init__(self, body: Any, head: nn.Linear) -> None:  # noqa: ANN401 - transformers has no types
        """Keep both."""
        super().__init__()
        self.body, self.head = body, head

    def forward(self, tokens: torch.Tensor, cache: object) -> torch.Tensor:
        """Return the logits of tokens that follow those in the cache, to which they are added."""
        states = self.body(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


def build(name: str, device: str, *, layers: int | None = None, tiny: bool = False) -> Decoder:
    """Return a model in bfloat16 with random weights, those of norms too; ``layers`` limits its layers."""
    shape = SHAPES[name]
    arguments = {**shape.arguments, **(TINY if tiny else {}), **(shape.tiny if tiny else {})}
    if layers is not None:
        arguments["num_hidden_layers"] = min(layers, arguments["num_hidden_layers"])
    config = AutoConfig.for_model(shape.model_type, **arguments)
    torch.manual_seed(0)
    # made where it runs: a GPU draws billions of numbers within seconds
    with torch.device(device), torch.no_grad():
        body = AutoModel.from_config(config, dtype=torch.bfloat16)
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=torch.bfloat16)
        if shape.tied:
            head.weight = body.embed_tokens.weight
        else:
            nn.init.normal_(head.weight, std=config.initializer_range)
        for path, weight in body.named_parameters():
            if "norm" in path and weight.dim() == 1:
                weight.add_(torch.randn_like(weight), alpha=SPREAD)
    return Decoder(body, head).eval()


# --- before and after ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """A model as it runs: with its norms, and with a rotation in place of its code's own."""

    model: Decoder
    code: ModuleType
    rotation: Callable[..., Any]

    def __call__(self, tokens: torch.Tensor, cache: object) -> torch.Tensor:
        """Return the model's logits."""
        code: Any = self.code
        kept, code.apply_rotary_pos_emb = code.apply_rotary_pos_emb, self.rotation
        try:
            logits: torch.Tensor = self.model(tokens, cache)
        finally:
            code.apply_rotary_pos_emb = kept
        return logits


@dataclass(frozen=True, slots=True)
class Swapped:
    """The ways of a model that are compared, and its swap: norms that were replaced, and norms that were not."""

    ways: Mapping[str, Way]
    swap: normkernels.swap


@contextlib.contextmanager
def swapped(model: Decoder) -> Iterator[Swapped]:
    """Yield a model before and after the swap, as one beside the other; before once more, as the control."""
    code = sys.modules[type(model.body).__module__]
    theirs: Callable[..., Any] = vars(code)["apply_rotary_pos_emb"]
    after = twin(model)
    before = Way(model, code, theirs)
    with normkernels.swap(after) as swap:
        ours = Way(after, code, normkernels.apply_rotary_pos_emb)
        yield Swapped({BEFORE: before, OURS: ours, CONTROL: before}, swap)


def twin(model: Decoder) -> Decoder:
    """Return a second model that has the same parameters and buffers, not copies of them."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)
