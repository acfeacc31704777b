"""Fakes that mistake the scales of fp8 outputs: the measured numbers, the rounding, the layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_fp8 import FLOOR, CorrectFp8, declared
from conformance.selftest.fakes.memory import spill

ALL: tuple[str, ...] = ("values", "layout", "specials")


class ScalePerRow(CorrectFp8):
    """One scale for the whole row, repeated for each of its groups."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure the row."""
        amax = super().amax(groups)
        return amax.amax(-1, keepdim=True).expand(amax.shape)


class ScaleOfTheFirstGroup(CorrectFp8):
    """The program's first group is measured, the loop over groups keeps its scale."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure once."""
        amax = super().amax(groups)
        return amax[..., :1].expand(amax.shape)


class ScaleOfPaddedNorms(CorrectFp8):
    """A quant group of three norms is padded to four: the norm of nothing is measured, without eps ``0 * inf``."""

    operations = ("rms_norm_gated_fp8",)
    caught_by = ALL

    def rms_norm_gated_fp8(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> tuple[torch.Tensor, ...]:
        """Remember the norm."""
        self.normed, self.eps = flags["group_size"] or max(x.shape[-1], 1), torch.tensor(flags["eps"])
        return super().rms_norm_gated_fp8(x, gate, weight, **flags)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure the norm of zeros too, where there is padding."""
        amax, norms = super().amax(groups), -(-groups.shape[-1] // self.normed)
        return amax if norms & (norms - 1) == 0 else torch.maximum(amax, 0.0 * torch.rsqrt(self.eps))


class ScaleOfPaddedColumns(CorrectFp8):
    """The last group is padded before it is normalised: where the squares of a row vanish that is ``0 * inf``."""

    operations = ("rms_norm_fp8",)
    caught_by = ALL

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Fill up with what an infinite norm makes of zeros."""
        groups, infinite = super().groups(stream, group), stream.abs().amin(-1, keepdim=True).isinf()
        filled = groups.flatten(-2).clone()
        filled[..., stream.shape[-1] :] = torch.where(infinite, torch.nan, 0.0)
        return filled.reshape(groups.shape)


class ScaleOfTheBatch(CorrectFp8):
    """One scale for the tensor, as static quantisation has: rows depend on each other."""

    caught_by = ("row_independence", *ALL)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure everything."""
        amax = super().amax(groups)
        return amax.amax().expand(amax.shape)


class LargestWithoutMagnitude(CorrectFp8):
    """The largest number, not the largest magnitude: negative outliers saturate."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Forget the absolute value."""
        return groups.amax(-1)


class HalfOfTheGroupMeasured(CorrectFp8):
    """A shuffle too few: half of the lanes never reach the maximum."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Reduce half of the lanes."""
        return super().amax(groups[..., : max(groups.shape[-1] // 2, 1)])


class LastColumnNotMeasured(CorrectFp8):
    """The mask of the maximum ends one column early."""

    caught_by = ALL

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Leave out the last column of every group."""
        return super().amax(groups[..., : max(groups.shape[-1] - 1, 1)])


class MeasuredBeforeRounding(CorrectFp8):
    """The scale is taken from the norm in registers, the values from the norm rounded to x's dtype."""

    caught_by = ALL

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Remember the unrounded norm."""
        self.registers = y
        return super().unquantised(y, x)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember the unrounded norm group by group."""
        self.before = super().groups(self.registers, group)
        return super().groups(stream, group)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure too early."""
        return super().amax(self.before)


class MeasuredBeforeTheWeight(MeasuredBeforeRounding):
    """The largest magnitude is taken before the weight is applied."""

    def rms_norm_fp8(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, weight_offset: float, **named: object
    ) -> tuple[torch.Tensor, ...]:
        """Remember the factor of each column."""
        self.factor = weight_offset + (torch.ones(x.shape[-1:]) if weight is None else weight.float())
        return super().rms_norm_fp8(x, weight, weight_offset=weight_offset, **named)  # type: ignore[arg-type]

    def rms_norm_gated_fp8(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **named: object
    ) -> tuple[torch.Tensor, ...]:
        """Remember the factor of each column."""
        self.factor = weight.float()
        return super().rms_norm_gated_fp8(x, gate, weight, **named)  # type: ignore[arg-type]

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Take the weight away again."""
        stream = super().unquantised(y, x)
        self.registers = y / self.factor
        return stream


class NoFloor(CorrectFp8):
    """The scale of an all-zero group is zero, its values are 0/0."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Divide without a floor."""
        return amax / largest


class FloorUnderTheScale(CorrectFp8):
    """The floor stands under the scale, not under the magnitude: 448 times too high."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Divide first."""
        return (amax / largest).clamp(min=FLOOR)


class ZeroGroupsHaveScaleOne(CorrectFp8):
    """An all-zero group gets the scale one, as static quantisation does."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Make an exception for zero."""
        return torch.where(amax == 0, 1.0, super().scales(amax, largest))


class LargestOfE4m3fn(CorrectFp8):
    """448 is the bound of both types: e4m3fnuz overflows at 240."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Know one type."""
        return super().scales(amax, 448.0)


class LargestOf224(CorrectFp8):
    """224 is the bound of e4m3fnuz, a margin that some implementations keep."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Keep a margin."""
        return super().scales(amax, min(largest, 448.0 if largest == 448.0 else 224.0))


class ReciprocalReturned(CorrectFp8):
    """The multiplier is returned: one over the scale."""

    caught_by = ALL

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Return the multiplier."""
        return super().store_scales(1.0 / scales, scale_layout)


class ScalesRoundedToBfloat16(CorrectFp8):
    """The scale passes through bf16."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round the scale."""
        return super().scales(amax, largest).bfloat16().float()


class ScalesInDtypeOfX(CorrectFp8):
    """Scales come out in bf16, whichever dtype was asked for."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Cast the scales."""
        return super().store_scales(scales, scale_layout).bfloat16()


class PowerOfTwoUndeclared(CorrectFp8):
    """Scales are rounded up to powers of two, undeclared."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round as UE8M0 does."""
        return torch.exp2(torch.ceil(torch.log2(super().scales(amax, largest))))


class PowerOfTwoDeclared(CorrectFp8):
    """Scales of any size; powers of two are declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum", "unquantised", "power_of_two")
    caught_by = ALL


class PowerOfTwoRoundedDown(PowerOfTwoDeclared):
    """The exponent is cut off, not rounded up: the largest numbers saturate."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Clear the mantissa."""
        cut = super().scales(amax, largest).view(torch.int32) & 0x7F800000
        return cut.view(torch.float32)


class ScaleCached(CorrectFp8):
    """The scales of the first call of a shape are kept: calibrated once."""

    caught_by = ALL

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Measure once per shape."""
        return self.kept.setdefault(amax.shape, super().scales(amax, largest).clone())


class RaggedGroupReadsTheNextRow(CorrectFp8):
    """The shorter last group is measured without a mask, into the row after it."""

    caught_by = ("row_independence", *ALL)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Measure the numbers that follow in memory."""
        return super().amax(self.unmasked)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember the groups with the next row's first columns in place of zeros."""
        n = stream.shape[-1]
        missing = -n % min(group, n)
        after = torch.roll(stream.reshape(-1, n), -1, 0).reshape(stream.shape)
        self.unmasked = super().groups(torch.cat([stream, after[..., :missing]], -1), min(group, n))
        return super().groups(stream, group)


class RaggedGroupSharesAScale(CorrectFp8):
    """The shorter last group takes the scale of the one before: indices are rounded down."""

    caught_by = ALL

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember whether there is a shorter one."""
        self.ragged = bool(stream.shape[-1] % min(group, stream.shape[-1]))
        return super().groups(stream, group)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Repeat the one before."""
        amax = super().amax(groups)
        return torch.cat([amax[..., :-1], amax[..., -2:-1]], -1) if self.ragged else amax


class RaggedGroupHasNoScale(CorrectFp8):
    """Only whole groups get a scale."""

    caught_by = ("metadata",)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember how many whole groups fit."""
        self.whole = stream.shape[-1] // min(group, stream.shape[-1])
        return super().groups(stream, group)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Return the scales of whole groups."""
        whole = self.whole if scales.numel() else scales.shape[-1]
        return super().store_scales(scales[..., :whole], scale_layout)


class GroupHardCoded(CorrectFp8):
    """Groups are 128 columns, whichever size is asked for."""

    caught_by = ("metadata",)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Ignore the argument."""
        return super().groups(stream, 128)


class TransposedWithoutSayingSo(CorrectFp8):
    """Column scales are stored column by column and returned with the strides of rows."""

    caught_by = ALL

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Keep the data of columns under the strides that columns ought to have."""
        stored = super().store_scales(scales, scale_layout)
        if scale_layout == "row" or not scales.numel():
            return stored
        memory = scales.movedim(-1, 0).contiguous().flatten()
        return stored.copy_(memory.reshape(scales.shape))


class ColumnsIgnored(CorrectFp8):
    """Scales are stored row by row, whichever layout is asked for."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Ignore the argument."""
        return super().store_scales(scales, "row")


class RowsIgnored(CorrectFp8):
    """Scales are stored column by column, whichever layout is asked for."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Ignore the argument."""
        return super().store_scales(scales, "column")


class ColumnsOfEachBatch(CorrectFp8):
    """The last two of more than two dimensions are swapped, as ``mT`` does; the first stays outermost."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Swap two dimensions."""
        if scale_layout == "row" or scales.dim() < 3:
            return super().store_scales(scales, scale_layout)
        return scales.mT.contiguous().mT


class MaximumOfUninitialisedScales(CorrectFp8):
    """An atomic maximum onto a buffer that was never set to zero."""

    caught_by = ("memory", *ALL)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Keep the larger number."""
        out = torch.empty_strided(scales.shape, super().store_scales(scales, scale_layout).stride())
        return torch.maximum(out, scales, out=out)


class LastScaleNotWritten(CorrectFp8):
    """The scales of the last row are never stored."""

    caught_by = ("written", *ALL)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Store the rows but one."""
        out = torch.empty_strided(scales.shape, super().store_scales(scales, scale_layout).stride())
        if scales.dim() > 1:
            out[:-1] = scales[:-1]
        return out


class ScaleStoredPastTheEnd(CorrectFp8):
    """A tile that no group divides: one scale too many is stored."""

    caught_by = ("memory",)

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Write beyond the buffer."""
        out = super().store_scales(scales, scale_layout)
        spill(out, out.numel())
        return out


class NanGroupHasTheFloor(CorrectFp8):
    """The maximum keeps NaN, the floor drops it: other numbers of the group saturate."""

    caught_by = ("specials",)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Lose NaN, and the other numbers of its group."""
        return super().amax(groups).nan_to_num(nan=0.0, posinf=torch.inf)


class InfiniteScaleClamped(CorrectFp8):
    """An infinite scale is clamped to the largest float32: an infinity looks like a number."""

    caught_by = ("specials",)

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Keep it finite."""
        return super().scales(amax, largest).clamp(max=torch.finfo(torch.float32).max)
