"""RMSNorm and GemmaRMSNorm keep the constructors, defaults, attributes, returns and state of vLLM's."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from conformance.package.calls.rms_norm import assert_right
from conformance.package.calls.tensors import DEVICE, values
from normkernels import GemmaRMSNorm, InvalidCall, RMSNorm, RMSNormGated

MODULES: dict[str, type[RMSNorm | GemmaRMSNorm]] = {"rms_norm": RMSNorm, "gemma_rms_norm": GemmaRMSNorm}
LOW = torch.bfloat16


def test_the_constructors_are_pinned() -> None:
    """Parameter names, order and defaults are vLLM's."""
    found = {
        name: {key: parameter.default for key, parameter in inspect.signature(kind).parameters.items()}
        for name, kind in MODULES.items()
    }
    empty = inspect.Parameter.empty

    assert {
        "hidden_size": empty,
        "eps": 1e-6,
        "var_hidden_size": None,
        "has_weight": True,
        "dtype": None,
    } == found["rms_norm"]
    assert {"hidden_size": empty, "eps": 1e-6} == found["gemma_rms_norm"]
    assert ["hidden_size", "eps", "var_hidden_size", "has_weight", "dtype"] == list(found["rms_norm"])


def test_the_attributes_and_the_first_weights_are_pinned() -> None:
    """The modules have every attribute that a model reads from vLLM's; Gemma's weight is centred on zero."""
    norm, gemma = RMSNorm(96, 1e-3, dtype=LOW), GemmaRMSNorm(96)

    assert (1e-3, 1e-6) == (norm.variance_epsilon, gemma.variance_epsilon)
    assert norm.weight is not None
    # torch.equal takes equal numbers of two dtypes for equal
    assert (LOW, torch.float32) == (norm.weight.dtype, gemma.weight.dtype)
    assert torch.equal(torch.ones(96), norm.weight)
    assert torch.equal(torch.zeros(96), gemma.weight)


@pytest.mark.parametrize("module", [RMSNorm(96), GemmaRMSNorm(96)], ids=MODULES)
def test_the_state_is_the_weight(module: nn.Module) -> None:
    """A checkpoint of the replaced module loads strictly."""
    module.load_state_dict({"weight": torch.full((96,), 3.0)}, strict=True)

    assert ["weight"] == list(module.state_dict())
    assert torch.equal(torch.full((96,), 3.0), module.get_parameter("weight"))


@pytest.mark.parametrize("dtype", [LOW, torch.float32], ids=str)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("operation", MODULES)
def test_forward_is_the_operation(operation: str, gradients: bool, dtype: torch.dtype) -> None:  # noqa: FBT001
    """Forward returns y without a residual, (y, s) with one; with gradients it runs natively."""
    module = MODULES[operation](96, 1e-3).to(DEVICE, dtype)
    module.get_parameter("weight").data = values("weight", 96, dtype=dtype)
    x, residual = values("x", 2, 5, 96, dtype=dtype), values("residual", 2, 5, 96, dtype=dtype)
    arguments = {"x": x, "weight": module.weight, "eps": 1e-3}
    with torch.set_grad_enabled(gradients):
        alone, both = module(x), module(x, residual)

    assert isinstance(alone, torch.Tensor)
    assert isinstance(both, tuple)
    assert_right(operation, arguments, (alone,))
    assert_right(operation, arguments | {"residual": residual}, both)
    assert gradients is alone.requires_grad is both[0].requires_grad


def test_a_norm_may_have_no_weight() -> None:
    """Without a weight there is no state and no multiplication, and the width is still checked."""
    module = RMSNorm(96, has_weight=False)
    x = values("x", 3, 96)

    assert module.weight is None
    assert [] == list(module.state_dict())
    assert_right("rms_norm", {"x": x, "weight": None, "eps": 1e-6}, (module(x),))
    with pytest.raises(InvalidCall, match=r"RMSNorm: x has shape \(3, 95\), must have 96 columns"):
        module(x[:, :95])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("kind", "plain"), [(RMSNorm, 1.0), (GemmaRMSNorm, 0.0), (RMSNormGated, 1.0)])
def test_weights_made_without_memory_are_initialised(
    kind: type[nn.Module],
    plain: float,
    sharded: bool,  # noqa: FBT001
    mesh: DeviceMesh,
) -> None:
    """As trainers do it: made on meta, sharded or not, given memory, then every module is reset."""
    with torch.device("meta"):
        model: Any = nn.Sequential(kind(96))
    if sharded:
        fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model[0].get_parameter("weight").fill_(torch.nan)  # fresh memory may hold anything
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    weight = model.state_dict()["0.weight"]
    assert torch.equal(torch.full((96,), plain), weight.full_tensor() if sharded else weight)


def test_a_norm_without_weight_has_nothing_to_initialise() -> None:
    """The norm still has its reset method."""
    RMSNorm(96, has_weight=False).reset_parameters()


@pytest.mark.parametrize("width", [0, 48, 97])
def test_the_variance_is_that_of_whole_rows(width: int) -> None:
    """A variance over part of the columns is refused, not ignored; over all columns it is the default."""
    RMSNorm(96, var_hidden_size=96)

    with pytest.raises(InvalidCall, match=f"var_hidden_size={width}, must be None or hidden_size, 96"):
        RMSNorm(96, var_hidden_size=width)


@pytest.mark.parametrize("module", [RMSNorm(96), GemmaRMSNorm(96)], ids=MODULES)
def test_weights_that_change_are_seen(module: nn.Module) -> None:
    """The module keeps nothing derived from the weight, such as one plus it: reloading and casting take effect."""
    module = module.to(DEVICE)
    plain = 1.0 if isinstance(module, RMSNorm) else 0.0
    x = values("x", 3, 96)
    with torch.no_grad():
        module.load_state_dict({"weight": torch.full((96,), plain)})
        once = module(x)
        module.get_parameter("weight").add_(1.0)
        assert torch.equal(2 * once, module(x))
        module.load_state_dict({"weight": torch.full((96,), plain + 3.0)})
        assert torch.equal(4 * once, module(x))
        assert LOW == module.to(LOW)(x.to(LOW)).dtype


@pytest.mark.parametrize("kind", MODULES.values(), ids=MODULES)
def test_gradients_flow(kind: type[nn.Module]) -> None:
    """With gradients the module runs natively, and its gradients are those of the formula."""
    module = kind(8).to(DEVICE, torch.float64)
    given = [values(name, 3, 8, dtype=torch.float64).requires_grad_() for name in ("x", "residual")]

    assert torch.autograd.gradcheck(module, given)
    y, total = module(*given)
    (y + total).sum().backward()
    assert module.get_parameter("weight").grad is not None


def test_a_printed_module_shows_its_flags() -> None:
    """The text has the width, eps, and every flag that differs from the default."""
    assert "RMSNorm(96, eps=1e-06, has_weight=False, rounding='fp32')" == str(RMSNorm(96, has_weight=False))
    assert "GemmaRMSNorm(96, eps=1e-06)" == str(GemmaRMSNorm(96))
