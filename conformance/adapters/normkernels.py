"""The package of this repository."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

import normkernels
from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from normkernels import plans
from normkernels.call import Device, interpreting

Results = torch.Tensor | tuple[torch.Tensor, ...]
Flag = Any  # flags are of several types, each checked by the package


# The kinds of norm in the plan tables, by operation.
KINDS = {
    "rms_norm": ("norm", "residual"),
    "gemma_rms_norm": ("norm", "residual"),
    "rms_norm_gated": ("gated", "gated 128"),
    "rms_norm_fp8": ("fp8", "fp8 residual"),
    "rms_norm_gated_fp8": ("gated fp8",),
}


def launched(device: Device) -> dict[str, dict[str, object]]:
    """Return the calls that run in a kernel on a device, as a claim; plain PyTorch takes the others."""
    if not device.has_triton:
        return {}
    rows: dict[str, object] = {"columns": range(1, plans.MAX_WIDTH + 1)}
    claims: dict[str, dict[str, object]] = {
        "rms_norm": rows,
        "gemma_rms_norm": rows,
        # groups are one size more, which four sizes in any order of memory may not leave room for
        "rms_norm_gated": {**rows, "apart": {"rank": "4", "group": "several"}},
        "mrope": {"head_dim": range(1, plans.MAX_HEAD_DIM + 1)},
    }
    if device.fp8:
        # groups of scales are padded to powers of two, up to twice as many columns
        fp8: dict[str, object] = {"columns": range(1, plans.MAX_WIDTH // 2 + 1), "fp8": device.fp8}
        claims["rms_norm_fp8"] = fp8
        # of several groups, a group of scales may cross the end
        claims["rms_norm_gated_fp8"] = {**fp8, "group": ("none", "whole")}
    return claims


class NormKernels(Adapter):
    """``normkernels`` as its dispatcher runs it, in fp32; the sum with a residual and the store round."""

    name = "normkernels"
    package = "normkernels"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(rounds=frozenset({"sum"}), depth="tile"),
        "gemma_rms_norm": Contract(rounds=frozenset({"sum"}), depth="tile"),
        "rms_norm_gated": Contract(rounds=frozenset(), depth="tile"),
        "mrope": "fp32",
        # the norm is rounded to x's dtype before it is quantised
        "rms_norm_fp8": Contract(rounds=frozenset({"sum", "unquantised"}), depth="tile"),
        "rms_norm_gated_fp8": Contract(rounds=frozenset({"unquantised"}), depth="tile"),
    }
    # every call that the operations describe
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in contracts}
    strides = "contiguous"
    zero_columns = True
    strided_outputs = True
    validates = True
    differentiable = True
    compiles: bool | Mapping[str, bool] = True
    graphs = True
    reference: str | None = "native"
    forced: str | None = None  # the path asked for; None leaves the choice to the dispatcher

    def __init__(self) -> None:
        self._table = plans.INTERPRETED if interpreting() else plans.MEASURED

    @functools.cached_property
    def launches(self) -> Mapping[str, Mapping[str, object]]:  # type: ignore[override]  # made when it is asked for
        """Return the calls that run in a kernel here; which fp8 types a GPU has is asked once it is in use."""
        if self.forced is not None or not (interpreting() or torch.cuda.is_available()):
            return {}
        return launched(Device.of(torch.empty(0, device="cpu" if interpreting() else "cuda")))

    # arguments are passed on unchanged

    def rms_norm(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.rms_norm(*given, path=self.forced, **flags)  # type: ignore[arg-type]

    def rms_norm_(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation with its outputs over x and the residual."""
        over = {"out": x, "residual_out": flags["residual"]}
        return normkernels.rms_norm(x, weight, path=self.forced, **flags, **over)

    def rms_norm_out(self, *given: torch.Tensor | None, out: tuple[torch.Tensor, ...], **flags: Flag) -> Results:
        """Call the operation with outputs of the caller."""
        return self.rms_norm(*given, **flags, **dict(zip(("out", "residual_out"), out, strict=False)))

    def gemma_rms_norm(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.gemma_rms_norm(*given, path=self.forced, **flags)

    def gemma_rms_norm_(self, x: torch.Tensor, weight: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation with its outputs over x and the residual."""
        over = {"out": x, "residual_out": flags["residual"]}
        return normkernels.gemma_rms_norm(x, weight, path=self.forced, **flags, **over)

    def gemma_rms_norm_out(self, *given: torch.Tensor, out: tuple[torch.Tensor, ...], **flags: Flag) -> Results:
        """Call the operation with outputs of the caller."""
        return self.gemma_rms_norm(*given, **flags, **dict(zip(("out", "residual_out"), out, strict=False)))

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.rms_norm_gated(*given, path=self.forced, **flags)

    def rms_norm_gated_(self, x: torch.Tensor, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation with its output over x."""
        return normkernels.rms_norm_gated(x, *given, path=self.forced, out=x, **flags)

    def rms_norm_gated_out(self, *given: torch.Tensor, out: tuple[torch.Tensor, ...], **flags: Flag) -> Results:
        """Call the operation with an output of the caller."""
        return self.rms_norm_gated(*given, out=out[0], **flags)

    def mrope(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.mrope(*given, path=self.forced, **flags)

    def mrope_(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation in place."""
        return normkernels.mrope_(*given, path=self.forced, **flags)

    def rms_norm_fp8(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.rms_norm_fp8(*given, path=self.forced, **flags)  # type: ignore[arg-type]

    def rms_norm_fp8_(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the operation with its sum over the residual."""
        over = {"residual_out": flags["residual"]}
        return normkernels.rms_norm_fp8(x, weight, path=self.forced, **flags, **over)

    def rms_norm_gated_fp8(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the operation."""
        return normkernels.rms_norm_gated_fp8(*given, path=self.forced, **flags)

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Return the path that ``explain`` decides: ``rows/decode128`` and the like, or ``native``."""
        return normkernels.explain(operation, path=self.forced, **arguments).name

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the row counts of the plan table in use."""
        if operation == "mrope":
            return plans.token_thresholds(self._table)
        each = (plans.row_thresholds(kind, self._table) for kind in KINDS[operation])
        return tuple(sorted({rows for rows_of_kind in each for rows in rows_of_kind}))

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the width of the plans for narrow rows, and the widest row or head of one block."""
        if operation == "mrope":
            return (plans.MAX_HEAD_DIM,)
        return (plans.NARROW, plans.MAX_WIDTH) if operation == "rms_norm_gated" else (plans.MAX_WIDTH,)
