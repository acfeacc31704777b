"""The modules keep the constructors, defaults, attributes and state of what they stand in for."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from conformance.package.gated_calls import DEVICE, assert_right, values
from normkernels import InvalidCall, RMSNormGated, from_module, rms_norm_gated


class Qwen3NextRMSNormGated(nn.Module):
    """What Hugging Face's class of this name has, and its forward as we understand it."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Norm in fp32, round, weight, then gate in fp32."""
        wide = hidden_states.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        weighted = self.weight * wide.to(hidden_states.dtype)
        return (weighted * nn.functional.silu(gate.float())).to(hidden_states.dtype)


class Renamed(Qwen3NextRMSNormGated):
    """What a model built on Qwen3-Next calls the same norm."""


def hugging_face(cls: type[Qwen3NextRMSNormGated], dtype: torch.dtype) -> Qwen3NextRMSNormGated:
    """Return a module of ``cls`` with weights that are not one."""
    module = cls(128, eps=1e-5).to(DEVICE, dtype)
    with torch.no_grad():
        module.weight.copy_(values("weight", 128))
    return module


def test_the_constructor_is_pinned() -> None:
    """Names, order and defaults are vLLM's."""
    parameters = inspect.signature(RMSNormGated).parameters

    assert {
        "hidden_size": inspect.Parameter.empty,
        "eps": 1e-5,
        "group_size": None,
        "norm_before_gate": False,
        "device": None,
        "dtype": None,
        "activation": "swish",
    } == {name: parameter.default for name, parameter in parameters.items()}


def test_the_attributes_are_pinned() -> None:
    """What a model reads from the module it had is there."""
    module = RMSNormGated(128)

    assert (1e-5, None, None, False, "swish") == (
        module.eps,
        module.bias,
        module.group_size,
        module.norm_before_gate,
        module.activation,
    )
    assert torch.equal(torch.ones(128), module.weight)


def test_the_state_is_the_weight() -> None:
    """A checkpoint of the module it stands in for loads strictly, in its dtype."""
    module = RMSNormGated(128, dtype=torch.bfloat16)
    module.load_state_dict({"weight": torch.full((128,), 3.0)}, strict=True)

    assert ["weight"] == list(module.state_dict())
    assert torch.equal(torch.full((128,), 3.0, dtype=torch.bfloat16), module.weight)


@pytest.mark.parametrize("shape", [(128,), (5, 128), (2, 5, 128)], ids=str)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_forward_is_the_operation(shape: tuple[int, ...], gated: bool, first: bool) -> None:  # noqa: FBT001
    """Every flag reaches the operation, and the result has x's shape."""
    module = RMSNormGated(128, 1e-3, 32, first, device=DEVICE, activation="sigmoid")
    module.weight.data = values("weight", 128)
    x, z = values("x", *shape), values("z", *shape) if gated else None
    flags = {"eps": 1e-3, "group_size": 32, "norm_before_gate": first, "activation": "sigmoid"}

    with torch.no_grad():
        assert_right({"x": x, "gate": z, "weight": module.weight, **flags}, module(x, z))


def test_weights_that_change_are_seen() -> None:
    """Nothing made of the weight is kept: reloading, casting and in-place updates all count."""
    module = RMSNormGated(128, device=DEVICE)
    x = values("x", 3, 128)
    with torch.no_grad():
        once = module(x)
        module.weight.mul_(2)
        assert torch.equal(2 * once, module(x))
        module.load_state_dict({"weight": torch.full((128,), 4.0)})
        assert torch.equal(4 * once, module(x))
        assert torch.bfloat16 == module.to(torch.bfloat16)(x.bfloat16()).dtype


def test_gradients_flow() -> None:
    """With gradients the module runs natively, and they are those of the formula."""
    module = RMSNormGated(8, dtype=torch.float64, device=DEVICE)
    x, z = (values(name, 3, 8, dtype=torch.float64).requires_grad_() for name in ("x", "z"))

    assert torch.autograd.gradcheck(module, (x, z))
    module(x, z).sum().backward()
    assert module.weight.grad is not None


@pytest.mark.parametrize("cls", [Qwen3NextRMSNormGated, Renamed])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_hugging_face_norm_is_taken_over(
    cls: type[Qwen3NextRMSNormGated],
    dtype: torch.dtype,
    gradients: bool,  # noqa: FBT001  (with them it runs natively)
) -> None:
    """The same Parameter, eps, gate order and rounding: in low precision nearly every bit is the same."""
    theirs = hugging_face(cls, dtype)
    ours = from_module(theirs)
    assert isinstance(ours, RMSNormGated)
    x, gate = values("x", 64, 128, dtype=dtype), values("gate", 64, 128, dtype=dtype)
    with torch.set_grad_enabled(gradients):
        want, got = theirs(x, gate), ours(x, gate)

    assert ours.weight is theirs.weight
    assert (1e-5, "hf", True) == (ours.eps, ours.rounding, ours.norm_before_gate)
    # two right implementations of one contract may differ by a step where the exact value lies on a tie
    assert torch.allclose(want, got, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    # of the other contract, a quarter of the bits differ
    assert dtype == torch.float32 or (want != got).float().mean() < 0.02


def test_a_hugging_face_norm_rounds_in_its_order() -> None:
    """The default rounding would be another contract, and visibly so."""
    ours = from_module(hugging_face(Qwen3NextRMSNormGated, torch.bfloat16))
    assert isinstance(ours, RMSNormGated)
    x, gate = (values(name, 64, 128, dtype=torch.bfloat16) for name in ("x", "gate"))
    with torch.no_grad():
        once = rms_norm_gated(x, gate, ours.weight, eps=ours.eps)
        assert (once != ours(x, gate)).float().mean() > 0.1


def test_an_unknown_module_is_refused() -> None:
    """The message says what it was and what is known."""
    with pytest.raises(InvalidCall, match=r"module is a LayerNorm, must be one of .*Qwen3NextRMSNormGated"):
        from_module(nn.LayerNorm(8))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training: bool) -> None:  # noqa: FBT001
    """A module taken over in evaluation stays there."""
    theirs = hugging_face(Qwen3NextRMSNormGated, torch.float32).train(training)

    assert training is from_module(theirs).training
