"""Fakes whose results are right in fresh tensors, and not in those of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from conformance.selftest.fakes.correct_norm import CorrectNorm, Result

Outputs = tuple[torch.Tensor, ...]


class CorrectOutputs(CorrectNorm):
    """A norm that writes into tensors of the caller, and refuses those that it cannot write."""

    operations = ("rms_norm",)
    strided_outputs = True

    def rms_norm_out(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
        out: Outputs,
    ) -> Any:
        """Check the outputs, then take the steps of a call, and write."""
        self.check_outputs(x, [given for given in (x, residual, weight) if given is not None], out)
        results = self.rms_norm(x, weight, residual=residual, weight_offset=weight_offset, eps=eps)
        return self.written(out, results)

    def check_outputs(self, x: torch.Tensor, given: list[torch.Tensor], out: Outputs) -> None:
        """Refuse what does not fit, and what shares memory."""
        if not all(self.fits(each, x) for each in out):
            raise ValueError("an output has another shape or dtype")
        for place, each in enumerate(out):
            if self.shares(each, given) or self.repeats(each) or self.shared(each, list(out[:place])):
                raise ValueError("an output shares memory")

    def fits(self, out: torch.Tensor, x: torch.Tensor) -> bool:
        """Return whether a result can be written there."""
        return out.shape == x.shape and out.dtype == x.dtype

    def shares(self, out: torch.Tensor, given: list[torch.Tensor]) -> bool:
        """Return whether an element lies in an argument."""
        return any(bool(torch.isin(places(out), places(each)).any()) for each in given)

    def shared(self, out: torch.Tensor, others: list[torch.Tensor]) -> bool:
        """Return whether an element lies in another output."""
        return any(bool(torch.isin(places(out), places(each)).any()) for each in others)

    def repeats(self, out: torch.Tensor) -> bool:
        """Return whether two elements lie in one place."""
        return len(torch.unique(places(out))) < out.numel()

    def written(self, out: Outputs, results: Result) -> Any:
        """Write the results, and return the outputs."""
        for each, result in zip(out, results if isinstance(results, tuple) else (results,), strict=True):
            self.write_one(each, result)
        return out if len(out) > 1 else out[0]

    def write_one(self, out: torch.Tensor, result: torch.Tensor) -> None:
        """Write one result."""
        out.copy_(result)


def places(tensor: torch.Tensor) -> torch.Tensor:
    """Return the addresses of all elements."""
    found = torch.tensor(tensor.data_ptr())
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = found[..., None] + torch.arange(size) * stride * tensor.element_size()
    return found.flatten()


class OutputStridesIgnored(CorrectOutputs):
    """Results are stored as if the output were contiguous, past its end where it has gaps."""

    caught_by = ("given_outputs",)

    def write_one(self, out: torch.Tensor, result: torch.Tensor) -> None:
        """Write into the first elements of the memory."""
        out.as_strided(out.shape, result.contiguous().stride()).copy_(result)


class OutputOverlapsArguments(CorrectOutputs):
    """Nobody looks whether an output shares memory with an argument; rows are read after others were written."""

    caught_by = ("given_outputs",)

    def shares(self, out: torch.Tensor, given: list[torch.Tensor]) -> bool:
        """Look at nothing."""
        return False

    def rms_norm_out(self, x: torch.Tensor, weight: torch.Tensor | None, **named: Any) -> Any:
        """Compute row by row."""
        residual, out = named.pop("residual"), named.pop("out")
        self.check_outputs(x, [given for given in (x, residual, weight) if given is not None], out)
        for row in range(len(x)):
            part = None if residual is None else residual[row]
            self.written(tuple(each[row] for each in out), self.rms_norm(x[row], weight, residual=part, **named))
        return out if len(out) > 1 else out[0]


class OverlapSoughtAtTheCorners(OutputOverlapsArguments):
    """An output is compared with an argument by the first and last element of each of its rows alone."""

    def shares(self, out: torch.Tensor, given: list[torch.Tensor]) -> bool:
        """Look at two columns of the output."""
        return CorrectOutputs.shares(self, out[..., :: max(1, out.shape[-1] - 1)], given)


class WovenOutputRefused(CorrectOutputs):
    """Every call is claimed, and an output whose memory begins within an argument's is refused."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({"rms_norm": {}})
    caught_by = ("given_outputs",)

    def shares(self, out: torch.Tensor, given: list[torch.Tensor]) -> bool:
        """Compare from the first element to the last where the strides differ."""
        within = any(each.stride() != out.stride() and together(places(out), places(each)) for each in given)
        return within or CorrectOutputs.shares(self, out, given)


def together(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether neither of two lists of addresses ends before the other begins."""
    return bool(one.min() <= other.max()) and bool(other.min() <= one.max())


class OutputOfSharedRows(CorrectOutputs):
    """An expanded output is accepted: all rows are written to one place."""

    caught_by = ("given_outputs",)

    def repeats(self, out: torch.Tensor) -> bool:
        """Look at nothing."""
        return False

    def write_one(self, out: torch.Tensor, result: torch.Tensor) -> None:
        """Write row by row, which torch does not refuse."""
        for row, numbers in zip(out, result, strict=True):
            row.copy_(numbers)


class OneOutputForTwo(CorrectOutputs):
    """The sum may be given the memory of the norm, and the one that is written last is there."""

    caught_by = ("given_outputs",)

    def shared(self, out: torch.Tensor, others: list[torch.Tensor]) -> bool:
        """Look at nothing."""
        return False


class OutputLeftAsItWas(CorrectOutputs):
    """A path that forgets the output returns a fresh tensor."""

    caught_by = ("given_outputs",)

    def written(self, out: Outputs, results: Result) -> Any:
        """Return the results."""
        return results


class OutputVersionKept(CorrectOutputs):
    """A kernel writes, and autograd is not told."""

    caught_by = ("given_outputs",)

    def write_one(self, out: torch.Tensor, result: torch.Tensor) -> None:
        """Write past torch's count."""
        out.data.copy_(result)


class OutputBesideAnArgumentRefused(CorrectOutputs):
    """All between the first and the last byte of an argument is taken for a part of it."""

    caught_by = ("given_outputs",)

    def shares(self, out: torch.Tensor, given: list[torch.Tensor]) -> bool:
        """Compare ranges."""
        ends = [(int(places(each).min()), int(places(each).max())) for each in (out, *given)]
        return any(ends[0][0] <= last and first <= ends[0][1] for first, last in ends[1:])


class WrittenBeforeItIsRefused(CorrectOutputs):
    """Outputs are cleared, and then checked."""

    caught_by = ("given_outputs",)

    def check_outputs(self, x: torch.Tensor, given: list[torch.Tensor], out: Outputs) -> None:
        """Clear first."""
        if not self.shares(out[0], given):
            for each in out:
                each.data.zero_()
        super().check_outputs(x, given, out)


class WiderOutputAccepted(CorrectOutputs):
    """An output may be larger than the result, which is written into its beginning."""

    caught_by = ("given_outputs",)

    def fits(self, out: torch.Tensor, x: torch.Tensor) -> bool:
        """Ask for enough columns."""
        return out.shape[:-1] == x.shape[:-1] and out.shape[-1] >= x.shape[-1] and out.dtype == x.dtype

    def write_one(self, out: torch.Tensor, result: torch.Tensor) -> None:
        """Write the first columns."""
        out[..., : result.shape[-1]].copy_(result)


class OutputOfAnotherDtype(CorrectOutputs):
    """A result is converted to the dtype of its output, whatever that is."""

    caught_by = ("given_outputs",)

    def fits(self, out: torch.Tensor, x: torch.Tensor) -> bool:
        """Ask for the shape."""
        return out.shape == x.shape
