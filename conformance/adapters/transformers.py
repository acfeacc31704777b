"""Hugging Face Transformers: norms of Llama, Gemma 3, Qwen3-Next and Cohere, rotations of Qwen2-VL and Qwen3.5.

Heads of Qwen3 are normalised and rotated, and scores of GPT-BigCode scaled and masked before their softmax.
``hf`` names the norms' order of roundings; the rotations round the angles and every product.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, UsageError
from conformance.oracle.contract import NAMED, Contract

Result = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Transformers(Adapter):
    """The modules, with the weight of each call in place of their own; a residual is added as their layers do."""

    name = "transformers"
    package = "transformers"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(NAMED["hf"] | {"sum"}),
        # rounded once: Gemma's module stays in float32, where Llama's has rounded by then
        "gemma_rms_norm": Contract(frozenset({"sum"})),
        "rms_norm_gated": "hf",
        "mrope": "eager",
        "layer_norm": "fp32",
        "l2_norm": "eager",
        "silu_and_mul": "eager",
        "gelu_and_mul": "eager",
        "rope": "eager",
        # Qwen3's norm is Llama's: it rounds before the weight and after it, in one dtype
        "qk_norm_rope": Contract(frozenset({"normalised", "normed", "angle", "turned"})),
        "softmax": Contract(frozenset({"filled"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        # the class returns the wider of x's and the weight's dtypes, has a weight, and no offset
        "rms_norm": {"offset": "zero", "weight": "same", "residual": ("same", "none")},
        "gemma_rms_norm": {"residual": ("same", "none")},
        # the class needs a gate, gates with silu after the norm, and has no groups
        "rms_norm_gated": {
            "activation": ("silu", "swish"),
            "gate": ("same", "other"),
            "group": ("none", "whole"),
            "norm_before_gate": "yes",
        },
        # the angles have the dtype of the layer's input, and both q and k are projections of it
        # Qwen2-VL, whose axes are sectioned, rotates whole heads
        "mrope": {
            "dtypes": ("same", "cos_float32"),
            "apart": {"order": "sectioned", "dims": ("quarter", "part", "odd")},
        },
        # the class has no bias
        "layer_norm": {"weight": ("same", "float32"), "bias": "none"},
        "l2_norm": {},
        # gate and up are projections of one input
        "silu_and_mul": {"up": "same"},
        # the activations by erf are PyTorch's
        "gelu_and_mul": {"up": "same", "approximate": "tanh"},
        # Llama turns whole heads
        "rope": {"dtypes": ("same", "cos_float32"), "dims": "whole", "pairs": "halves"},
        "qk_norm_rope": {
            "dtypes": ("same", "cos_float32"),
            "dims": "whole",
            "pairs": "halves",
            "offset": "zero",
        },
        # bools choose between scores and a low number; where masks are added, no function has the softmax alone
        "softmax": {"mask": ("none", "bool")},
    }
    # the modules are plain PyTorch, which chooses the order of a sum by the whole shape
    batch_invariant = False

    def __init__(self) -> None:
        try:
            from transformers.activations import ACT2FN
            from transformers.models.cohere import modeling_cohere
            from transformers.models.gemma3 import modeling_gemma3
            from transformers.models.gpt_bigcode import modeling_gpt_bigcode
            from transformers.models.llama import modeling_llama
            from transformers.models.qwen2_vl import modeling_qwen2_vl
            from transformers.models.qwen3 import modeling_qwen3
            from transformers.models.qwen3_5 import modeling_qwen3_5
            from transformers.models.qwen3_next import modeling_qwen3_next
        except ImportError as error:
            raise UsageError(
                f"transformers: needs Hugging Face's package, pip install transformers: {error}"
            ) from error
        self._llama = modeling_llama.LlamaRMSNorm
        self._gemma = modeling_gemma3.Gemma3RMSNorm
        self._gated = modeling_qwen3_next.Qwen3NextRMSNormGated
        self._centred = modeling_cohere.CohereLayerNorm
        self._l2_norm = modeling_qwen3_next.l2norm
        self._silu, self._gelu = ACT2FN["silu"], ACT2FN["gelu_pytorch_tanh"]
        self._rotated = modeling_llama.apply_rotary_pos_emb
        self._qwen3 = modeling_qwen3
        self._scores = modeling_gpt_bigcode
        self._sectioned = modeling_qwen2_vl
        self._interleaved = modeling_qwen3_5

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Result:
        """Call ``LlamaRMSNorm``."""
        return _added(_module(self._llama, weight, eps), x, residual)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Result:
        """Call ``Gemma3RMSNorm``."""
        return _added(_module(self._gemma, weight, eps), x, residual)

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
        """Call ``Qwen3NextRMSNormGated``."""
        result: torch.Tensor = _module(self._gated, weight, eps)(x, gate)
        return result

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``CohereLayerNorm``."""
        result: torch.Tensor = _module(self._centred, weight, eps)(x)
        return result

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Call ``l2norm`` of Qwen3-Next."""
        result: torch.Tensor = self._l2_norm(x, eps=eps)
        return result

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call the activation, then multiply, as the MLP of Llama does with both projections."""
        result: torch.Tensor = self._silu(gate) * up
        return result

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Call the activation, then multiply, as the MLP of Gemma does."""
        result: torch.Tensor = self._gelu(gate) * up
        return result

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Call ``upcast_softmax``, or ``upcast_masked_softmax`` with the number that attention fills in."""
        factor, wide = 1.0 if scale is None else scale, torch.float32
        low = torch.full([], torch.finfo(wide).min, dtype=wide, device=x.device)
        result: torch.Tensor = (
            self._scores.upcast_softmax(x, factor, wide)
            if mask is None
            else self._scores.upcast_masked_softmax(x, mask, low, factor, wide)
        )
        return result

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
    ) -> tuple[torch.Tensor, ...]:
        """Call ``apply_rotary_pos_emb`` of Llama with the given angles, in q's dtype as the model makes them."""
        turned = self._rotated(*_heads(q, k, head_dim), *_angles(q, positions, cos, sin))
        return tuple(y.reshape(x.shape) for x, y in zip((q, k), turned, strict=True))

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
    ) -> tuple[torch.Tensor, ...]:
        """Call ``Qwen3RMSNorm`` of the heads, then ``apply_rotary_pos_emb``, as ``Qwen3Attention`` does."""
        heads = zip(_heads(q, k, head_dim), (q_weight, k_weight), strict=True)
        normed = (_module(self._qwen3.Qwen3RMSNorm, weight, eps)(x) for x, weight in heads)
        turned = self._qwen3.apply_rotary_pos_emb(*normed, *_angles(q, positions, cos, sin))
        return tuple(y.reshape(x.shape) for x, y in zip((q, k), turned, strict=True))

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
    ) -> tuple[torch.Tensor, ...]:
        """Call ``apply_rotary_pos_emb`` of Qwen3.5, or, for sections, Qwen2-VL's, with the given angles."""
        model = self._interleaved if interleaved else self._sectioned
        kind = model.Qwen3_5TextRotaryEmbedding if interleaved else model.Qwen2VLRotaryEmbedding
        rotary = SimpleNamespace(mrope_section=sections)
        # rows of three axes, as the class computes them from positions
        rows = positions.expand(3, -1).long()
        angles = [kind.recomposition_frequencies(rotary, table[rows]).to(q.dtype) for table in (cos, sin)]
        turned = model.apply_rotary_pos_emb(*_heads(q, k, head_dim), *angles)
        return tuple(y.reshape(x.shape) for x, y in zip((q, k), turned, strict=True))


def _heads(q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> list[torch.Tensor]:
    return [x if head_dim is None else x.reshape(len(x), x.shape[1] // head_dim, head_dim) for x in (q, k)]


def _angles(
    q: torch.Tensor, positions: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor
) -> list[torch.Tensor]:
    """Return cosines and sines of the tokens, for whole heads, in q's dtype as the models make them."""
    rows = (table if positions is None else table[positions.long()] for table in (cos, sin))
    return [torch.cat((row, row), -1).to(q.dtype) for row in rows]


def _module(kind: Any, weight: torch.Tensor, eps: float) -> Any:  # noqa: ANN401 - of a package without types
    norm = kind(weight.shape[-1], eps=eps)
    norm.weight = torch.nn.Parameter(weight, requires_grad=False)
    return norm


def _added(norm: Any, x: torch.Tensor, residual: torch.Tensor | None) -> Result:  # noqa: ANN401 - as above
    """Call a norm as a decoder layer does: ``residual + x`` in their dtype, then the norm of the sum."""
    if residual is None:
        alone: torch.Tensor = norm(x)
        return alone
    total = residual + x
    return norm(total), total
