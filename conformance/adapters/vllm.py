"""vLLM: Triton kernels of Qwen3.5 (gated norm, rotation, norm and rotation of heads), and Mamba-2's norm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

COLUMNS = range(1, 16385)  # 64 KiB of float32
DENSE = ("contiguous", "offset")
# the columns of a row are next to each other
ROWS = (*DENSE, "row_gap", "shared", "swapped")
# tokens have a stride of their own, heads are next to each other
TOKENS = (*DENSE, "row_gap", "slice")
ROTATIONS = "vllm.model_executor.layers.rotary_embedding"
MULTIPROCESSORS = 1  # of a machine without a GPU, so that few rows are enough for every number of rows a program


class Vllm(Adapter):
    """``layer_norm_fwd`` of ``layernorm_guard``, ``triton_mrope`` and ``fused_qk_rmsnorm_rope_gate``."""

    name = "vllm"
    package = "vllm"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm_gated": "fp32",
        # angles have the dtype of q and k, and so have the products
        "mrope": "low",
        # what is rotated is what would have been stored between the two
        "qk_norm_rope": Contract(frozenset({"normed"})),
    }
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm_gated": {"group_size": COLUMNS, "x_layout": ROWS, "gate_layout": ROWS},
        # positions of text go to another function, which is no Triton kernel
        "mrope": {
            "dtypes": "same",
            "positions": "axes",
            "rank": "2",
            "q_layout": TOKENS,
            "k_layout": TOKENS,
        },
        "qk_norm_rope": {
            "dtype": ("bfloat16", "float16"),
            "pairs": "halves",
            "positions": ("int64", "int32"),
            "rank": "2",
            "k_layout": TOKENS,
            "q_weight_layout": DENSE,
            "k_weight_layout": DENSE,
        },
    }
    launches = takes
    fuses: bool | Mapping[str, bool] = {"mrope": True, "qk_norm_rope": True}
    # eps is compiled in
    specialises: tuple[str, ...] | Mapping[str, tuple[str, ...]] = {"qk_norm_rope": ("eps",)}

    def __init__(self) -> None:
        _prepare()
        guard = _kernels("vllm.third_party.flash_linear_attention.ops.layernorm_guard")
        if not torch.cuda.is_available():
            # asked for how many rows a program takes, and no machine without a GPU has an answer
            guard.num_compute_units = lambda _: MULTIPROCESSORS
        self._gated = guard.layer_norm_fwd
        self._multiprocessors = guard.num_compute_units
        _leave_out(f"{ROTATIONS}.base", f"{ROTATIONS}.yarn_scaling_rope")
        self._mrope = _kernels(f"{ROTATIONS}.mrope").triton_mrope
        self._qk_norm_rope = _kernels("vllm.model_executor.layers.fused_qk_norm_rope").fused_qk_rmsnorm_rope_gate

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the numbers of rows past which a program of the gated norm takes two, and four."""
        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
        waves = 2 * self._multiprocessors(device)
        return (waves, 2 * waves) if operation == "rms_norm_gated" else ()

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
        """Call ``layer_norm_fwd`` on rows, as the layer of Qwen3.5 does."""
        rows, gates = (None if each is None else each.reshape(-1, each.shape[-1]) for each in (x, gate))
        y: torch.Tensor = self._gated(
            rows,
            weight.contiguous(),
            None,
            eps,
            z=gates,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            is_rms_norm=True,
            activation=activation,
        )[0]
        return y.view(x.shape)

    def mrope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        *given: torch.Tensor,
        **named: Any,  # noqa: ANN401 - of the method below
    ) -> tuple[torch.Tensor, ...]:
        """Call ``triton_mrope`` on copies."""
        return self.mrope_(q.clone(), k.clone(), *given, **named)

    def mrope_(
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
        """Call ``triton_mrope``, which is in place, with the angles of all tokens, as the layer does.

        vLLM runs without autograd, which is told here that q and k were written.
        """
        angles = (table[positions.long()] for table in (cos, sin))
        turned: tuple[torch.Tensor, ...] = self._mrope(
            q,
            k,
            *angles,
            list(sections),
            head_size=head_dim or q.shape[-1],
            rotary_dim=2 * cos.shape[-1],
            mrope_interleaved=interleaved,
            is_neox_style=True,
        )
        torch.autograd.graph.increment_version((q, k))
        return turned

    def qk_norm_rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        eps: float,
        weight_offset: float,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, ...]:
        """Call ``fused_qk_rmsnorm_rope_gate`` with q as the gate of every head, and one table of both angles."""
        size = head_dim or q.shape[-1]
        heads, keys = torch.unflatten(q.flatten(1), -1, (-1, size)), k.flatten(1)
        turned: tuple[torch.Tensor, ...] = self._qk_norm_rope(
            torch.cat((heads, heads), -1).flatten(1),
            keys,
            q_weight,
            k_weight,
            torch.cat((cos, sin), -1),
            positions,
            eps,
            heads.shape[1],
            keys.shape[1] // size,
            size,
            2 * cos.shape[-1],
            norm_beta=weight_offset,
        )
        return turned[0].view(q.shape), turned[1].view(k.shape)


class VllmMamba(Adapter):
    """``rms_norm_gated`` of Mamba-2's ``layernorm_gated``: a program a group of a row."""

    name = "vllm mamba"
    package = "vllm"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm_gated": {"activation": ("silu", "swish"), "group_size": COLUMNS}
    }
    launches = takes

    def __init__(self) -> None:
        _prepare()
        self._norm = _kernels("vllm.model_executor.layers.mamba.ops.layernorm_gated").rms_norm_gated

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
        """Call ``rms_norm_gated``."""
        y: torch.Tensor = self._norm(
            x, weight, None, z=gate, eps=eps, group_size=group_size, norm_before_gate=norm_before_gate
        )
        return y


def _prepare() -> None:
    """Have vLLM take Triton where there is no GPU: it does so where none is visible."""
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # its messages are not about kernels
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")


def _kernels(module: str) -> Any:  # noqa: ANN401 - of a package with other types
    return needed("vllm", module, "vllm", alone=True)


def _leave_out(*modules: str) -> None:
    """Have modules import nothing from these, which start the whole engine, and of which no kernel needs any."""
    for name in modules:
        if name not in sys.modules:
            sys.modules[name] = _Empty(name)


class _Empty(ModuleType):
    """A module that has every name, none of them of use."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object
