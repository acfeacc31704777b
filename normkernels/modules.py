"""The operations as drop-in modules, and conversion of the modules that models have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from normkernels.errors import InvalidCall
from normkernels.ops import Normed, gemma_rms_norm, rms_norm, rms_norm_gated


class RMSNorm(nn.Module):
    """RMSNorm with vLLM's constructor, defaults and returns."""

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
            "weight", nn.Parameter(torch.ones(hidden_size, dtype=dtype)) if has_weight else None
        )

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:
        """Return the norm of ``x``; with a residual, that of their sum, and the sum."""
        if x.shape[-1:] != (self.hidden_size,):
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
        self.weight = nn.Parameter(torch.zeros(hidden_size))

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


def _from_llama(module: nn.Module) -> RMSNorm:
    """Convert Hugging Face's ``LlamaRMSNorm`` and its copies: rounded before the weight as well."""
    weight = module.get_parameter("weight")
    norm = RMSNorm(weight.numel(), eps=float(module.variance_epsilon), has_weight=False)  # type: ignore[arg-type]
    norm.weight = weight
    norm.rounding = "hf"
    return norm.train(module.training)


def _from_gemma(module: nn.Module) -> GemmaRMSNorm:
    """Convert Hugging Face's ``Gemma3RMSNorm`` and its copies: a weight centred on zero, rounded once."""
    norm = GemmaRMSNorm(0, eps=float(module.eps))  # type: ignore[arg-type]
    norm.weight = module.get_parameter("weight")
    return norm.train(module.training)


def _from_qwen3_next_gated(module: nn.Module) -> RMSNormGated:
    """Convert Hugging Face's ``Qwen3NextRMSNormGated``: gate after the norm, rounded in its order."""
    norm = RMSNormGated(0, eps=float(module.variance_epsilon), norm_before_gate=True, activation="silu")  # type: ignore[arg-type]
    norm.weight = module.get_parameter("weight")
    norm.rounding = "hf"
    return norm.train(module.training)


# By name, so that transformers need not be there. Every class was read in transformers; a copy has no base.
_CONVERTERS: Mapping[str, Callable[[nn.Module], RMSNorm | GemmaRMSNorm | RMSNormGated]] = {
    "LlamaRMSNorm": _from_llama,
    "MistralRMSNorm": _from_llama,
    "MixtralRMSNorm": _from_llama,
    "Qwen2RMSNorm": _from_llama,
    "Qwen3RMSNorm": _from_llama,
    "Qwen3MoeRMSNorm": _from_llama,
    "Gemma2RMSNorm": _from_gemma,
    "Gemma3RMSNorm": _from_gemma,
    "Qwen3NextRMSNorm": _from_gemma,
    "Qwen3_5RMSNorm": _from_gemma,
    "Qwen3_5MoeRMSNorm": _from_gemma,
    "Qwen3NextRMSNormGated": _from_qwen3_next_gated,
}


def from_module(module: nn.Module) -> RMSNorm | GemmaRMSNorm | RMSNormGated:
    """Return ours for a known model's module: the same Parameter, gate order, eps and rounding."""
    for cls in type(module).__mro__:
        if cls.__name__ in _CONVERTERS:
            return _CONVERTERS[cls.__name__](module)
    raise InvalidCall(f"from_module: module is a {type(module).__name__}, must be one of {', '.join(_CONVERTERS)}")
