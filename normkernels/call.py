"""Frozen descriptions of a call and of the machine it is for: all that a decision may look at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from normkernels import fp8, plans


@dataclass(frozen=True, slots=True)
class Gated:
    """What the plans for contiguous gated rows ask of a call."""

    gate: str  # "none", "before" or "after" the norm
    x_contiguous: bool
    gate_contiguous: bool
    out_contiguous: bool


@dataclass(frozen=True, slots=True)
class Heads:
    """What the plan of a rotation asks of a call."""

    q: int
    k: int
    half: int  # of the columns that are rotated
    copied: bool  # those beside them


@dataclass(frozen=True, slots=True)
class Quantised:
    """What rows with fp8 values ask of a call."""

    dtype: str
    crossing: str | None  # the quant groups and the norm groups, where each would cut the other
    span: int  # columns of a row of the kernel; the call's width is their room


@dataclass(frozen=True, slots=True)
class Call:
    """One valid call of a norm, or of a rotation: there the tokens are rows and a head has the columns."""

    operation: str
    dtype: str
    n: int
    width: int  # columns of one group; n where there is one; where quantised, those that a program holds of a row
    rows: int  # groups in all
    leading: int  # leading sizes left after collapsing
    needs_grad: str | None  # the first argument that does
    not_plain: str | None  # the first argument that is not, and what it is
    residual: bool = False  # whether one is added
    gated: Gated | None = None  # of a gated norm only
    heads: Heads | None = None  # of a rotation only
    quantised: Quantised | None = None  # of a norm with fp8 values only


@dataclass(frozen=True, slots=True)
class Device:
    """One machine: where the tensors are and what can run there."""

    kind: str
    has_triton: bool
    interpreting: bool
    table: plans.PlanTable
    fp8: tuple[str, ...] = tuple(map(fp8.name, fp8.TYPES))  # what Triton converts to

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Device:
        """Describe the machine that holds ``tensor``."""
        kind, index = tensor.device.type, tensor.device.index
        described = cls(kind, has_triton(), interpreting(), plan_table(tensor))
        if kind != "cuda" or not described.has_triton or described.interpreting:
            return described
        return replace(described, fp8=compiled_fp8(index))


def plan_table(tensor: torch.Tensor) -> plans.PlanTable:
    """Return what plans are made by where ``tensor`` is."""
    if torch.version.hip is None or tensor.device.type != "cuda":
        return plans.TABLE
    return _waves(plans.TABLE, tensor.device.index)


@cache
def _waves(table: plans.PlanTable, index: int) -> plans.PlanTable:
    # 64 threads on CDNA, 32 on RDNA
    return replace(table, warp=torch.cuda.get_device_properties(index).warp_size, ptx=False)


@cache
def has_triton() -> bool:
    """Whether triton can be imported; asked at the first call, for the package imports without."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def interpreting() -> bool:
    """Whether triton runs kernels on the CPU."""
    if not has_triton():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def compiled_fp8(index: int) -> tuple[str, ...]:
    """Return the fp8 types that Triton converts to on a GPU."""
    from triton.runtime import driver

    with torch.cuda.device(index):
        return conversions(driver.active.get_current_target())


# Any: triton has no types
def conversions(target: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the fp8 types that Triton converts to on a kind of GPU, as it says itself."""
    from triton.compiler import make_backend

    # said, because Triton 3.9 warns where it is not
    options = make_backend(target).parse_options({"enable_fp_fusion": False})
    return tuple(fp8.name(dtype) for dtype, known in fp8.TYPES.items() if known in options.supported_fp8_dtypes)
