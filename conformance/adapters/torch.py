"""PyTorch in eager mode: ``F.rms_norm(x) * F.silu(gate)``, the usual form without a fused kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.nn import functional

from conformance.adapter import Adapter, Declined
from conformance.oracle.contract import Contract


class Torch(Adapter):
    """Two fused steps, with a rounding after each."""

    name = "torch"
    differentiable = True
    package = "torch"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm_gated": "two_step",
        "rms_norm": Contract(frozenset({"sum"})),
        "gemma_rms_norm": Contract(frozenset({"sum", "offset"})),
        "mrope": "eager",
        "layer_norm": "fp32",
        "silu_and_mul": "eager",
        "l2_norm": "eager",
        "softmax": Contract(frozenset({"scaled", "masked"})),
        "rope": "eager",
        "gelu_and_mul": "eager",
        "qk_norm_rope": Contract(frozenset({"normed", "angle", "turned"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        # F.rms_norm has no groups, and rounds to x's dtype where the contract rounds to the weight's; gating first
        # would round the product before the norm, which is another contract
        "rms_norm_gated": {"group": ("none", "whole"), "norm_before_gate": "yes", "weight": "same"},
        "rms_norm": {"offset": "zero", "weight": ("same", "none"), "residual": ("same", "none")},
        "gemma_rms_norm": {"weight": "same", "residual": ("same", "none")},
        "mrope": {},
        # on a CPU a weight and a bias have one dtype
        "layer_norm": {"weight": ("same", "none"), "bias": ("same", "none")},
        "silu_and_mul": {"up": "same"},
        "l2_norm": {},
        "softmax": {},
        "rope": {},
        # as in rms_norm
        "qk_norm_rope": {"offset": "zero", "dtypes": ("same", "cos_float32")},
    }
    # PyTorch chooses how to sum by the whole shape
    batch_invariant = False
    # on CUDA, widths that no vector divides use a running variance
    running_variance = True

    def rms_norm_gated(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
    ) -> torch.Tensor:
        """Normalise and weigh, then gate."""
        y = functional.rms_norm(x, x.shape[-1:], weight, eps)
        if gate is not None:
            y = y * (torch.sigmoid(gate) if activation == "sigmoid" else functional.silu(gate))
        return y.to(x.dtype)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Add, then ``F.rms_norm``."""
        return _norm(x, weight, residual, eps)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Add, then ``F.rms_norm`` with one added to the weight, in the weight's dtype."""
        return _norm(x, 1 + weight, residual, eps)

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``F.layer_norm`` of the last dimension."""
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call ``F.silu``, then multiply."""
        return functional.silu(gate) * up

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Write the formula in x's dtype: ``F.normalize`` has another one, without eps under the root."""
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Scale and mask in the dtypes given, then call ``F.softmax``, which stays in float32 until it stores."""
        scores = x if scale is None else x * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return functional.softmax(scores, -1).to(x.dtype)

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Call ``F.gelu``, then multiply."""
        if approximate == "none" and gate.dtype == torch.float32 and not gate.is_cuda:
            raise Declined("on CPUs oneDNN has this gelu, with one and erf off by 12.8 * 2**-24")
        if up.dtype != gate.dtype:
            raise Declined("a product of two dtypes has the wider one")
        return functional.gelu(gate, approximate=approximate) * up

    def mrope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        sections: tuple[int, int, int],
        head_dim: int | None,
        interleaved: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather cos and sin once for both, then turn every head in the dtype it has."""
        half = cos.shape[1]
        axes = torch.zeros(half, dtype=torch.long, device=q.device)
        for axis in (1, 2):
            start = axis if interleaved else sum(sections[:axis])
            stop = 3 * sections[axis] if interleaved else start + sections[axis]
            axes[start : stop : 3 if interleaved else 1] = axis
        index = positions.expand(3, -1)[axes].t().long()
        angles = [table.gather(0, index)[:, None] for table in (cos, sin)]
        return _rotated(q, angles, head_dim), _rotated(k, angles, head_dim)

    def rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look cos and sin up once for both, then turn every head in the dtype it has."""
        angles = [(table if positions is None else table[positions.long()])[:, None] for table in (cos, sin)]
        return _rotated(q, angles, head_dim, pairs), _rotated(k, angles, head_dim, pairs)

    def qk_norm_rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        eps: float,
        weight_offset: float,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``F.rms_norm`` of the heads, then turn them."""
        size = head_dim or q.shape[-1]
        q, k = _normed_heads(q, q_weight, size, eps), _normed_heads(k, k_weight, size, eps)
        return self.rope(q, k, positions, cos, sin, head_dim=head_dim, pairs=pairs)


def _normed_heads(x: torch.Tensor, weight: torch.Tensor, size: int, eps: float) -> torch.Tensor:
    heads = x.reshape(len(x), math.prod(x.shape[1:]) // size, size)
    return functional.rms_norm(heads, (size,), weight, eps).reshape(x.shape)


def _rotated(
    x: torch.Tensor, angles: list[torch.Tensor], head_dim: int | None, pairs: str = "halves"
) -> torch.Tensor:
    heads = x if head_dim is None else x.reshape(len(x), x.shape[1] // head_dim, head_dim)
    if pairs == "neighbours":
        cos, sin = (angle.repeat_interleave(2, -1).to(x.dtype) for angle in angles)
        rotary, rest = heads.tensor_split([cos.shape[-1]], -1)
        partners = torch.stack((-rotary[..., 1::2], rotary[..., ::2]), -1).flatten(-2)
    else:
        cos, sin = (torch.cat((angle, angle), -1).to(x.dtype) for angle in angles)
        rotary, rest = heads.tensor_split([cos.shape[-1]], -1)
        first, second = rotary.chunk(2, -1)
        partners = torch.cat((-second, first), -1)
    return torch.cat((rotary * cos + partners * sin, rest), -1).reshape(x.shape)


def _norm(
    x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    if residual is None:
        return functional.rms_norm(x, x.shape[-1:], weight, eps)
    total = x + residual
    return functional.rms_norm(total, x.shape[-1:], weight, eps), total
