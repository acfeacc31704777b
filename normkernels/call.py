"""Frozen descriptions of a call and of the machine it is for: all that a decision may look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from normkernels.kernels import plans

if TYPE_CHECKING:
    import torch


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


@dataclass(frozen=True, slots=True)
class Call:
    """One valid call of a norm, or of a rotation: there the tokens are rows and a head has the columns."""

    operation: str
    dtype: str
    n: int
    width: int  # columns of one group; n where there is one
    rows: int  # groups in all
    leading: int  # leading sizes left after collapsing
    needs_grad: str | None  # the first argument that does
    not_plain: str | None  # the first argument that is not, and what it is
    gated: Gated | None = None  # of a gated norm only
    heads: Heads | None = None  # of a rotation only


@dataclass(frozen=True, slots=True)
class Device:
    """One machine: where the tensors are and what can run there."""

    kind: str
    has_triton: bool
    interpreting: bool
    table: plans.PlanTable

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Device:
        """Describe the machine that holds ``tensor``."""
        return cls(tensor.device.type, has_triton(), interpreting(), plans.TABLE)


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
