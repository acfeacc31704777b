"""Norms of other libraries: recognised by their results, converted to ours, and swapped in a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Self

import torch
from torch import nn
from torch.func import functional_call

from normkernels.errors import InvalidCall
from normkernels.modules import GemmaRMSNorm, RMSNorm, RMSNormGated

Norm = RMSNorm | GemmaRMSNorm | RMSNormGated

# Elements on which two norms are compared, and the share of them that may differ. Rounding in another place moves
# a tenth of bfloat16 results and more, the same float32 arithmetic in another order one of thousands.
_ELEMENTS, _MAY_DIFFER = 4096, 0.01
# Columns of a norm that has no weight to tell them.
_COLUMNS = 64


def from_module(module: nn.Module) -> Norm:
    """Return a norm of ours that computes what ``module`` computes, and shares its weight.

    A module is recognised by its results, not by its class: it normalises some random bfloat16 rows on the CPU,
    and a norm of ours must return the same. Gate order, activation, eps, rounding and mode are those of the
    module. Any other raises ``InvalidCall`` with the reason; so does one with hooks, which ours would not call.
    """
    found = _counterpart(module)
    if isinstance(found, str):
        raise InvalidCall(f"from_module: module is a {type(module).__name__} that {found}")
    return found


class Swap:
    """The norms of a model that ours replace until ``restore``, or until the end of a ``with`` block."""

    replaced: dict[str, nn.Module]  # the model's own norms, under each of their names in it
    unknown: dict[str, str]  # other modules whose class is called a norm, with the reason why each stays

    def __init__(self, model: nn.Module) -> None:
        """Put ours in the place of every norm of ``model`` that ``from_module`` takes."""
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
        """Put the model's own norms back, with the mode and the weight that ours have by now."""
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


def swap(model: nn.Module) -> Swap:
    """Put ours in the place of every norm of ``model`` that ``from_module`` takes, on the same weights.

    The returned object names what was ``replaced`` and which norms are ``unknown``, each with the reason. Its
    ``restore()`` takes all of it back, as does the end of ``with swap(model):``.
    """
    return Swap(model)


def _counterpart(module: nn.Module) -> Norm | str:
    """Return ours for a module, or the reason why there is none."""
    name = "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps"
    eps = getattr(module, name, None)
    if not isinstance(eps, float) or not eps > 0:
        return f"has {name}={eps!r}, must have a number above zero"
    if "forward" in vars(module) or any(held for key, held in vars(module).items() if key.endswith("_hooks")):
        return "has hooks or a forward of its own, must have none, for ours would not call them"
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
            # read by models that pass it on to kernels of theirs
            setattr(ours, name, eps)
            if weight is not None:
                ours.weight = weight
            return ours.train(module.training)
    return "computes what none of ours does"


def _candidates(module: nn.Module, weight: nn.Parameter | None, eps: float, *, gated: bool) -> Iterator[Norm]:
    """Generate the norms of ours that a module may be."""
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
    """Return the share of results in which two norms differ, or what ``theirs`` raised."""
    n = _COLUMNS if ours.weight is None else ours.weight.numel()
    generator = torch.Generator("cpu").manual_seed(0)
    rows = -(-_ELEMENTS // max(n, 1)) + 1
    x, gate, weights = torch.randn(3, rows, n, generator=generator, device="cpu").bfloat16()
    # every other row so small that eps shows
    x[::2] *= eps**0.5
    # with a gradient ours run natively wherever they are
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
