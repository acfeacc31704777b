"""The norms as drop-in modules."""

from __future__ import annotations

import torch
from torch import nn

from normkernels.api import Normed, gemma_rms_norm, rms_norm, rms_norm_gated
from normkernels.errors import InvalidCall

__all__ = ["GemmaRMSNorm", "RMSNorm", "RMSNormGated"]


class RMSNorm(nn.Module):
    """RMSNorm with vLLM's constructor, defaults and returns."""

    hidden_size: int | None  # None: any, of a norm that has no weight and came from another module
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
        """Return the norm of ``x``; with a residual, that of their sum, and the sum."""
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
        """Return the norm of ``x``; with a residual, that of their sum, and the sum."""
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
