"""Fakes whose results are right and whose gradients are not: cut off, of too few rows, of memory read wrongly."""

from __future__ import annotations

from typing import Any

import torch

from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result


class CorrectGradients(CorrectNorm):
    """A norm whose gradients are torch's own; ``backward`` takes that of y first."""

    differentiable = True

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Have the gradient of y pass through ``backward``."""
        out = super().store(y, x)
        if out.requires_grad:
            out = out.clone()
            out.register_hook(self.backward)  # type: ignore[no-untyped-call]  # torch's own
        return out

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient as it is."""
        return gradient


class GradientCut(CorrectGradients):
    """A kernel that autograd does not see: its results require no gradient."""

    caught_by = ("gradient",)

    def norm(self, x: torch.Tensor, *rest: Any) -> Result:
        """Compute without autograd."""
        with torch.no_grad():
            return super().norm(x, *rest)


class WeightNeverTrained(CorrectGradients):
    """The backward returns a gradient of x, and zeros for the weight."""

    caught_by = ("gradient",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Weigh by numbers that come from the weight, and do not lead back to it."""
        fixed = None if weight is None else weight.detach() + 0 * weight
        return super().weigh(y, fixed, offset)


class LastRowsNotInTheWeightsGradient(CorrectGradients):
    """The backward sums the weight's gradient over whole blocks of rows: the rows behind the last one are lost."""

    caught_by = ("gradient",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Let blocks of four rows, of which the last one is not whole, lead back to the weight."""
        rows = y.reshape(-1, y.shape[-1])
        whole = (len(rows) - 1) // 4 * 4
        last = None if weight is None else weight.detach()
        parts = super().weigh(rows[:whole], weight, offset), super().weigh(rows[whole:], last, offset)
        return torch.cat(parts).reshape(y.shape)


class GradientsReadWithStridesOfResults(CorrectGradients):
    """The backward reads the gradient of its result as if it were contiguous, as the result is."""

    caught_by = ("gradient",)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Read the first numbers in memory."""
        numbers = gradient.untyped_storage().nbytes() // gradient.element_size()
        whole = gradient.as_strided((numbers,), (1,), 0)
        return whole.repeat(-(-gradient.numel() // numbers))[: gradient.numel()].view(gradient.shape)


class ExpandedGradientsRefused(CorrectGradients):
    """The backward asks for a gradient that is contiguous, which that of a sum is not."""

    caught_by = ("gradient",)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """View the gradient as rows."""
        return gradient.view(-1).view(gradient.shape)


class GradientOverwritten(CorrectGradients):
    """The backward computes in the memory of the gradient that it was given, which another one may need."""

    caught_by = ("gradient",)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Halve the gradient where it is, and double what is returned; an expanded one cannot be written."""
        return gradient if 0 in gradient.stride() else 2 * gradient.div_(2)


class BackwardRaises(CorrectGradients):
    """The backward is called with an argument by a name that it does not have."""

    caught_by = ("gradient",)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Say so."""
        raise TypeError("backward() got an unexpected keyword argument 'norm_weight'")


class WeightGradientOfEveryTrial(CorrectGradients):
    """The first backward of a width tries four kernels, each of which adds to the same partial sums."""

    caught_by = ("gradient",)

    def __init__(self) -> None:
        super().__init__()
        self.tuned: set[int] = set()

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Weigh by a copy of the weight, whose gradient is what all trials left."""
        if weight is not None and weight.requires_grad:
            weight = weight.clone()
            weight.register_hook(self.summed)  # type: ignore[no-untyped-call]  # torch's own
        return super().weigh(y, weight, offset)

    def summed(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the sum over the trials, one where the width is known."""
        trials = 1 if len(gradient) in self.tuned else 4
        self.tuned.add(len(gradient))
        return trials * gradient


class KeptWithoutGradients(CorrectGradients):
    """A path is kept by the shape of its first call, whether or not that one needed a gradient."""

    caught_by = ("gradient",)

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[int, ...], bool] = {}

    def norm(self, x: torch.Tensor, *rest: Any) -> Result:
        """Compute as the first call of the shape did."""
        with torch.set_grad_enabled(self.kept.setdefault(tuple(x.shape), x.requires_grad)):
            return super().norm(x, *rest)


class GatedGradientCut(Correct):
    """A kernel of the gated norm that autograd does not see."""

    differentiable = True
    caught_by = ("gradient",)

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **given: Any
    ) -> torch.Tensor:
        """Compute without autograd."""
        with torch.no_grad():
            return super().rms_norm_gated(x, gate, weight, **given)


class _Confused(torch.autograd.Function):
    """The arguments as they are; the gradient of the first for both."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.clone(), gate.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradients[0], gradients[0]


class GateGetsTheGradientOfX(Correct):
    """The backward stores the gradient of x where that of the gate belongs."""

    differentiable = True
    caught_by = ("gradient",)

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **given: Any
    ) -> torch.Tensor:
        """Lead both arguments through the mistake."""
        if gate is not None and gate.shape == x.shape:
            x, gate = _Confused.apply(x, gate)  # type: ignore[no-untyped-call]  # torch's own
        return super().rms_norm_gated(x, gate, weight, **given)
