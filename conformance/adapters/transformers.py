"""Hugging Face Transformers: the gated norm of Qwen3-Next, whose order of roundings the contract ``hf`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter, Declined, UsageError
from conformance.oracle.contract import Contract


class Transformers(Adapter):
    """``Qwen3NextRMSNormGated``, with the weight of each call in place of its own."""

    name = "transformers"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "hf"}
    # it is plain PyTorch, which chooses how to sum by the whole shape
    batch_invariant = False

    def __init__(self) -> None:
        try:
            from transformers.models.qwen3_next import modeling_qwen3_next
        except ImportError as error:
            raise UsageError(
                f"transformers: needs Hugging Face's package, pip install transformers: {error}"
            ) from error
        self._norm = modeling_qwen3_next.Qwen3NextRMSNormGated

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
        """Call the module's forward. Declines what the class cannot say."""
        if group_size not in {None, x.shape[-1]}:
            raise Declined("the class has no groups")
        if gate is None:
            raise Declined("the class needs a gate")
        if not norm_before_gate:
            raise Declined("the class gates after the norm")
        if activation == "sigmoid":
            raise Declined("the class gates with silu")
        norm = self._norm(x.shape[-1], eps=eps)
        norm.weight = torch.nn.Parameter(weight, requires_grad=False)
        result: torch.Tensor = norm(x, gate)
        return result.contiguous()
