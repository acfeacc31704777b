"""The gated norm of vLLM and SGLang in our own code: a tile of at most four rows, one warp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.oracle.contract import Contract

# rows a tile follow the number of multiprocessors; without a GPU, a number that gives several rows a tile
UNITS_OF_A_CPU = 2


class MultiRow(Adapter):
    """The gate is loaded after the reduction; the reciprocal of each row's norm is stored as well."""

    name = "multi-row"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}
    # a tile of one row sums in another order than tiles of several rows
    batch_invariant = False

    def __init__(self) -> None:
        # imports Triton, which must come after the choice of a device
        from conformance.adapters.kernels import multi_row

        self._kernels = multi_row
        cuda = torch.cuda.is_available()
        self.units = torch.cuda.get_device_properties(0).multi_processor_count if cuda else UNITS_OF_A_CPU

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the row counts from which a tile has another row."""
        return (2 * self.units, 4 * self.units)

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
        """Flatten the leading dimensions, call the kernel."""
        n = x.shape[-1]
        if gate is None or not x.numel():
            raise Declined("it gates")
        if any(tensor.stride(-1) != 1 for tensor in (x, gate, weight)):
            raise Declined("it takes last strides of one")
        out = self._kernels.gated(
            x.reshape(-1, n),
            gate.reshape(-1, n),
            weight,
            eps=eps,
            group_size=group_size or n,
            norm_before_gate=norm_before_gate,
            silu=activation != "sigmoid",
            units=self.units,
        )
        return out.view(x.shape)
