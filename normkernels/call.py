"""Frozen descriptions of a call and of the machine that runs it: all that a decision may depend on."""

from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Self

import torch

from normkernels import plans

# The fp8 types of results, each with Triton's name for it. torch.finfo has their largest numbers: 448 and 240.
FP8: dict[torch.dtype, str] = {torch.float8_e4m3fn: "fp8e4nv", torch.float8_e4m3fnuz: "fp8e4b8"}


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without torch's."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Gated:
    """Properties of a gated norm that the plans for contiguous rows depend on."""

    gate: str  # "none", "before" or "after" the norm
    x_contiguous: bool
    gate_contiguous: bool
    out_contiguous: bool


@dataclass(frozen=True, slots=True)
class Heads:
    """Properties of a rotation that its plan depends on."""

    q: int
    k: int
    half: int  # half of the rotated columns
    copied: bool  # whether there are other columns, which are copied


@dataclass(frozen=True, slots=True)
class Quantised:
    """Properties of a norm with fp8 values."""

    dtype: str
    crossing: str | None  # sizes of the quant and norm groups, if they cross
    span: int  # columns of a kernel row; ``Call.width`` is ``span`` with each block padded to a power of two
    wide: bool = False  # whether some input is fp32


@dataclass(frozen=True, slots=True)
class Call:
    """A valid call of a norm, or of a rotation, whose rows are tokens and whose width is that of a head."""

    operation: str
    dtype: str
    n: int
    width: int  # columns of a kernel row: of one group, or n without groups
    rows: int  # kernel rows: groups in all
    leading: int  # leading sizes that are left after collapsing
    needs_grad: str | None  # the first argument that needs a gradient
    not_plain: str | None  # the first argument that is not a plain tensor, with its kind
    residual: bool = False  # whether a residual is added
    gated: Gated | None = None  # of a gated norm only
    heads: Heads | None = None  # of a rotation only
    quantised: Quantised | None = None  # of a norm with fp8 values only


@dataclass(frozen=True, slots=True)
class Device:
    """A machine: the device of the tensors, and the properties of it that decisions depend on."""

    kind: str
    has_triton: bool
    interpreting: bool
    table: plans.PlanTable
    fp8: tuple[str, ...] = tuple(map(dtype_name, FP8))  # fp8 types that Triton converts to

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self:
        """Describe the machine that holds ``tensor``."""
        kind, index = tensor.device.type, tensor.device.index
        if interpreting():
            return cls(kind, has_triton=True, interpreting=True, table=plans.INTERPRETED)
        described = cls(kind, has_triton(), interpreting=False, table=plans.MEASURED)
        if kind != "cuda" or not described.has_triton:
            return described
        if torch.version.hip is not None:
            # 64 threads on CDNA, 32 on RDNA
            warp = torch.cuda.get_device_properties(index).warp_size
            described = replace(described, table=replace(plans.MEASURED, warp=warp, ptx=False))
        return replace(described, fp8=_compiled_fp8(index))


@cache
def has_triton() -> bool:
    """Return whether triton can be imported; tested at the first call, because the package imports without it."""
    return find_spec("triton") is not None


@cache
def interpreting() -> bool:
    """Return whether triton runs kernels on the CPU."""
    if not has_triton():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def _compiled_fp8(index: int) -> tuple[str, ...]:
    """Return the fp8 types that Triton converts to on a GPU."""
    from triton.runtime import driver

    with torch.cuda.device(index):
        return conversions(driver.active.get_current_target())


# Any: triton has no types
def conversions(target: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the fp8 types that Triton says it converts to on a kind of GPU."""
    from triton.compiler import make_backend

    # given explicitly, because Triton 3.9 warns without it
    options = make_backend(target).parse_options({"enable_fp_fusion": False})
    return tuple(dtype_name(dtype) for dtype, name in FP8.items() if name in options.supported_fp8_dtypes)
