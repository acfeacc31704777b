"""Fakes that mistake the fp8 numbers themselves, and the unquantised output returned with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_fp8 import CorrectFp8, declared

ALL: tuple[str, ...] = ("values", "layout", "specials")


class TruncatedToFp8(CorrectFp8):
    """Low bits are cut off where the cast should round: activations shrink."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Clear the bits that an fp8 number does not have."""
        cut = quotients.contiguous().view(torch.int32) & -0x100000
        return super().store_values(cut.view(torch.float32), fp8)


class RoundedThroughBfloat16(CorrectFp8):
    """The quotient goes through bf16 before fp8: rounded twice."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Round in between."""
        return super().store_values(quotients.bfloat16().float(), fp8)


class TiesAwayFromZero(CorrectFp8):
    """Ties go away from zero. With powers of two for scales every sixteenth bf16 number is a tie."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum", "unquantised", "power_of_two")
    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round up to a power of two."""
        return torch.exp2(torch.ceil(torch.log2(super().scales(amax, largest))))

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Move numbers at a tie or near one."""
        return super().store_values(quotients * (1 + 2.0**-12), fp8)


class QuantisedBeforeRounding(CorrectFp8):
    """Values and scales are taken from the norm in registers; the contract says ``unquantised``."""

    caught_by = ALL

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Do without the rounding."""
        return y


class RoundedBeforeUndeclared(CorrectFp8):
    """The norm is rounded to x's dtype before it is quantised; the contract does not say so."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum")
    caught_by = ALL


class ValuesOfTheUnrounded(CorrectFp8):
    """The scale is taken from the rounded norm, the values from the norm in registers."""

    caught_by = ALL

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Remember the unrounded norm."""
        self.registers = y
        return super().unquantised(y, x)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember the unrounded norm group by group."""
        self.before = super().groups(self.registers, group)
        return super().groups(stream, group)

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide the numbers that are not returned."""
        return super().divided(self.before, scales)


class ReciprocalInHalf(CorrectFp8):
    """The reciprocal of the scale is kept in bf16."""

    caught_by = ALL

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Multiply by the rounded reciprocal."""
        return groups * (1.0 / scales).bfloat16().float()


class MultipliedByTheScale(CorrectFp8):
    """The values are multiplied by the scale, not divided."""

    caught_by = ALL

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Take the scale for its reciprocal."""
        return groups * scales


class ScaleOfTheNeighbour(CorrectFp8):
    """Each group is divided by the scale of the next: an index is off by one."""

    caught_by = ALL

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Shift the scales."""
        return super().divided(groups, scales.roll(-1, -2))


class SmallNumbersFlushed(CorrectFp8):
    """fp8 has no subnormals here: numbers below the smallest normal number become zero."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Flush small numbers to zero."""
        small = quotients.abs() < torch.finfo(fp8).smallest_normal
        return super().store_values(torch.where(small, 0.0, quotients), fp8)


class NegativeZeroIsNan(CorrectFp8):
    """A small negative number keeps its sign: in e4m3fnuz that code is NaN."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Set the sign bit of zero."""
        values = super().store_values(quotients, fp8)
        negative = (values.float() == 0) & quotients.signbit()
        values.view(torch.uint8).masked_fill_(negative, 0x80)
        return values


class CodesOfE4m3fn(CorrectFp8):
    """The codes of e4m3fn under the name of e4m3fnuz: half the value, and other bounds."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Store one type's codes."""
        return super().store_values(quotients, torch.float8_e4m3fn).view(fp8)


class AlwaysE4m3fn(CorrectFp8):
    """Values are e4m3fn, whichever fp8 type is asked for."""

    caught_by = ("metadata",)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Ignore the argument."""
        return super().store_values(quotients, torch.float8_e4m3fn)


class NanSaturates(CorrectFp8):
    """The clamp drops NaN: it becomes the largest number, which hides the fault."""

    caught_by = ("specials",)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Clamp as ``fmin`` and ``fmax`` do."""
        return super().store_values(quotients.nan_to_num(nan=-torch.inf), fp8)


class ClampedBelowTheLargest(CorrectFp8):
    """240 is the bound for both types."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Clamp too early."""
        return super().store_values(quotients.clamp(-240.0, 240.0), fp8)


class RaggedGroupNotStored(CorrectFp8):
    """The columns of the shorter last group are never stored."""

    caught_by = ("written", *ALL)

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Remember how many columns whole groups have."""
        group = min(group, stream.shape[-1])
        self.whole = stream.shape[-1] // group * group
        return super().groups(stream, group)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Store whole groups."""
        out = torch.empty(quotients.shape, dtype=fp8)
        out[..., : self.whole] = super().store_values(quotients, fp8)[..., : self.whole]
        return out


class Dequantised(CorrectFp8):
    """The unquantised output holds the dequantised values, not the numbers before quantisation."""

    caught_by = ALL

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Remember the quotients and their scales."""
        self.quotients, self.factors = super().divided(groups, scales), scales
        return self.quotients

    def beside(self, stream: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Multiply back."""
        back = self.quotients.clamp(-240.0, 240.0).to(torch.float8_e4m3fn).float() * self.factors
        return super().beside(back.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]], y, x)


class BesideInFloat32(CorrectFp8):
    """The unquantised output is in fp32."""

    caught_by = ("metadata",)

    def beside(self, stream: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the norm in registers."""
        return y.contiguous()


class BesideForgotten(CorrectFp8):
    """The unquantised output was asked for and is not returned."""

    caught_by = ("metadata",)

    def together(
        self, values: torch.Tensor, scales: torch.Tensor, beside: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Return two results."""
        return values, scales


class BesideIsX(CorrectFp8):
    """The unquantised output is the input: the norm stayed in registers."""

    caught_by = ALL

    def beside(self, stream: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        return super().beside(x.float(), y, x)


class BesideAndSumSwapped(CorrectFp8):
    """The sum is returned before the unquantised norm."""

    operations = ("rms_norm_fp8",)
    caught_by = ALL

    def rms_norm_fp8(
        self, x: torch.Tensor, weight: torch.Tensor | None, **named: object
    ) -> tuple[torch.Tensor, ...]:
        """Swap the last two of four."""
        made = super().rms_norm_fp8(x, weight, **named)  # type: ignore[arg-type]
        return (*made[:2], made[3], made[2]) if len(made) == 4 else made


class ValuesKept(CorrectFp8):
    """Every call of a shape returns the same fp8 buffer: a later call changes the values of an earlier one."""

    caught_by = ("determinism", "memory")

    def __init__(self) -> None:
        self.buffers: dict[object, torch.Tensor] = {}

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Keep the buffer."""
        made = super().store_values(quotients, fp8)
        return self.buffers.setdefault((quotients.shape, fp8), made).copy_(made)


class NoisyQuotients(CorrectFp8):
    """Quotients are dithered before they are rounded: two calls differ."""

    caught_by = ("determinism", "memory", *ALL)

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Add noise, a hundredth of a step."""
        return super().store_values(quotients * (1 + 1e-3 * torch.rand(quotients.shape)), fp8)


class EmptyScalesHaveAGroup(CorrectFp8):
    """A row without columns still gets a scale."""

    caught_by = ("empty",)

    def empty(
        self, x: torch.Tensor, count: int, scale_layout: str, fp8: torch.dtype, *, unquantised: bool
    ) -> tuple[torch.Tensor, ...]:
        """Count one group at least."""
        return super().empty(x, max(count, 1), scale_layout, fp8, unquantised=unquantised)


class GroupOfNothingIsTheRow(CorrectFp8):
    """A group of zero columns is taken for the whole row: ``quant_group or n``."""

    caught_by = ("errors",)

    def check(self, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype) -> None:
        """Take zero for None."""
        super().check(quant_group or None, scale_layout, fp8_dtype)


class AnyFp8Dtype(CorrectFp8):
    """Any dtype is taken for fp8."""

    caught_by = ("errors",)

    def check(self, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype) -> None:
        """Accept any dtype."""
        super().check(quant_group, scale_layout, torch.float8_e4m3fn)
