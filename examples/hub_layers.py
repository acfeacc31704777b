"""Layers for Hugging Face's ``kernels``: norms and rotations that ask that library for a forward get ours.

Decorators in transformers name a layer, as ``RMSNorm``; ``kernelize`` gives each module of that name the forward
that a mapping has for it::

    with kernels.use_kernel_mapping(MAPPING):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cuda")

One name stands for several formulas: of 142 classes of transformers 5.23 that ask for ``RMSNorm``, 129 round
before the weight and 13 do not. So a module is recognised by its results, as ``swap`` does, when its forward first
runs. One that this package does not compute keeps its own forward, with a warning that has the reason.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from normkernels import InvalidCall, apply_rotary_pos_emb, from_module

Rotated = tuple[torch.Tensor, torch.Tensor]
logger = logging.getLogger(__name__)
# counterparts of modules that have run
FOUND: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


# --- layers: ``kernels`` takes no members beside forward and flags, and no arguments but those of the module -----


class RMSNorm(nn.Module):
    """Forward of the norms of one input."""

    # the first call compares results, which cannot be traced
    can_torch_compile = False

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the norm of the rows."""
        normed: torch.Tensor = counterpart(self)(hidden_states)
        return normed


class RMSNormZeroCentered(nn.Module):
    """Forward of the norms whose weight is centred on zero."""

    can_torch_compile = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of the rows."""
        normed: torch.Tensor = counterpart(self)(x)
        return normed


class RMSNormGated(nn.Module):
    """Forward of the norms with a gate."""

    can_torch_compile = False

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gated norm of the rows."""
        normed: torch.Tensor = counterpart(self)(hidden_states, gate)
        return normed


class RotaryPosEmb(nn.Module):
    """Forward of the rotations of q and k."""

    can_torch_compile = False

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> Rotated:
        """Return both, rotated."""
        rotate = rotation(type(self))  # type: ignore[arg-type]  # classes can be hashed
        return rotate(q, k, cos, sin, unsqueeze_dim)


# --- recognition ------------------------------------------------------------------------------------------------


def counterpart(module: nn.Module) -> nn.Module:
    """Return our norm for a module whose forward was replaced, or the module with its own forward."""
    found = FOUND.get(module)
    if found is None:
        own = copy.copy(module)
        vars(own).pop("forward", None)
        try:
            found = from_module(own)
            # one table for both: a weight that a checkpoint or a move replaces later is seen
            vars(found)["_parameters"] = vars(module)["_parameters"]
        except InvalidCall as error:
            logger.warning("%s keeps its forward: %s", type(module).__name__, error)
            found = own
        FOUND[module] = found
    return found


@functools.cache
def rotation(kind: Callable[[], Callable[..., Rotated]]) -> Callable[..., Rotated]:
    """Return our rotation for a function that ``kernels`` made a class of, or its own if the results differ."""
    own = kind()
    generator = torch.Generator("cpu").manual_seed(0)
    q, k, angles = (torch.randn(2, heads, 3, 8, generator=generator, device="cpu") for heads in (4, 1, 1))
    cos, sin = (turn(angles[:, 0, :, :4]).repeat(1, 1, 2) for turn in (torch.cos, torch.sin))
    try:
        for one, other in zip(own(q, k, cos, sin), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
            torch.testing.assert_close(one, other)
    except Exception as error:  # noqa: BLE001 - code of another library, with arguments that it may refuse
        logger.warning("a rotation keeps its forward: %s", str(error).partition("\n")[0])
        return own
    return apply_rotary_pos_emb


# --- the mapping ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ours:
    """A repository as ``kernels`` asks for it: something that loads a layer."""

    layer: type[nn.Module]

    def load(self) -> type[nn.Module]:
        """Return the layer."""
        return self.layer


LAYERS: dict[str, type[nn.Module]] = {
    "RMSNorm": RMSNorm,
    "RMSNormZeroCentered": RMSNormZeroCentered,
    "RMSNormGated": RMSNormGated,
    "rotary_pos_emb": RotaryPosEmb,
}
# on a CPU the native forms run
MAPPING: dict[str, dict[Any, Any]] = {
    name: dict.fromkeys(("cuda", "rocm", "cpu"), Ours(layer)) for name, layer in LAYERS.items()
}
