"""A right implementation in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract

ACTIVATIONS = ("silu", "swish", "sigmoid")


class Correct(Adapter):
    """Gated RMSNorm in fp32, rounded once at the store."""

    name = "correct"
    operations: ClassVar[tuple[str, ...]] = ("rms_norm_gated",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in operations}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": Contract(depth="tile")}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

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
        """Check the call, then take the steps in order."""
        self.check(x, gate, weight, group_size, activation)
        if x.numel() == 0:
            return self.empty(x)
        group = group_size or x.shape[-1]
        act = None if gate is None else self.activate(gate, activation, x)
        stream = self.load(x)
        if act is not None and not norm_before_gate:
            stream = self.gated(stream, act)
        y = self.weigh(self.normalise(stream, group, eps, x), weight, group)
        if act is not None and norm_before_gate:
            y = self.gated(y, act)
        return self.store(y, x)

    def rms_norm_gated_(
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
        """Take the same steps, then write over x."""
        y = self.rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
        )
        return self.overwrite(y, x, gate)

    def overwrite(self, y: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Write the result over x, and return x."""
        return x.copy_(y)

    def check(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        group_size: int | None,
        activation: str,
    ) -> None:
        """Refuse an invalid call."""
        tensors = [tensor for tensor in (x, gate, weight) if tensor is not None]
        valid = (
            x.dim() > 0
            and all(tensor.is_floating_point() for tensor in tensors)
            and (gate is None or gate.shape == x.shape)
            and weight.shape == x.shape[-1:]
            and (group_size is None or (group_size > 0 and x.shape[-1] % group_size == 0))
            and activation in ACTIVATIONS
        )
        if not valid:
            raise ValueError("rms_norm_gated: the call has no meaning")

    def empty(self, x: torch.Tensor) -> torch.Tensor:
        """Return the result of a call without elements."""
        return x.new_empty(x.shape)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Return x in fp32."""
        return x.float()

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Return the activated gate in fp32."""
        z = gate.float()
        return torch.sigmoid(z) if activation == "sigmoid" else F.silu(z)

    def gated(self, stream: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        """Apply the activated gate."""
        return stream * act

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Divide each group of columns by its root mean square."""
        grouped = stream.reshape(*stream.shape[:-1], -1, group)
        return (grouped * self.inverse_rms(grouped, eps)).reshape(stream.shape)

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / sqrt(mean + eps)`` of each group."""
        return torch.rsqrt(self.mean_square(grouped) + eps)

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squares of each group."""
        return grouped.pow(2).mean(-1, keepdim=True)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply each column by its weight."""
        return y * weight.float()

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor of x's dtype."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return out.copy_(y)
