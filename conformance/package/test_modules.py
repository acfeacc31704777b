"""The modules keep the constructors, defaults, attributes and state of the modules that they replace."""

from __future__ import annotations

import inspect

import pytest
import torch

from conformance.package.calls.rms_norm_gated import assert_right
from conformance.package.calls.tensors import DEVICE, values
from normkernels import RMSNormGated


def test_the_constructor_is_pinned() -> None:
    """Parameter names, order and defaults are vLLM's."""
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
    """The module has every attribute that a model reads from vLLM's."""
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
    """A checkpoint of the replaced module loads strictly, in its dtype."""
    module = RMSNormGated(128, dtype=torch.bfloat16)
    module.load_state_dict({"weight": torch.full((128,), 3.0)}, strict=True)

    assert ["weight"] == list(module.state_dict())
    # torch.equal takes equal numbers of two dtypes for equal
    assert torch.bfloat16 == module.weight.dtype
    assert torch.equal(torch.full((128,), 3.0), module.weight)


def test_the_weight_is_made_where_it_is_asked_for() -> None:
    """The device of the constructor comes before the default one."""
    assert RMSNormGated(128, device="meta").weight.is_meta
    with torch.device("meta"):
        assert RMSNormGated(128, device="cpu").weight.is_cpu


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
    """The module keeps nothing derived from the weight: reloading, casting and in-place updates take effect."""
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
    """With gradients the module runs natively, and its gradients are those of the formula."""
    module = RMSNormGated(8, dtype=torch.float64, device=DEVICE)
    x, z = (values(name, 3, 8, dtype=torch.float64).requires_grad_() for name in ("x", "z"))

    assert torch.autograd.gradcheck(module, (x, z))
    module(x, z).sum().backward()
    assert module.weight.grad is not None
