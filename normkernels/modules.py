"""The norms as drop-in modules; conversion of norms of other libraries, one by one or in a whole model."""

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Self

import torch
from torch import nn
from torch.func import functional_call

from normkernels.api import Normed, gemma_rms_norm, rms_norm, rms_norm_gated
from normkernels.errors import InvalidCall

__all__ = ["GemmaRMSNorm", "RMSNorm", "RMSNormGated", "from_module", "swap"]


class RMSNorm(nn.Module):
    """RMSNorm with vLLM's constructor, defaults and returns."""

    hidden_size: int | None  # None: any; of norms without a weight that ``from_module`` made
    weight: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        var_hidden_size: int | None = None,
        has_weight: bool = True,  # noqa: FBT001, FBT002  (vLLM's signature)
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make a weight of ones over ``hidden_size`` columns, unless ``has_weight`` is false."""
        if var_hidden_size not in (None, hidden_size):
            raise InvalidCall(
                f"RMSNorm: var_hidden_size={var_hidden_size!r}, must be None or hidden_size, {hidden_size}: "
                f"the norm is over whole rows"
            )
        super().__init__()
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.rounding = "fp32"
        self.register_parameter(
            "weight", nn.Parameter(torch.empty(hidden_size, dtype=dtype)) if has_weight else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weight with ones."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:
        """Return the norm of ``x``; with a residual, the norm of their sum, and the sum."""
        if self.hidden_size is not None and x.shape[-1:] != (self.hidden_size,):
            raise InvalidCall(
                f"RMSNorm: x has shape {tuple(x.shape)}, must have {self.hidden_size} columns, hidden_size"
            )
        return rms_norm(x, self.weight, residual=residual, eps=self.variance_epsilon, rounding=self.rounding)

    def extra_repr(self) -> str:
        """Show the flags."""
        return (
            f"{self.hidden_size}, eps={self.variance_epsilon}, has_weight={self.weight is not None}, "
            f"rounding={self.rounding!r}"
        )


class GemmaRMSNorm(nn.Module):
    """Gemma's RMSNorm, whose weight is centred on zero, with vLLM's constructor, defaults and returns."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        """Make a weight of zeros over ``hidden_size`` columns."""
        super().__init__()
        self.variance_epsilon = eps
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weight with zeros."""
        nn.init.zeros_(self.weight)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:
        """Return the norm of ``x``; with a residual, the norm of their sum, and the sum."""
        return gemma_rms_norm(x, self.weight, residual=residual, eps=self.variance_epsilon)

    def extra_repr(self) -> str:
        """Show the flags."""
        return f"{self.weight.numel()}, eps={self.variance_epsilon}"


class RMSNormGated(nn.Module):
    """Gated RMSNorm with vLLM's constructor, defaults and returns."""

    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = False,  # noqa: FBT001, FBT002  (vLLM's signature)
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "swish",
    ) -> None:
        """Make a weight of ones over ``hidden_size`` columns."""
        super().__init__()
        self.eps = eps
        self.group_size = group_size
        self.norm_before_gate = norm_before_gate
        self.activation = activation
        self.rounding = "fp32"
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weight with ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Return the norm of ``x``, gated by ``z`` if it is given."""
        return rms_norm_gated(
            x,
            z,
            self.weight,
            eps=self.eps,
            group_size=self.group_size,
            norm_before_gate=self.norm_before_gate,
            activation=self.activation,
            rounding=self.rounding,
        )

    def extra_repr(self) -> str:
        """Show the flags."""
        return (
            f"{self.weight.numel()}, eps={self.eps}, group_size={self.group_size}, "
            f"norm_before_gate={self.norm_before_gate}, activation={self.activation!r}, "
            f"rounding={self.rounding!r}"
        )


Norm = RMSNorm | GemmaRMSNorm | RMSNormGated

# Elements on which two norms are compared, and the share of them that may differ. Rounding in another place moves
# at least a tenth of bfloat16 results, float32 arithmetic in another order one in thousands.
_ELEMENTS, _MAY_DIFFER = 4096, 0.01
# Columns on which a norm without a weight is compared.
_COLUMNS = 64


def from_module(module: nn.Module) -> Norm:
    """Return a norm of this package that gives the results of ``module`` and shares its weight.

    A module is recognised by its results, not by its class: it normalises some random bfloat16 rows on the CPU,
    and a norm of this package must return the same. The norm has the module's gate order, activation, eps,
    rounding and mode. A module that matches no norm, or has hooks, raises ``InvalidCall`` with the reason.
    """
    found = _counterpart(module)
    if isinstance(found, str):
        raise InvalidCall(f"from_module: module is a {type(module).__name__} that {found}")
    return found


class Swap:
    """Norms of a model, replaced by this package's until ``restore`` or the end of ``with swap(model):``."""

    replaced: dict[str, nn.Module]  # the model's own norms, under each of their names in it
    unknown: dict[str, str]  # other modules whose class is called a norm, with the reason why each stays

    def __init__(self, model: nn.Module) -> None:
        """Replace every norm of ``model`` that ``from_module`` takes."""
        self.model, self.replaced, self.unknown = model, {}, {}
        found: dict[nn.Module, Norm | str] = {}
        for name, module in [*model.named_modules(remove_duplicate=False)]:
            if isinstance(module, Norm):
                continue
            if module not in found:
                found[module] = _counterpart(module) if name else "is the model itself, must be a part of it"
            ours = found[module]
            if not isinstance(ours, str):
                model.set_submodule(name, ours)
                self.replaced[name] = module
            elif "norm" in type(module).__name__.lower():
                self.unknown[name] = f"is a {type(module).__name__} that {ours}"

    def restore(self) -> None:
        """Put the model's own norms back, with the current mode and weight of their replacements."""
        for name, theirs in self.replaced.items():
            ours = self.model.get_submodule(name)
            theirs.train(ours.training)
            if "weight" in dict(theirs.named_parameters()):
                theirs.weight = ours.get_parameter("weight")
            self.model.set_submodule(name, theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


swap = Swap


def _counterpart(module: nn.Module) -> Norm | str:
    """Return the norm that replaces a module, or the reason against a replacement."""
    name = "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps"
    eps = getattr(module, name, None)
    if not isinstance(eps, float) or not eps > 0:
        return f"has {name}={eps!r}, must have a number above zero"
    if "forward" in vars(module) or any(held for key, held in vars(module).items() if key.endswith("_hooks")):
        return "has hooks or a forward of its own, must have none, because a replacement would not call them"
    parameters = dict(module.named_parameters())
    others = {*module.state_dict(), *dict(module.named_children())} - {"weight"}
    weight = parameters.get("weight")
    if others or ("weight" in module.state_dict() and weight is None):
        return f"has {', '.join(sorted(others)) or 'a buffer as weight'}, must have a weight alone, or none"
    if weight is not None and (type(weight) is not nn.Parameter or weight.dim() != 1):
        return f"has a {type(weight).__name__} of shape {tuple(weight.shape)} as weight, must have a plain vector"
    takes = [*inspect.signature(module.forward).parameters]
    gated = len(takes) == 2 and takes[1] in {"gate", "z"} and weight is not None
    if len(takes) != 1 and not gated:
        return f"takes ({', '.join(takes)}), must take x, or x and a gate"

    for ours in _candidates(module, weight, eps, gated=gated):
        differ = _differ(module, ours, eps, gated=gated)
        if isinstance(differ, str):
            return differ
        if differ <= _MAY_DIFFER:
            # models read it, and pass it to their own kernels
            setattr(ours, name, eps)
            if weight is not None:
                ours.weight = weight
            return ours.train(module.training)
    return "computes what no norm of normkernels computes"


def _candidates(module: nn.Module, weight: nn.Parameter | None, eps: float, *, gated: bool) -> Iterator[Norm]:
    """Generate the norms of this package that a module may match."""
    n = _COLUMNS if weight is None else weight.numel()
    if gated:
        groups = getattr(module, "n_groups", 1)
        width = getattr(module, "group_size", n // groups)
        for rounding, first, activation in product(("fp32", "hf"), (True, False), ("silu", "sigmoid")):
            candidate = RMSNormGated(n, eps, width, first, activation=activation)
            candidate.rounding = rounding
            yield candidate
        return
    for rounding in ("fp32", "hf"):
        plain = RMSNorm(n, eps, has_weight=weight is not None)
        plain.rounding = rounding
        if weight is None:
            plain.hidden_size = None
        yield plain
    if weight is not None:
        yield GemmaRMSNorm(n, eps)


def _differ(theirs: nn.Module, ours: Norm, eps: float, *, gated: bool) -> float | str:
    """Return the share of results in which two norms differ, or the exception of ``theirs`` in words."""
    shape = getattr(theirs, "normalized_shape", None)  # torch's norms check the width of a call
    own = shape[-1] if isinstance(shape, tuple) and shape else _COLUMNS
    n = own if ours.weight is None else ours.weight.numel()
    generator = torch.Generator("cpu").manual_seed(0)
    rows = -(-_ELEMENTS // max(n, 1)) + 1
    x, gate, weights = torch.randn(3, rows, n, generator=generator, device="cpu").bfloat16()
    # every other row so small that eps shows
    x[::2] *= eps**0.5
    # with a gradient norms of this package run natively on every device
    given = (x.requires_grad_(), gate)[: 1 + gated]
    probe = {} if ours.weight is None else {"weight": weights[0]}
    try:
        with torch.enable_grad():
            wanted, result = (functional_call(norm, probe, given) for norm in (ours, theirs))
    except Exception as error:  # noqa: BLE001  # code of another library, with arguments that it may refuse
        return f"raised {type(error).__name__}: {error}"
    if not isinstance(result, torch.Tensor) or (result.shape, result.dtype) != (wanted.shape, wanted.dtype):
        return 1.0
    return float((result != wanted).float().mean())
