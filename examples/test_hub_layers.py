"""Modules that ask Hugging Face's ``kernels`` for a forward get ours, each with its own formula."""

from __future__ import annotations

import ast
import gc
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as interleaved
from transformers.models.gpt_oss.modeling_gpt_oss import apply_rotary_pos_emb as half_tables
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearRMSNormGated
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as joined
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm, Qwen3_5RMSNormGated

from examples.hub_layers import FOUND, LAYERS, MAPPING, counterpart, rotation
from examples.models import Decoder, build
from examples.steps import batch_of
from normkernels import apply_rotary_pos_emb

WIDTH = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def asking() -> Iterator[tuple[str, str, list[str]]]:
    """Yield every class and function of transformers that asks for a layer of ours: layer, name, arguments."""
    for file in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        source = file.read_text(encoding="utf-8")
        if "use_kernel_forward_from_hub(" not in source:
            continue
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            for decorator in node.decorator_list:
                layer = ast.unparse(decorator).removeprefix("use_kernel_forward_from_hub('").removesuffix("')")
                if layer in LAYERS:
                    forward = node if isinstance(node, ast.FunctionDef) else forward_of(node)
                    yield layer, f"{file.stem}.{node.name}", [each.arg for each in forward.args.args]


def forward_of(node: ast.ClassDef) -> ast.FunctionDef:
    """Return the forward of a class."""
    return next(each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "forward")


def test_the_arguments_are_those_of_everything_that_asks() -> None:
    """Each class and function that asks has the arguments of its layer, so that calls by name work as well."""
    seen: Counter[str] = Counter()
    for layer, name, arguments in asking():
        ours = [*inspect.signature(LAYERS[layer].forward).parameters]
        seen[layer] += 1

        assert [each for each in ours if each != "self"] == [a for a in arguments if a != "self"], name
    assert LAYERS.keys() == seen.keys()
    assert seen["RMSNorm"] > 100


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_has_no_state(layer: type[nn.Module]) -> None:
    """A layer has no constructor and no members but flags: ``kernels`` refuses others."""
    assert nn.Module.__init__ is layer.__init__
    assert {"can_torch_compile"} == set(dir(layer)) - set(dir(nn.Module))


class Once(LlamaRMSNorm):  # type: ignore[misc]  # transformers has no types
    """A norm that rounds once, after the weight."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the norm."""
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        normed: torch.Tensor = (self.weight.float() * x).to(hidden_states.dtype)
        return normed


NORMS: dict[str, tuple[type[nn.Module], str]] = {
    "rounded twice": (LlamaRMSNorm, "RMSNorm"),
    "rounded once": (Once, "RMSNorm"),
    "centred on zero": (Qwen3_5RMSNorm, "RMSNormZeroCentered"),
    "silu": (Qwen3_5RMSNormGated, "RMSNormGated"),
    "sigmoid": (KimiLinearRMSNormGated, "RMSNormGated"),
}


def made(kind: type[nn.Module]) -> nn.Module:
    """Return a norm with random weights."""
    norm = kind(WIDTH, eps=1e-3).to(DEVICE, torch.bfloat16)
    nn.init.normal_(norm.get_parameter("weight"))
    return norm


def replaced(norm: nn.Module, layer: str) -> nn.Module:
    """Give a module the forward of a layer, as ``kernels`` does."""
    norm.forward = MethodType(LAYERS[layer].forward, norm)
    return norm


@pytest.mark.parametrize(("kind", "layer"), NORMS.values(), ids=NORMS)
def test_each_formula_is_kept(kind: type[nn.Module], layer: str, launched: list[object]) -> None:
    """Nearly every bit of ours is that of the module's own forward, also after its weight was replaced."""
    norm = made(kind)
    given = torch.randn(1 + (layer == "RMSNormGated"), 8, WIDTH).to(DEVICE, torch.bfloat16).unbind()
    with torch.inference_mode():
        for weight in (norm.get_parameter("weight"), torch.randn(WIDTH).to(DEVICE, torch.bfloat16)):
            norm.load_state_dict({"weight": weight}, assign=True)
            theirs = kind.forward(norm, *given)
            ours = replaced(norm, layer)(*given)

            assert (theirs != ours).float().mean() < 0.02
    assert 2 == len(launched)


def test_what_is_not_ours_keeps_its_forward(caplog: pytest.LogCaptureFixture) -> None:
    """A norm of another formula runs its own forward, and one warning has the reason."""

    class Doubled(LlamaRMSNorm):  # type: ignore[misc]  # transformers has no types
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            twice: torch.Tensor = 2 * super().forward(hidden_states)
            return twice

    norm = made(Doubled)
    x = torch.randn(3, WIDTH).to(DEVICE, torch.bfloat16)
    theirs = norm(x)
    replaced(norm, "RMSNorm")

    assert torch.equal(theirs, norm(x))
    assert torch.equal(theirs, norm(x))
    assert ["Doubled keeps its forward: from_module: module is a Doubled that computes what no norm of"] == [
        message.removesuffix(" normkernels computes") for message in caplog.messages
    ]


def test_a_counterpart_is_made_once_and_goes_with_its_module() -> None:
    """A second call finds the first one's counterpart, which does not keep the module alive."""
    norm = replaced(made(LlamaRMSNorm), "RMSNorm")
    gc.collect()
    before = len(FOUND)

    assert counterpart(norm) is counterpart(norm)
    assert before + 1 == len(FOUND)
    del norm
    # the bound forward refers to its module
    gc.collect()
    assert before == len(FOUND)


def as_module(function: Callable[..., Any]) -> type[nn.Module]:
    """Return the class that ``kernels`` makes of a function, in short."""

    class Func(nn.Module):
        def forward(self, *given: Any) -> Any:
            return function(*given)

    return Func


ROTATIONS = {"joined": (joined, True), "interleaved": (interleaved, False), "half": (half_tables, False)}


@pytest.mark.parametrize(("function", "ours"), ROTATIONS.values(), ids=ROTATIONS)
def test_a_rotation_is_recognised(function: Callable[..., Any], *, ours: bool) -> None:
    """Rotations of pairs that lie elsewhere, and tables of half the width, keep their own function."""
    kind: Callable[[], Callable[..., Any]] = as_module(function)

    assert ours is (apply_rotary_pos_emb is rotation(kind))


# --- with the library itself -------------------------------------------------------------------------------------


def ask(model: Decoder, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model ask as transformers makes it, also where that does not take this version of ``kernels``."""
    code: Any = sys.modules[type(model.body).__module__]
    for layer, path, _ in asking():
        file, _, name = path.partition(".")
        theirs = vars(code).get(name)
        if not code.__name__.endswith(f".{file}") or hasattr(theirs, "kernel_layer_name"):
            continue
        if isinstance(theirs, type):
            for attribute in ("kernel_layer_name", "kernel_condition"):
                # taken back after the test
                monkeypatch.setattr(theirs, attribute, None, raising=False)
            kernels.replace_kernel_forward_from_hub(theirs, layer)
            continue
        made = kernels.use_kernel_forward_from_hub(layer)(theirs)
        monkeypatch.setattr(code, name, made)
        for module in model.modules():
            if type(module).__name__.endswith("Attention"):
                vars(module)["_kernel_funcs"] = {name: made}


# kernels 0.16, of layers that are not ours
@pytest.mark.filterwarnings("ignore:\\nNo kernel mapping found for layer:UserWarning")
@pytest.mark.parametrize(("name", "count"), [("Qwen3.5-27B", 8), ("Qwen2-VL-7B", 5 + 2)])
def test_a_model_that_was_kernelized_runs_ours(
    name: str, count: int, launched: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kernelize`` gives norms and rotations our forwards: each launches a kernel, and the logits agree."""
    kernels = pytest.importorskip("kernels", reason="the library of Hugging Face is not installed")
    model = build(name, DEVICE, tiny=True)

    def logits() -> torch.Tensor:
        torch.manual_seed(0)
        batch = batch_of(model.body.config, 2, 5, DEVICE)
        with torch.inference_mode():
            result: torch.Tensor = model(batch.prompt, batch.cache)
        return result.float()

    ask(model, kernels, monkeypatch)
    theirs = logits()
    with kernels.use_kernel_mapping(MAPPING):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device=DEVICE)
    logits()
    launched.clear()
    ours = logits()

    assert count == len(launched)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.995
