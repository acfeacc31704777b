"""Fakes that are right until ``torch.compile`` takes them: they claim that it does, whole and with equal bits."""

from __future__ import annotations

from typing import Any

import torch

from conformance.selftest.fakes.correct import Correct

CAUGHT: tuple[str, ...] = ("compile",)


class NotTraceable(Correct):
    """A launch that Dynamo cannot trace: it chooses by a number of a tensor, which is read in Python."""

    compiles = True
    caught_by = CAUGHT

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Read the largest number, and choose between two ways to the same result."""
        return super().mean_square(grouped.contiguous() if grouped.amax().item() > 0.0 else grouped)


class GuardDisabled(Correct):
    """A guard around the launch is hidden from the compiler, which has to break the graph there."""

    compiles = True
    caught_by = CAUGHT

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Leave the graph."""
        return super().load(x)


class GraphForEveryBatch(Correct):
    """A table of plans is indexed by the number of rows, which becomes a constant of the graph."""

    compiles = True
    caught_by = CAUGHT
    plans = tuple(range(4096))

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Look the number up."""
        return super().load(x) if self.plans[x.numel() // x.shape[-1]] >= 0 else x


class EpsWidensTheGraph(Correct):
    """Compiled, a number of Python is a double: with eps in the sum the mean is no longer in fp32."""

    compiles = True
    caught_by = CAUGHT

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Add in float64 where the call is compiled."""
        if not torch.compiler.is_compiling():
            return super().inverse_rms(grouped, eps)
        return torch.rsqrt(grouped.double().pow(2).mean(-1, keepdim=True) + eps).float()


class DecomposedElsewhere(Correct):
    """Compiled, the norm is decomposed into steps that round at another place than the kernel."""

    compiles = True
    caught_by = CAUGHT

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Round to the weight's dtype where the call is compiled."""
        return super().weigh(y.to(weight.dtype) if torch.compiler.is_compiling() else y, weight, group)


class NeverCalledWhenCompiled(Correct):
    """Compiled, the result is allocated and the kernel that fills it is dropped."""

    compiles = True
    caught_by = CAUGHT

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return zeros where the call is compiled."""
        return torch.zeros(x.shape, dtype=x.dtype) if torch.compiler.is_compiling() else super().store(y, x)


@torch.library.custom_op("conformance_fakes::fill", mutates_args=())
def fill(out: torch.Tensor, y: torch.Tensor) -> None:
    """Write into the first argument, which the schema does not say."""
    out.copy_(y)


@fill.register_fake
def _(out: torch.Tensor, y: torch.Tensor) -> None:
    """Return what the operator returns."""


class MutationUndeclared(Correct):
    """An operator writes into its argument and does not declare it: the compiler drops the call."""

    compiles = True
    caught_by = CAUGHT

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fill a fresh tensor by the operator."""
        out = torch.zeros(x.shape, dtype=x.dtype)
        fill(out, y)
        return out


@torch.library.custom_op("conformance_fakes::rounded", mutates_args=())
def rounded(y: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result in the dtype of the second argument, and the one before."""
    return y.to(like.dtype, copy=True, memory_format=torch.contiguous_format), y.clone()


@rounded.register_fake
def _(y: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor]:
    """Describe one of two results."""
    return (torch.empty_like(like),)


class DescribedWrongly(Correct):
    """The operator returns two tensors, its description for the compiler one."""

    compiles = True
    caught_by = CAUGHT

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round by the operator."""
        out: torch.Tensor = rounded(y, x)[0]
        return out


class ArgumentsShiftedWhenCompiled(Correct):
    """Compiled, a missing optional tensor is left out of the positions, and eps stands in its place."""

    compiles = True
    caught_by = CAUGHT

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Fail without a gate."""
        if gate is None and torch.compiler.is_compiling():
            raise AttributeError("'float' object has no attribute 'size'")
        return super().rms_norm_gated(x, gate, weight, **flags)


class SizeOneKeptWhenCompiled(Correct):
    """Compiled, the reduction of rows of one column is left out: every number is divided by itself alone."""

    compiles = True
    caught_by = CAUGHT

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Return the numbers of a row of one column."""
        single = torch.compiler.is_compiling() and grouped.shape[-1] == 1
        return grouped.abs() if single else super().mean_square(grouped)
