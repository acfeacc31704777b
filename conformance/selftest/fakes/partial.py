"""Right and wrong implementations that take only some calls, as real kernels do, and claim nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Declined
from conformance.selftest.fakes.correct import Correct


class Everything(Correct):
    """An implementation that takes every call, and claims nothing."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Refuse calls that are not taken."""
        if not self.accepts(x, gate, weight, **flags):
            raise Declined("not this one")
        return super().rms_norm_gated(x, gate, weight, **flags)

    def accepts(self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any) -> bool:
        """Return whether a call is taken."""
        return True


class Half(Everything):
    """An implementation that takes two ranks of four."""

    def accepts(self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any) -> bool:
        """Return whether a call has two or three dimensions."""
        return x.dim() in {2, 3}


class OneInFifty(Everything):
    """An implementation that takes one drawn call in more than fifty: four factors and a width must agree."""

    def accepts(self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any) -> bool:
        """Return whether a call has three dimensions, 128 columns, a weight like x, and silu after the norm."""
        flagged = flags["norm_before_gate"] and flags["activation"] != "sigmoid"
        return x.dim() == 3 and x.shape[-1] == 128 and weight.dtype == x.dtype and flagged


class Pairs(Everything):
    """An implementation that takes every level of every factor, but not sigmoid before the norm."""

    def accepts(self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any) -> bool:
        """Return whether silu is used, or the gate comes after the norm."""
        return bool(flags["norm_before_gate"]) or flags["activation"] != "sigmoid"
