"""Liger-Kernel: norms of Llama and Gemma, LayerNorm, SwiGLU, GEGLU, softmax, rotations of Qwen2-VL and Llama."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.adapters.importing import needed
from conformance.oracle.contract import NAMED, Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
COLUMNS = range(1, 65537)
NORM = {"columns": COLUMNS, "residual": ("same", "none")}


class Liger(Adapter):
    """Liger's functions for training, forwards, in the casting modes of the models."""

    name = "liger"
    package = "liger-kernel"
    # the docstring of its norms says that they write over the gradient of y, unless they are told not to
    differentiable: bool | Mapping[str, bool] = dict.fromkeys(
        ("mrope", "layer_norm", "silu_and_mul", "gelu_and_mul", "rope", "softmax"), True
    )
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(NAMED["hf"] | {"sum"}),
        "gemma_rms_norm": Contract(frozenset({"sum"})),
        "mrope": "low",
        "layer_norm": "fp32",
        "silu_and_mul": "eager",
        "gelu_and_mul": "eager",
        "rope": "low",
        # the maximum of a row is float32, and so is everything after it
        "softmax": "fp32",
    }
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # without a weight Liger's norm has no offset, and adds no residual
        "rms_norm": {
            **NORM,
            "apart": (
                {"weight": "none", "offset": ("one", "minus_a_tenth")},
                {"weight": "none", "residual": ("same", "other")},
            ),
        },
        "gemma_rms_norm": {**NORM, "weight": ("same", "float32")},
        # on three axes Liger turns whole heads, section after section
        "mrope": {
            "apart": (
                {"positions": "axes", "order": "interleaved"},
                {"positions": "axes", "dims": ("quarter", "part", "odd")},
            ),
        },
        "layer_norm": {"columns": COLUMNS, "weight": ("same", "float32"), "bias": ("same", "float32")},
        # silu is rounded to the dtype of up, and so is the product
        "silu_and_mul": {"columns": COLUMNS, "up": "same"},
        "gelu_and_mul": {"columns": COLUMNS, "up": "same", "approximate": "tanh"},
        # LigerSoftmaxFunction takes scores alone
        "softmax": {"columns": COLUMNS, "mask": "none", "scale": "none"},
        "rope": {"pairs": "halves"},
    }
    launches = takes
    # products are in the dtype of the angles: compilers fuse them with the sum
    fuses: bool | Mapping[str, bool] = {"mrope": True, "rope": True}
    # rows of up to 256 columns come sixteen to a program from 32,768 rows on, which is another order
    batch_invariant: bool | Mapping[str, bool] = {"rms_norm": False, "gemma_rms_norm": False}

    def __init__(self) -> None:
        ops = needed("liger", "liger_kernel.ops", "liger-kernel")
        self._alone = ops.LigerRMSNormFunction.apply
        self._added = ops.LigerFusedAddRMSNormFunction.apply
        self._sectioned = ops.LigerQwen2VLMRopeFunction.apply
        self._rotated = ops.LigerRopeFunction.apply
        self._layer_norm = ops.LigerLayerNormFunction.apply
        self._silu_and_mul = ops.LigerSiLUMulFunction.apply
        self._gelu_and_mul = ops.LigerGELUMulFunction.apply
        self._softmax = ops.LigerSoftmaxFunction.apply

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the number of rows at which narrow rows change their kernel."""
        return (32768,) if operation in {"rms_norm", "gemma_rms_norm"} else ()

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call either function, with roundings as in Llama."""
        return self._norm(x, weight, residual, eps, weight_offset, "llama")

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        """Call either function, with roundings as in Gemma and one added to the weight."""
        return self._norm(x, weight, residual, eps, 1.0, "gemma")

    def _norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        eps: float,
        offset: float,
        casting: str,
    ) -> Norm:
        if residual is None:
            alone: torch.Tensor = self._alone(x, weight, eps, offset, casting)
            return alone
        y, total = self._added(x, residual, weight, eps, offset, casting)
        return y, total

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Call the function."""
        y: torch.Tensor = self._layer_norm(x, weight, bias, eps)
        return y

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call the function, which scales neither gate nor product by default."""
        y: torch.Tensor = self._silu_and_mul(gate, up)
        return y

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Call the function, which has the approximation alone."""
        y: torch.Tensor = self._gelu_and_mul(gate, up)
        return y

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Call the function."""
        y: torch.Tensor = self._softmax(x)
        return y

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
        """Call the rotation on three axes, or that of text; angles are gathered as models do for all layers."""
        dim = head_dim or q.shape[-1]
        if positions.dim() == 1:
            return self._text(q, k, (cos[positions.long()], sin[positions.long()]), dim)
        heads = _heads(q, k, dim)
        # the first of two equal halves is read
        angles = (table[positions.long()].repeat(1, 1, 2)[:, None] for table in (cos, sin))
        return _rows(self._sectioned(*heads, *angles, list(sections)), q, k)

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
        """Call the rotation of text; angles are gathered as models do for all layers."""
        angles = (cos, sin) if positions is None else (cos[positions.long()], sin[positions.long()])
        return self._text(q, k, angles, head_dim or q.shape[-1])

    def _text(
        self, q: torch.Tensor, k: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor], dim: int
    ) -> tuple[torch.Tensor, ...]:
        # the first of two equal halves is read
        tables = (angle.repeat(1, 2) for angle in angles)
        turned = self._rotated(*_heads(q, k, dim), *tables, None, 1, 2 * angles[0].shape[1])
        return _rows(turned, q, k)


def _heads(q: torch.Tensor, k: torch.Tensor, dim: int) -> list[torch.Tensor]:
    """Return copies of both, heads before tokens: Liger turns contiguous arguments in place."""
    if not (q.shape[1] and k.shape[1]):
        raise Declined("it has heads")
    return [x.clone().view(1, len(x), math.prod(x.shape[1:]) // dim, dim).transpose(1, 2) for x in (q, k)]


def _rows(turned: tuple[torch.Tensor, ...], q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return turned heads in the shapes of q and k."""
    return tuple(y.transpose(1, 2).reshape(x.shape) for x, y in zip((q, k), turned, strict=True))
