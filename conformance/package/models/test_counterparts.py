"""Modules are replaced or refused by their arithmetic, and norms of a model are swapped and swapped back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

import normkernels as nk
from conformance.package.calls.tensors import DEVICE
from normkernels import InvalidCall, from_module, swap


class Renamed(LlamaRMSNorm):  # type: ignore[misc]  # transformers has no types
    """A norm under a name of its own."""


class Weightless(nn.Module):
    """A norm without a weight, of rows of any width, whose ``normalized_shape`` says nothing."""

    def __init__(self, normalized_shape: object) -> None:
        super().__init__()
        self.normalized_shape = normalized_shape
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm."""
        return nn.functional.rms_norm(x, x.shape[-1:], None, self.eps)


class Doubled(LlamaRMSNorm):  # type: ignore[misc]  # transformers has no types
    """A norm whose result differs from its base class's."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return twice the norm."""
        doubled: torch.Tensor = 2 * super().forward(hidden_states)
        return doubled


class Raising(LlamaRMSNorm):  # type: ignore[misc]  # transformers has no types
    """A norm for GPUs alone."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Refuse."""
        raise RuntimeError(f"no kernel for {hidden_states.device}")


def changed(change: Callable[[Any], object], make: Callable[[int], nn.Module] = LlamaRMSNorm) -> nn.Module:
    """Return a norm that would be taken over but for one change."""
    norm = make(64)
    change(norm)
    return norm


# Each with part of the reason.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no norm": (nn.Identity, r"Identity that has eps=None, must have a number"),
    "no eps": (lambda: nn.RMSNorm(64), r"has eps=None, must have a number above zero"),
    "a bias": (lambda: nn.LayerNorm(64), r"has bias, must have a weight alone, or none"),
    "a mean": (lambda: nn.LayerNorm(64, bias=False), r"computes what no norm of normkernels computes"),
    "state": (
        lambda: nn.BatchNorm1d(64, affine=False),
        r"has num_batches_tracked, running_mean",
    ),
    "two dimensions": (
        lambda: nn.RMSNorm((8, 8), eps=1e-6),
        r"a Parameter of shape \(8, 8\) as weight",
    ),
    "another formula": (lambda: Doubled(64), r"Doubled that computes what no norm of normkernels computes"),
    "another device": (lambda: Raising(64), r"Raising that raised RuntimeError: no kernel for cpu"),
    "a residual": (lambda: nk.RMSNorm(64), r"takes \(x, residual\), must take x, or x and a gate"),
    "a hook": (lambda: changed(lambda norm: norm.register_forward_hook(print)), r"has hooks or"),
    "a first hook": (
        lambda: changed(lambda norm: norm.register_forward_pre_hook(print)),
        r"has hooks or",
    ),
    "a late hook": (lambda: changed(lambda norm: norm.register_full_backward_hook(print)), r"has hooks or"),
    "a wrapper": (lambda: changed(lambda norm: setattr(norm, "forward", norm.forward)), r"has hooks or"),
    "a parametrisation": (
        lambda: changed(lambda norm: nn.utils.parametrize.register_parametrization(norm, "weight", nn.Tanh())),
        r"has parametrizations, parametrizations.weight.original, must",
    ),
    "groups that are none": (
        lambda: changed(lambda norm: setattr(norm, "group_size", 48), lambda n: MambaRMSNormGated(n, 32)),
        r"raised InvalidCall: rms_norm_gated: group_size=48, must be",
    ),
}


TAKEN: dict[str, Callable[[int], nn.Module]] = {
    "theirs": LlamaRMSNorm,
    "renamed": Renamed,
    "torch": lambda n: nn.RMSNorm(n, eps=1e-6),
    "no weight": lambda n: nn.RMSNorm(n, eps=1e-6, elementwise_affine=False),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_module_is_refused_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    """The message names the module, its value and the value it must have; the module stays unchanged."""
    module = make()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(InvalidCall, match=f"^from_module: module is a .*{reason}"):
        from_module(module)
    after = module.state_dict()

    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "make",
    [
        LlamaRMSNorm,
        Renamed,
        lambda n: nn.RMSNorm(n, eps=1e-6),
        lambda n: nn.RMSNorm(n, 1e-6, elementwise_affine=False),
        Weightless,
        lambda _: Weightless(()),
    ],
    ids=["theirs", "renamed", "torch", "without weight", "any width", "no shape"],
)
def test_a_module_is_taken_over_by_what_it_computes(make: Callable[[int], nn.Module], device: str) -> None:
    """The class and the device of the weights do not matter: weights are shared and not read."""
    with torch.device(device):
        module = make(96)
        taken = from_module(module)

    eps = "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps"
    assert type(taken) is nk.RMSNorm
    assert getattr(taken, eps) == getattr(module, eps)
    assert dict(module.named_parameters()) == dict(taken.named_parameters())


class Block(nn.Module):
    """A module with a norm, a list that holds this norm again and another one, and unknown norms."""

    def __init__(self) -> None:
        """Make the norms."""
        super().__init__()
        self.norm = LlamaRMSNorm(64)
        self.more = nn.ModuleList([LlamaRMSNorm(64), self.norm])
        self.strange = nn.LayerNorm(64)
        self.hooked = LlamaRMSNorm(64)
        self.hooked.register_forward_hook(lambda *_: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return all norms, one after another."""
        for norm in (self.norm, *self.more, self.strange, self.hooked):
            x = norm(x)
        return x


def test_a_swap_says_what_it_did_and_takes_it_back() -> None:
    """A norm in two places stays one; each norm is replaced or unknown; undoing restores the model."""
    model: Any = nn.Sequential(Block(), nn.ReLU(), LlamaRMSNorm(64)).to(DEVICE)
    before = dict(model.named_modules(remove_duplicate=False))
    names = ["0.norm", "0.more.0", "0.more.1", "2"]
    x = torch.randn(3, 64, device=DEVICE)
    theirs = model(x)
    with swap(model) as swapped:
        assert {name: before[name] for name in names} == swapped.replaced
        assert {nk.RMSNorm} == {type(model.get_submodule(name)) for name in names}
        assert model[0].norm is model[0].more[1]
        assert ["0.strange", "0.hooked"] == list(swapped.unknown)
        assert "is a LayerNorm that has bias, must have a weight alone, or none" == swapped.unknown["0.strange"]
        assert {} == swap(model).replaced
        assert torch.equal(model(x), theirs)

    assert before == dict(model.named_modules(remove_duplicate=False))


def test_what_happened_to_ours_is_seen_in_theirs() -> None:
    """The restored norm has our module's mode, and its weight, also if a checkpoint replaced the shared one."""
    model = nn.ModuleDict({"norm": LlamaRMSNorm(64)})
    theirs = model["norm"]
    swapped = swap(model.eval())

    assert model["norm"].weight is theirs.weight
    assert not model["norm"].training
    model.train().load_state_dict({"norm.weight": torch.full((64,), 3.0)}, assign=True)
    weight = model["norm"].weight
    swapped.restore()
    swapped.restore()
    assert theirs is model["norm"]
    assert theirs.training
    assert theirs.weight is weight


def test_a_model_is_swapped_and_then_sharded(mesh: DeviceMesh) -> None:
    """Sharded, our norms compute as before; norms that are already sharded stay: FSDP would not know ours."""
    models = [nn.Sequential(LlamaRMSNorm(64), nn.Linear(64, 64)) for _ in range(2)]
    swap(models[0])
    for model in models:
        fully_shard(model, mesh=mesh)
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(3, 64)

    assert ["0"] == list(swap(models[1]).unknown)
    assert torch.equal(models[0](x), models[1](x))


def test_a_model_that_is_a_norm_stays() -> None:
    """A model that is itself a norm has no parent to replace it in: the report says so."""
    assert {"": "is a LlamaRMSNorm that is the model itself, must be a part of it"} == swap(
        LlamaRMSNorm(64)
    ).unknown
