"""The native PyTorch path of ``normkernels``, with which every other path is compared."""

from __future__ import annotations

from conformance.adapters.normkernels import NormKernels


class Native(NormKernels):
    """``normkernels`` with ``path="native"``."""

    name = "native"
    # PyTorch chooses how to sum by the whole shape
    batch_invariant = False
    reference = None
    forced = "native"

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return nothing: no plans."""
        return ()

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return nothing: no plans."""
        return ()
