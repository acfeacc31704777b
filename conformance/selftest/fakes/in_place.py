"""Fakes whose in-place form is wrong: the written numbers, their place, the order, or the returned tensors."""

from __future__ import annotations

from typing import Any

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.memory import spill, writable
from conformance.selftest.fakes.memory_views import reread

CAUGHT: tuple[str, ...] = ("in_place",)


def in_storage_order(over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Write a result as if ``over`` were contiguous, as far as its memory reaches."""
    memory = over.new_empty(0).set_(over.untyped_storage())[over.storage_offset() :]
    count = min(over.numel(), memory.numel())
    memory[:count] = result.flatten()[:count]
    return over


class InPlaceSwaps(CorrectNorm):
    """The sum is written over x and y over the residual: two pointers in the wrong order."""

    caught_by = CAUGHT

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Swap the pair."""
        return super().overwrite(result if residual is None else result[::-1], x, residual)


class InPlaceForgetsTheSum(CorrectNorm):
    """x is written over, the residual stays what it was: the stream of the next layer is stale."""

    caught_by = CAUGHT

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Return the sum instead of writing it."""
        return super().overwrite(result if residual is None else result[0], x, None)


class InPlaceSaysNothing(CorrectNorm):
    """The form that returns nothing writes y alone: a check of returned tensors sees no mistake."""

    caught_by = CAUGHT

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Return nothing."""
        self.write(x, result if isinstance(result, torch.Tensor) else result[0])
        return None


class InPlaceNotAtAll(CorrectNorm):
    """The in-place form is the functional one under another name."""

    caught_by = CAUGHT

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Write nothing."""
        return result


class InPlaceReturnsCopies(CorrectNorm):
    """The arguments are right, and so are the returned tensors, which are other tensors."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Return the result, not the written argument."""
        over.copy_(result)
        return result


class InPlaceInACopy(CorrectNorm):
    """Writes over ``contiguous()`` of the argument: lost where that is a copy."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Write over the wrong tensor, return the right one."""
        over.contiguous().copy_(result)
        return over


class InPlaceTakenForContiguous(CorrectNorm):
    """Writes in storage order: over the gaps of a view, whose rows do not change."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Do not look at strides."""
        return in_storage_order(over, result)


class InPlaceFillsTheGap(CorrectNorm):
    """The result is right, but one element of the gap after the last row is written as well."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Write a full vector."""
        if not over.is_contiguous():
            spill(over, 1 + sum((n - 1) * stride for n, stride in zip(over.shape, over.stride(), strict=True)))
        return super().write(over, result)


class InPlaceReadsTheGap(CorrectNorm):
    """The element after the first row takes part in a maximum, in which a NaN does not show."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Read one element too far."""
        beyond = reread(over[..., :1], over.stride(), back=-over.shape[-1] * over.stride(-1))
        gap = beyond.float().flatten()[0]
        return super().write(over, torch.fmax(result, gap) if gap.abs() > 1e30 else result)


class InPlaceUncounted(CorrectNorm):
    """Writes through a raw pointer: the numbers are right, but autograd's version counter does not change."""

    caught_by = CAUGHT

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Count no version."""
        over.data.copy_(result)
        return over


class InPlaceReadsAfterWriting(CorrectNorm):
    """y is written over x before the sum is formed of x and the residual."""

    caught_by = CAUGHT

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Form the sum once more, too late."""
        if residual is None:
            return super().overwrite(result, x, None)
        self.write(x, result[0])
        return x, self.write(residual, self.add(x, residual))


class InPlaceSumsInAnotherOrder(CorrectNorm):
    """A separate kernel sums the columns backwards: right, but without the functional form's bits."""

    caught_by = CAUGHT
    backwards = False

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Add the columns one after the other where there is a second kernel."""
        if not self.backwards:
            return super().mean_square(stream)
        return stream.pow(2).flip(-1).cumsum(-1)[..., -1:] / stream.shape[-1]

    def rms_norm_(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Result | None:
        """Run the second kernel."""
        self.backwards = True
        result = super().rms_norm_(x, weight, residual=residual, weight_offset=weight_offset, eps=eps)
        self.backwards = False
        return result

    def gemma_rms_norm_(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Result | None:
        """Run the second kernel."""
        return self.rms_norm_(x, weight, residual=residual, weight_offset=1.0, eps=eps)


class InPlaceOverTheGate(Correct):
    """The result is written over the gate, which the kernel does not read again either."""

    caught_by = CAUGHT

    def overwrite(self, y: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Take the other tensor where there is one."""
        super().overwrite(y, gate if gate is not None and writable(gate) else x, gate)
        return x


class InPlaceActivatesTheGate(Correct):
    """x is right, and the gate is left activated: in place seemed to mean every argument."""

    caught_by = CAUGHT

    def overwrite(self, y: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Write over both."""
        if gate is not None and gate is not x and writable(gate):
            gate.copy_(self.activate(gate, "silu", x))
        return super().overwrite(y, x, gate)


class InPlaceGatesLater(Correct):
    """The norm is written over x before the gate is read: wrong where the gate is x."""

    caught_by = CAUGHT

    def overwrite(self, y: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Multiply a second time where the gate holds the result by now."""
        super().overwrite(y, x, gate)
        return x.mul_(torch.sigmoid(x.float())) if gate is x else x


class GatedInPlaceTakenForContiguous(Correct):
    """Writes in storage order: over the neighbour of a slice, the gate in a projection of both."""

    caught_by = CAUGHT

    def overwrite(self, y: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Do not look at strides."""
        return in_storage_order(x, y)


class Fp8InPlaceForgetsTheSum(CorrectFp8):
    """The sum is returned in a fresh tensor, the residual stays what it was."""

    caught_by = CAUGHT
    operations = ("rms_norm_fp8",)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write nothing."""
        return results


class Fp8InPlaceReturnsTheResidual(CorrectFp8):
    """The residual is returned for the sum, which it does not hold: a check of addresses sees no mistake."""

    caught_by = CAUGHT
    operations = ("rms_norm_fp8",)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the residual although it is unchanged."""
        return (*results[:-1], residual)


class Fp8InPlaceWritesXToo(CorrectFp8):
    """y is written over x, as other norms do, although x is no output here."""

    caught_by = CAUGHT
    operations = ("rms_norm_fp8",)

    def rms_norm_fp8_(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, **flags: Any
    ) -> tuple[torch.Tensor, ...]:
        """Write over both."""
        results = super().rms_norm_fp8_(x, weight, residual=residual, **flags)
        if residual is not None and writable(x):
            x.copy_(results[0].float())
        return results


class Fp8InPlaceReturnsTheSumAlone(CorrectFp8):
    """The residual is right, and returned; the values and their scales are lost."""

    caught_by = CAUGHT
    operations = ("rms_norm_fp8",)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the overwritten arguments, as other norms do."""
        return super().overwrite(results, residual)[-1:]
