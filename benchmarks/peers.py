"""Implementations that ours is timed against: known adapters of the suite, which judges each before its timing."""

from __future__ import annotations

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from conformance.adapters.quack import Quack

OURS = "normkernels"
# by the name shown in tables, in the order of the columns
PEERS = {
    "eager": "eager",
    "F.rms_norm": "torch",
    "compile": "compile-static",
    "compile autotuned": "compile-autotuned",
    "two steps": "two-steps",
    "original": "original",
    "multi-row": "multi-row",
    "liger": "liger",
    "fla fused": "fla",
    "fla layernorm": "fla-layernorm-gated",
    "quack": "benchmarks.peers:LoadedQuack",
    "flashinfer": "flashinfer",
}
# peers that search for seconds a shape: timed only in workloads that ask for them
SLOW_TO_BUILD = frozenset({"compile autotuned"})
# peers that choose by measuring, and may choose differently in another process
SEARCHING = frozenset({"compile", "compile autotuned", "fla fused", "fla layernorm"})


class LoadedQuack(Quack):
    """quack with Gemma's one added to a weight once, as a model does when it loads.

    A weight that is written through another tensor keeps its old sum, so that this is for timing alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._added = WeakTensorKeyDictionary()

    def added(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight and one, added when the weight is seen for the first time."""
        if weight not in self._added:
            self._added[weight] = super().added(weight)
        found: torch.Tensor = self._added[weight]
        return found
