"""Fakes that raise in some calls of those that they claim: a limit, a layout, a branch that was never run."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch

from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.correct_rotation import CorrectRotation

EVERYWHERE: tuple[str, ...] = ("values", "layout", "claim")


def refuse(why: str) -> NoReturn:
    """Raise as a library does, without a word of what would be taken."""
    raise RuntimeError(why)


class _Refuses(CorrectNorm):
    """A norm that refuses some calls; only its subclasses say which."""

    caught_by: tuple[str, ...] = ()

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Return why a call is refused, or nothing."""
        raise NotImplementedError

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Refuse, or run."""
        why = self.refused(x, weight, residual)
        return refuse(why) if why else super().norm(x, weight, residual, offset, eps)


class WideRowsFail(_Refuses):
    """Above 8,192 columns another kernel is called, with its arguments in the wrong order."""

    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse wide rows."""
        return "incompatible function arguments" if x.shape[-1] > 8192 else ""


class SharedMemoryExceeded(_Refuses):
    """A row of 16,384 columns needs more shared memory than a launch gets without asking for more."""

    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Count the bytes of a row in fp32."""
        return "invalid argument" if 4 * x.shape[-1] > 48 * 1024 else ""


class ScratchMisaligned(_Refuses):
    """Vectors in shared memory begin behind one number a warp: aligned only where warps come in fours."""

    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Count the warps of a row of vectors of eight."""
        warps = math.ceil(x.shape[-1] / 256)
        return "misaligned address" if warps % 4 and x.shape[-1] >= 256 else ""


class OnlyContiguous(_Refuses):
    """Views whose rows are apart are refused, although the kernel has a row stride."""

    caught_by = ("layout", "claim")

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse views."""
        return "" if x.is_contiguous() else "expected a contiguous tensor"


class OnlyAligned(_Refuses):
    """Nothing looks at the address before a kernel that needs multiples of 16 bytes."""

    caught_by = ("layout", "claim")

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse shifted views."""
        return "misaligned tensor data" if x.data_ptr() % 16 else ""


class OnlyMatrices(_Refuses):
    """A tensor of three dimensions reaches a kernel of two."""

    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse other ranks."""
        return "expected a tensor of 2 dimensions" if x.dim() > 2 else ""


class NoWeightFails(_Refuses):
    """The width is checked by the weight, which a norm without one does not have."""

    operations = ("rms_norm",)
    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse a missing weight."""
        return "'NoneType' object has no attribute 'shape'" if weight is None else ""


class MixedDtypesFail(_Refuses):
    """The fused kernel that replaces a plain layer takes one dtype, the layer takes two."""

    caught_by = EVERYWHERE

    def refused(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> str:
        """Refuse a weight of another dtype."""
        mixed = weight is not None and weight.dtype != x.dtype
        return "expected scalar type Float but found Half" if mixed else ""


class OffsetFails(CorrectNorm):
    """The documented offset of one is stopped by an assertion that no test reached."""

    caught_by = EVERYWHERE

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Refuse the option."""
        return refuse("zero-centred gamma is not supported") if offset == 1.0 else super().scale(weight, offset)


class ModuleMissing(CorrectNorm):
    """The fused kernel of Gemma's norm is imported from a module that another change will bring."""

    operations = ("gemma_rms_norm",)
    caught_by = EVERYWHERE

    def gemma_rms_norm(self, *tensors: torch.Tensor, **flags: Any) -> Result:
        """Import it where it is used."""
        raise ModuleNotFoundError("No module named 'fused_gemma_rms_norm'")


class InPlaceBranchFails(CorrectNorm):
    """The in-place branch with a residual was written for another library's signature, and never run."""

    caught_by = ("in_place",)

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Miss two arguments."""
        if residual is not None:
            raise TypeError("missing 2 required positional arguments: 'out' and 'residual_out'")
        return super().overwrite(result, x, residual)


class ThreeAxesFail(CorrectRotation):
    """Rows are gathered by positions of one axis: three axes do not fit the index."""

    caught_by = EVERYWHERE

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Refuse a second dimension."""
        if positions.dim() > 1:
            refuse("index tensor must have the same number of dimensions")
        return super().index(positions, axes)


class ManyTokensFail(CorrectRotation):
    """A fused launch has a hard limit of 80 tokens."""

    caught_by = EVERYWHERE

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Refuse more tokens."""
        return super().index(positions, axes) if positions.shape[-1] <= 80 else refuse("at most 80 tokens")


class NoRowsFail(CorrectNorm):
    """The grid is the number of rows; on an idle rank that is zero, which one driver skips and another refuses."""

    caught_by = ("empty",)

    def empty(self, x: torch.Tensor, residual: torch.Tensor | None) -> Result:
        """Refuse the launch."""
        return refuse("invalid configuration argument")


class NoRowsFailLater(CorrectNorm):
    """The error of a launch without programs is raised by the next call."""

    caught_by = ("empty",)
    pending = False

    def empty(self, x: torch.Tensor, residual: torch.Tensor | None) -> Result:
        """Leave an error behind."""
        self.pending = True
        return super().empty(x, residual)

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> None:
        """Raise the error that was left."""
        pending, self.pending = self.pending, False
        if pending:
            refuse("invalid configuration argument")
        super().check(x, weight, residual)


class NoRowsReshaped(CorrectLayerNorm):
    """Rows are flattened by ``reshape(rows, -1)``, which is ambiguous where there are none."""

    caught_by = ("empty",)

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        """Flatten first."""
        super().check(x, weight, bias)
        x.reshape(math.prod(x.shape[:-1]), -1)


class NoRowsNoScales(CorrectFp8):
    """A launcher of another vendor refuses a grid without programs, also after a call that compiled."""

    operations = ("rms_norm_fp8",)
    caught_by = ("empty",)

    def empty(
        self, x: torch.Tensor, count: int, scale_layout: str, fp8: torch.dtype, *, unquantised: bool
    ) -> tuple[torch.Tensor, ...]:
        """Refuse the launch."""
        return refuse("grid must be positive, got (0, 1, 1)")
