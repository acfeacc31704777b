"""Unsloth: norms of Llama and Gemma, LayerNorm, SwiGLU, GEGLU, norm and rotation of heads in one kernel."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

COLUMNS = range(1, 65537)
NORM = {"columns": COLUMNS, "residual": ("none",)}
CONTIGUOUS = ("contiguous", "offset")
# these kernels walk through both tensors as if they were one row, which their callers' products are
HALVES = {"up": "same", "rank": "3", "gate_layout": CONTIGUOUS, "up_layout": CONTIGUOUS}
# numbers of a head next to each other
HEADS = (*CONTIGUOUS, "row_gap", "swapped", "expanded", "slice")


class Unsloth(Adapter):
    """``Fast_RMS_Layernorm`` and ``Fast_Layernorm``, forwards, and the kernels of SwiGLU and GEGLU."""

    name = "unsloth"
    package = "unsloth"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": "hf",
        "gemma_rms_norm": "fp32",
        "layer_norm": "fp32",
        "silu_and_mul": "eager",
        "gelu_and_mul": "eager",
        # rounded where its norm and its rotation round; angles keep their dtype
        "qk_norm_rope": Contract(frozenset({"normalised", "normed", "turned"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # the kernel rounds to the weight's dtype where Hugging Face rounds to x's
        "rms_norm": {**NORM, "offset": ("zero",), "weight": ("same",)},
        "gemma_rms_norm": NORM,
        "layer_norm": {"columns": COLUMNS, "weight": ("same", "float32")},
        "silu_and_mul": HALVES,
        "gelu_and_mul": HALVES,
        # other heads go to two kernels; this one rounds to the weight's dtype where the contract rounds to q's
        "qk_norm_rope": {
            "dims": "whole",
            "dtypes": ("same", "cos_float32"),
            "head_dim": tuple(2**power for power in range(4, 11)),
            "k_layout": HEADS,
            "offset": "zero",
            "pairs": "halves",
            "q_layout": HEADS,
        },
    }
    launches = takes
    # the products of the rotation are in the dtype of q and the angles: compilers fuse them with the sum
    fuses: bool | Mapping[str, bool] = {"qk_norm_rope": True}
    # eps is compiled in
    few_variants: bool | Mapping[str, bool] = {"rms_norm": False, "gemma_rms_norm": False, "layer_norm": False}

    def __init__(self) -> None:
        # the package refuses to be imported without a GPU, and writes files where it is
        os.environ.setdefault("UNSLOTH_ALLOW_CPU", "1")
        os.environ.setdefault(
            "UNSLOTH_COMPILE_LOCATION", str(Path(tempfile.gettempdir()) / "unsloth_compiled_cache")
        )
        needed("unsloth", "unsloth_zoo.utils", "unsloth", alone=True)
        # some modules take the kind of device from the package's __init__, which did not run
        kind = needed("unsloth", "unsloth_zoo.device_type", "unsloth", alone=True).DEVICE_TYPE
        vars(sys.modules["unsloth_zoo"]).setdefault("DEVICE_TYPE", kind)
        self._norm = _kernels("rms_layernorm").Fast_RMS_Layernorm.apply
        self._layer_norm = _kernels("layernorm").Fast_Layernorm.apply
        self._silu_and_mul = _kernels("swiglu").swiglu_fg_kernel
        geglu = _kernels("geglu")
        self._qk_norm_rope = _kernels("qk_norm_rope").Fast_QK_Norm_RoPE.apply
        self._gelu_and_mul = {"none": geglu.geglu_exact_forward_kernel, "tanh": geglu.geglu_approx_forward_kernel}

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor:
        """Call ``Fast_RMS_Layernorm``."""
        y: torch.Tensor = self._norm(x, weight, eps)
        return y

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        """Call ``Fast_RMS_Layernorm`` with one added to the weight."""
        y: torch.Tensor = self._norm(x, weight, eps, True)  # noqa: FBT003 - a function of autograd takes no names
        return y

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``Fast_Layernorm``."""
        y: torch.Tensor = self._layer_norm(x, weight, bias, eps)
        return y

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call ``swiglu_fg_kernel``."""
        y: torch.Tensor = self._silu_and_mul(gate, up)
        return y

    def gelu_and_mul(self, gate: torch.Tensor, up: torch.Tensor, *, approximate: str) -> torch.Tensor:
        """Call ``geglu_exact_forward_kernel`` or ``geglu_approx_forward_kernel``."""
        y: torch.Tensor = self._gelu_and_mul[approximate](gate, up)
        return y

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
        """Call ``Fast_QK_Norm_RoPE`` with contiguous weights, positions in int32, and angles for whole heads."""
        if q.stride(-1) != 1 or k.stride(-1) != 1:
            raise Declined("fast_qk_norm_rope does not give such heads to this kernel")
        size = head_dim or q.shape[-1]
        heads = (x.reshape(1, len(x), math.prod(x.shape[1:]) // size, size) for x in (q, k))
        weights, tables = (
            (weight.contiguous() for weight in (q_weight, k_weight)),
            (cos.repeat(1, 2), sin.repeat(1, 2)),
        )
        given = positions is not None
        index = positions.int().contiguous() if positions is not None else cos.new_empty(1, dtype=torch.int32)
        turned = self._qk_norm_rope(*heads, *weights, *tables, index, eps, eps, given)
        return tuple(y.reshape(x.shape) for x, y in zip((q, k), turned, strict=True))


def _kernels(module: str) -> Any:  # noqa: ANN401 - of a package without types
    return needed("unsloth", f"unsloth.kernels.{module}", "unsloth", alone=True)
