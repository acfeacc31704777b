"""Fakes that mistake quantisation to fp8 alone: the scale, the rounding, groups, layouts and memory."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_fp8 import FLOOR
from conformance.selftest.fakes.correct_quantise_fp8 import CorrectQuantiseFp8
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")


class QuantisesTokens(CorrectQuantiseFp8):
    """A token has one scale, whichever groups are asked for: it is repeated."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure the token."""
        amax = super().amax(groups)
        return amax.amax(-1, keepdim=True).expand(amax.shape)


class QuantisesTheTensor(CorrectQuantiseFp8):
    """All of x has one scale, measured first: tokens depend on each other."""

    caught_by = ("row_independence", *ALL)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure everything."""
        amax = super().amax(groups)
        return amax.amax().expand(amax.shape)


class QuantisesByTheLargestNumber(CorrectQuantiseFp8):
    """The magnitude is forgotten: large negative numbers saturate."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Take the largest as it is."""
        return groups.amax(-1)


class QuantisesZerosByZero(CorrectQuantiseFp8):
    """Nothing keeps the scale of zeros from being zero, and they become NaN."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Divide without a floor."""
        return amax / largest


class QuantisesWithAnotherFloor(CorrectQuantiseFp8):
    """The scale is at least 1 / (448 * 512), the floor of another kernel for whole tokens."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Raise small scales."""
        return super().scales(amax, largest).clamp(min=1.0 / (largest * 512.0))


class QuantisesFloorAdded(CorrectQuantiseFp8):
    """The floor is added to the magnitude of every group that has none, at 1e-4 in place of 1e-10."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Take another number."""
        return torch.where(amax > FLOOR, amax, 1e-4) / largest


class QuantisesInDtypeOfX(CorrectQuantiseFp8):
    """The scale is computed in x's dtype, and widened for its store."""

    caught_by = ALL

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.kind = x.dtype
        return super().unquantised(y, x)

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round the scale."""
        return super().scales(amax, largest).to(self.kind).float().clamp(min=FLOOR / largest)


class QuantisesToPowersOfTwo(CorrectQuantiseFp8):
    """Scales are UE8M0, for a matrix product that wants them, and are not declared."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round up."""
        return torch.exp2(torch.ceil(torch.log2(super().scales(amax, largest))))


class QuantisesByTheOtherBound(CorrectQuantiseFp8):
    """448 and 240 are mistaken for each other, as on a GPU of the other vendor."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Divide by the other one."""
        return super().scales(amax, 240.0 if largest == 448.0 else 448.0)


class QuantisesTiesAway(CorrectQuantiseFp8):
    """Ties go away from zero, as in a conversion written with integers."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Move ties up."""
        return super().store_values(quotients * (1 + 2.0**-20), fp8)


class QuantisesTowardsZero(CorrectQuantiseFp8):
    """The cast to fp8 cuts bits off."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Clear what three bits of mantissa do not hold."""
        cut = quotients.contiguous().view(torch.int32) & -0x100000
        return super().store_values(cut.view(torch.float32), fp8)


class QuantisesTwiceRounded(CorrectQuantiseFp8):
    """Quotients are rounded to float16 on their way to fp8."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Round in between."""
        return super().store_values(quotients.half().float(), fp8)


class QuantisesWithoutSubnormals(CorrectQuantiseFp8):
    """Quotients below fp8's smallest normal number are zero."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Flush them."""
        small = quotients.abs() < torch.finfo(fp8).smallest_normal
        return super().store_values(torch.where(small, 0.0, quotients), fp8)


class QuantisesReturnsMultipliers(CorrectQuantiseFp8):
    """The scale that is returned is the number that x was multiplied by."""

    caught_by = ALL

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Return one over the scale."""
        return super().store_scales(1.0 / scales, scale_layout)


class QuantisesWholeGroups(CorrectQuantiseFp8):
    """The grid has a program per whole group: columns of a shorter last one are not written."""

    caught_by = ("written", *ALL)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember how many columns whole groups have."""
        group = min(group, stream.shape[-1])
        self.whole = stream.shape[-1] // group * group
        return super().groups(stream, group)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Store those."""
        out = torch.empty(quotients.shape, dtype=fp8)
        out[..., : self.whole] = super().store_values(quotients, fp8)[..., : self.whole]
        return out


class QuantisesRowMajor(CorrectQuantiseFp8):
    """Scales are row after row, also where columns are asked for."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Ignore the layout."""
        return super().store_scales(scales, "row")


class QuantisesByTheWidth(CorrectQuantiseFp8):
    """The number of scales is rounded down: a shorter last group has none."""

    caught_by = ("metadata",)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember how many whole groups there are."""
        self.count = max(stream.shape[-1] // min(group, stream.shape[-1]), 1)
        return super().groups(stream, group)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Return as many."""
        return super().store_scales(scales[..., : self.count] if scales.numel() else scales, scale_layout)


class QuantisesContiguousAlone(CorrectQuantiseFp8):
    """x is read as if its rows followed each other."""

    caught_by = ("layout", "specials", "memory")

    def quantise_fp8(
        self, x: torch.Tensor, *, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype
    ) -> tuple[torch.Tensor, ...]:
        """Read neighbours in memory."""
        given = reread(x, dense(x.shape)) if x.numel() else x
        return super().quantise_fp8(given, quant_group=quant_group, scale_layout=scale_layout, fp8_dtype=fp8_dtype)


class QuantisesNanToTheLargest(CorrectQuantiseFp8):
    """A clamp that ignores NaN makes the largest number of it."""

    caught_by = ("specials",)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Clamp as ``fmin`` does."""
        return super().store_values(quotients.nan_to_num(nan=torch.inf), fp8)


class QuantisesInfinityAsANumber(CorrectQuantiseFp8):
    """The scale of a group with an infinity is finite, and the infinity the largest number."""

    caught_by = ("specials",)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Leave infinities out."""
        return super().amax(torch.where(groups.isinf(), 0.0, groups))


class QuantisesInPlace(CorrectQuantiseFp8):
    """x holds its quotients afterwards."""

    caught_by = ("memory", *ALL)

    def quantise_fp8(
        self, x: torch.Tensor, *, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype
    ) -> tuple[torch.Tensor, ...]:
        """Change the argument."""
        made = super().quantise_fp8(x, quant_group=quant_group, scale_layout=scale_layout, fp8_dtype=fp8_dtype)
        if 0 not in x.stride():
            x.copy_(made[0].float())
        return made


class QuantisesAnyGroup(CorrectQuantiseFp8):
    """Groups of a negative size are taken for one of its magnitude."""

    caught_by = ("errors",)

    def check(self, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype) -> None:
        """Look at the magnitude."""
        super().check(None if quant_group is None else abs(quant_group), scale_layout, fp8_dtype)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Use the magnitude."""
        return super().groups(stream, abs(group))


class QuantisesEmptyRows(CorrectQuantiseFp8):
    """Rows without columns have a scale all the same."""

    caught_by = ("empty",)

    def empty(
        self, x: torch.Tensor, count: int, scale_layout: str, fp8: torch.dtype, *, unquantised: bool
    ) -> tuple[torch.Tensor, ...]:
        """Count one group at least."""
        return super().empty(x, max(count, 1), scale_layout, fp8, unquantised=unquantised)
