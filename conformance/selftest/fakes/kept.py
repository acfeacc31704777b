"""Fakes that keep too much: weights and choices under a key that lacks something, one scratch for all calls."""

from __future__ import annotations

import time
from typing import Any

import torch

from conformance.oracle.bits import raw
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.correct_rotation import CorrectRotation, Sections


class WeightKeptOnTheTensor(Correct):
    """The converted weight is an attribute of its tensor, however the tensor changes."""

    caught_by = ("state",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Convert a tensor once."""
        if not hasattr(weight, "converted"):
            weight.converted = weight.float().clone()  # type: ignore[attr-defined]  # the point
        return super().weigh(y, weight.converted, group)  # type: ignore[attr-defined]


class WeightKeptByVersion(Correct):
    """The converted weight is kept by tensor and version: loading through ``.data`` counts no version."""

    caught_by = ("state",)

    def __init__(self) -> None:
        self.kept: dict[object, tuple[torch.Tensor, torch.Tensor]] = {}

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Convert a version once."""
        key = (id(weight), weight._version, weight.data_ptr(), weight.dtype)
        # with the tensor itself, so that no other tensor can get its id
        _, converted = self.kept.setdefault(key, (weight, weight.float().clone()))
        return super().weigh(y, converted, group)


class WeightKeptByAddress(Correct):
    """The converted weight is kept by address, which another model's weight may get."""

    caught_by = ("state",)

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Convert an address once."""
        key = (weight.data_ptr(), len(weight), weight.dtype)
        return super().weigh(y, self.kept.setdefault(key, weight.float().clone()), group)


class OffsetKeptOnTheTensor(CorrectNorm):
    """``1 + w`` is an attribute of the weight: a reloaded weight is never seen."""

    caught_by = ("state",)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Add once per tensor and offset."""
        sums: dict[float, torch.Tensor] = vars(weight).setdefault("sums", {})
        return sums.setdefault(offset, super().scale(weight, offset).clone())


class ActivationKeptByShape(Correct):
    """The kernel of a call is kept by shapes, strides and dtypes, but not by the activation that it computes."""

    caught_by = ("kept_choices",)

    def __init__(self) -> None:
        self.kept: dict[object, str] = {}

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Take the activation of the first such call."""
        key = (x.shape, x.stride(), x.dtype, gate.stride(), gate.dtype)
        return super().activate(gate, self.kept.setdefault(key, activation), x)


class StridesKeptByShape(CorrectNorm):
    """The plan of a call is kept by shape and dtype: rows that were contiguous once are read as if they were."""

    caught_by = ("kept_choices",)

    def __init__(self) -> None:
        self.kept: dict[object, tuple[int, ...]] = {}

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Read by the strides of the first such call, where they stay within the tensor."""
        strides = self.kept.setdefault((s.shape, s.dtype), s.stride())
        reach = sum((size - 1) * stride for size, stride in zip(s.shape, strides, strict=True))
        inside = s.storage_offset() + reach < s.untyped_storage().size() // s.element_size()
        return super().load(s.as_strided(s.shape, strides) if inside else s, x, residual)


class OrderKeptBySections(CorrectRotation):
    """The axis of each frequency is kept by the sections alone, and not by their order."""

    caught_by = ("kept_choices",)

    def __init__(self) -> None:
        self.kept: dict[object, list[int]] = {}

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Take the axes of the first such call."""
        return self.kept.setdefault(tuple(sections), super().axes(sections, interleaved=interleaved))


class ScratchForAll(Correct):
    """The normalised numbers wait in a scratch that all calls share: two simultaneous calls mix them up."""

    caught_by = ("threads",)

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Leave the numbers in the scratch for as long as a kernel takes."""
        self.scratch = grouped
        time.sleep(1e-4)
        return super().inverse_rms(self.scratch, eps)


class EpsRaised(Correct):
    """An eps below 1e-9 is taken for a mistake: small activations with a small eps are pressed down."""

    caught_by = ("scale",)

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Raise eps."""
        return super().inverse_rms(grouped, max(eps, 1e-9))


class SmallSquaresLost(CorrectNorm):
    """Squares are summed in fixed point, which ends at 2**-32: enough for the activations that were tried."""

    caught_by = ("scale", "values", "layout", "specials")

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Round to the grid."""
        return super().mean_square(stream).mul(2.0**32).round().mul(2.0**-32)


class ResultKeptByThreeNumbers(CorrectNorm):
    """The last results are kept by shape, dtype and three numbers of every argument: two ends and the middle."""

    caught_by = ("kept_results",)

    def __init__(self) -> None:
        self.kept: dict[object, Result] = {}

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Compute results that are not cached."""
        key = (offset, eps, *map(self.known_by, (x, weight, residual)))
        if key not in self.kept:
            self.kept = {key: super().norm(x, weight, residual, offset, eps)}
        kept = self.kept[key]
        return kept.clone() if isinstance(kept, torch.Tensor) else tuple(result.clone() for result in kept)

    def known_by(self, tensor: torch.Tensor | None) -> object:
        """Return the key of one argument."""
        if tensor is None or not tensor.numel():
            return None if tensor is None else tensor.shape
        flat = tensor.flatten()
        return (tensor.shape, tensor.dtype, *flat[[0, len(flat) // 2, -1]].tolist())


class ResultKeptBySums(ResultKeptByThreeNumbers):
    """The last results are kept by a sum of every argument's bits, which does not see their order."""

    caught_by = ("kept_results",)

    def known_by(self, tensor: torch.Tensor | None) -> object:
        """Return the key of one argument."""
        return tensor if tensor is None else (tensor.shape, tensor.dtype, int(raw(tensor).long().sum()))


class GateKeptByItsSum(Correct):
    """The activated gate is kept by the sum of its numbers."""

    caught_by = ("kept_results",)

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Activate a gate that has another sum."""
        key = (activation, gate.shape, gate.dtype, gate.double().sum().item())
        return self.kept.setdefault(key, super().activate(gate, activation, x))


class AnglesKeptByTheCorners(CorrectRotation):
    """Keeps results under the corners of the table and of the positions."""

    caught_by = ("kept_results",)

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Look up numbers for other corners."""
        corners = [*table.flatten()[[0, -1]].tolist(), *index.flatten()[[0, -1]].tolist()] if index.numel() else []
        key = (table.shape, table.dtype, index.shape, index.stride(), *corners)
        return self.kept.setdefault(key, super().look_up(table, index))


class TruncatedInPlace(CorrectNorm):
    """In place the sum is truncated where it is stored; out of place it is rounded."""

    caught_by = ("chain",)

    def rms_norm_(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Any) -> None:
        """Write y over x, and the sum over the residual."""
        self._write(x, flags["residual"], self.rms_norm(x, weight, **flags))

    def gemma_rms_norm_(self, x: torch.Tensor, weight: torch.Tensor, **flags: Any) -> None:
        """Write y over x, and the sum over the residual."""
        self._write(x, flags["residual"], self.gemma_rms_norm(x, weight, **flags))

    def _write(self, x: torch.Tensor, residual: torch.Tensor | None, result: Any) -> None:
        if residual is None:
            x.copy_(result)
            return
        exact = x.double() + residual.double()
        nearest = exact.to(x.dtype)
        towards = torch.zeros_like(nearest)
        too_far = nearest.double().abs() > exact.abs()
        residual.copy_(torch.where(too_far, torch.nextafter(nearest, towards), nearest))
        x.copy_(result[0])


class SumsLeanUpwards(CorrectNorm):
    """A carry is added before the low bits are cut off, one bit too high: sums grow by half a place each."""

    caught_by = ("chain", "bias", "values", "layout", "specials")

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Round away from zero."""
        exact = x.double() + residual.double()
        nearest = exact.to(x.dtype)
        outwards = torch.nextafter(nearest, nearest.sign() * torch.inf)
        return torch.where(nearest.double().abs() < exact.abs(), outwards, nearest)
