"""Fakes that claim few calls, as most kernels take: a mistake inside of the claim, or just past its edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Declined
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.correct_rotation import CorrectRotation, Halves
from conformance.selftest.fakes.fp8_scales import ScaleStoredPastTheEnd
from conformance.selftest.fakes.kernels_layers import KernelLayerMaskedLanes
from conformance.selftest.fakes.kernels_rows import PairStoresOfOddRows
from conformance.selftest.fakes.memory_views import reread
from conformance.selftest.fakes.rotations import FirstHeadAlone
from conformance.selftest.fakes.semantics import GateBroadcasts

ALL: tuple[str, ...] = ("values", "layout", "specials")
Claims = Mapping[str, Mapping[str, object]]


class GateOfHeadsUnchecked(GateBroadcasts):
    """Heads of 128 columns alone, of which the gate is checked for contiguity, and not for its shape."""

    takes: ClassVar[Claims] = {
        "rms_norm_gated": {
            "rank": "3",
            "columns": 128,
            "x_layout": "contiguous",
            "gate_layout": "contiguous",
            "weight_layout": "contiguous",
        }
    }


class ScalesOfWideRowsPastTheEnd(ScaleStoredPastTheEnd):
    """Rows of 4,097 to 6,144 columns alone have a tile that no group divides: one scale too many is stored."""

    operations = ("rms_norm_fp8",)
    takes: ClassVar[Claims] = {"rms_norm_fp8": {"columns": (4608, 5120, 6144), "quant_group": ("128", "64")}}


class HalvesOfHeadsOf192(CorrectRotation):
    """Heads of 192 columns that are rotated as a whole: their second half begins where a power of two does."""

    takes: ClassVar[Claims] = {"mrope": {"head_dim": 192, "rotary_dim": 192}}
    caught_by = ALL

    def halves(self, heads: torch.Tensor, half: int) -> Halves:
        """Begin at 128, around the end of the head."""
        return heads[..., :half], heads.roll(-128, -1)[..., :half]


class ShuffleInPartOfTheHead(FirstHeadAlone):
    """Heads that are rotated in part: a shuffle for all lanes stands in a branch that some of them take."""

    takes: ClassVar[Claims] = {"mrope": {"dims": ("quarter", "part"), "rank": "3"}}


class ShortRowsMasked(KernelLayerMaskedLanes):
    """Rows of three and five columns in fp32, whose masked lanes enter the variance."""

    takes: ClassVar[Claims] = {"layer_norm": {"columns": (3, 5), "dtype": "float32", "rank": "2"}}


class OddRowsOf769(PairStoresOfOddRows):
    """Rows of 769 columns in fp16, without a residual: the last pair of a row is stored whole."""

    operations = ("rms_norm",)
    takes: ClassVar[Claims] = {"rms_norm": {"columns": 769, "dtype": "float16", "residual": "none"}}


class LastStrideUnchecked(CorrectNorm):
    """Neighbouring columns are claimed, and nothing refuses a row whose columns are apart."""

    # in one dimension a gap is between the columns
    takes: ClassVar[Claims] = {
        name: {"rank": ("2", "3", "4"), "x_layout": ("contiguous", "row_gap", "offset")}
        for name in CorrectNorm.operations
    }
    caught_by = ("claim",)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Read columns with step one."""
        return super().norm(reread(x, (*x.stride()[:-1], 1)), weight, residual, offset, eps)


class OuterDimensionsUnchecked(CorrectNorm):
    """Three dimensions are taken where the first two are one row stride apart, which nothing checks."""

    takes: ClassVar[Claims] = {
        name: {"rank": ("2", "3"), "x_layout": ("contiguous", "row_gap"), "residual": "none"}
        for name in CorrectNorm.operations
    }
    caught_by = ("claim",)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Derive the first stride from the second."""
        if x.dim() == 3:
            x = reread(x, (x.shape[1] * x.stride(1), *x.stride()[1:]))
        return super().norm(x, weight, residual, offset, eps)


class DeclinesWhatItClaims(CorrectLayerNorm):
    """Every call is claimed, and rows of another rank than two go to another path that there is not."""

    caught_by = ("claim", *ALL)

    def layer_norm(self, x: torch.Tensor, *vectors: torch.Tensor | None, **flags: Any) -> torch.Tensor:
        """Decline tokens of several heads."""
        if x.dim() > 2:
            raise Declined("two dimensions alone")
        return super().layer_norm(x, *vectors, **flags)


class TextUnderTheThreshold(CorrectRotation):
    """From 128 tokens on a tiled kernel runs, which takes a token's three positions for one."""

    caught_by = ALL

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where the tiled kernel takes over."""
        return (128,)

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Take one axis in the tiled kernel."""
        return super().index(positions, [0] * len(axes) if positions.shape[-1] >= 128 else axes)
