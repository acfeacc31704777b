"""The operations as drop-in modules, and conversion of the modules that models have."""

from __future__ import annotations

import torch
from torch import nn

from normkernels.errors import InvalidCall
from normkernels.ops import rms_norm_gated


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
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Return the norm of ``x``, gated by ``z`` where there is one."""
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


def _from_qwen3_next(module: nn.Module) -> RMSNormGated:
    """Convert Hugging Face's ``Qwen3NextRMSNormGated``: gate after the norm, rounded in its order."""
    weight = module.get_parameter("weight")
    norm = RMSNormGated(0, eps=float(module.variance_epsilon), norm_before_gate=True, activation="silu")  # type: ignore[arg-type]
    norm.weight = weight
    norm.rounding = "hf"
    return norm.train(module.training)


# By name, so that transformers need not be there.
_CONVERTERS = {"Qwen3NextRMSNormGated": _from_qwen3_next}


def from_module(module: nn.Module) -> RMSNormGated:
    """Return ours for a known model's module: the same Parameter, gate order, eps and rounding."""
    for cls in type(module).__mro__:
        if cls.__name__ in _CONVERTERS:
            return _CONVERTERS[cls.__name__](module)
    raise InvalidCall(f"from_module: module is a {type(module).__name__}, must be one of {', '.join(_CONVERTERS)}")
