"""Fakes that compute another function: gate, groups, weight, eps, count."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from conformance.selftest.fakes.correct import Correct

EVERYWHERE: tuple[str, ...] = ("values", "layout")


class GateOrderIgnored(Correct):
    """Always normalises first: the flag of the gate's place is lost."""

    caught_by = EVERYWHERE

    def rms_norm_gated(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
    ) -> torch.Tensor:
        """Gate last, whatever was asked for."""
        return super().rms_norm_gated(
            x, gate, weight, eps=eps, group_size=group_size, norm_before_gate=True, activation=activation
        )


class ActivationIgnored(Correct):
    """Multiplies with the gate itself: no activation."""

    caught_by = EVERYWHERE

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Only convert."""
        return gate.float()


class ActivationsSwapped(Correct):
    """Silu and sigmoid are swapped."""

    caught_by = EVERYWHERE

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Take the other branch."""
        return F.silu(gate.float()) if activation == "sigmoid" else torch.sigmoid(gate.float())


class SigmoidIsSilu(Correct):
    """The constructor's activation never reaches the kernel, which knows silu alone."""

    caught_by = EVERYWHERE

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Apply silu for every name."""
        return F.silu(gate.float())


class NoGateIsZeros(Correct):
    """A missing gate is taken for a gate of zeros: the result vanishes."""

    caught_by = EVERYWHERE

    def rms_norm_gated(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
    ) -> torch.Tensor:
        """Make up a gate."""
        flags = {"eps": eps, "group_size": group_size, "norm_before_gate": norm_before_gate}
        made_up = torch.zeros_like(x) if gate is None else gate
        return super().rms_norm_gated(x, made_up, weight, activation=activation, **flags)  # type: ignore[arg-type]


class GroupIgnored(Correct):
    """Statistics run over the whole row although groups were asked for; one group hides the mistake."""

    caught_by = EVERYWHERE

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Use one group for the row."""
        return super().normalise(stream, stream.shape[-1], eps, x)


class StatisticsOfFirstGroup(Correct):
    """Every group is divided by the first group's root mean square: an index of the group is missing."""

    caught_by = EVERYWHERE

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the first group's factor for all."""
        return super().inverse_rms(grouped, eps)[..., :1, :]


class WeightPerGroup(Correct):
    """The weight is indexed inside the group: every group gets the weights of the first."""

    caught_by = EVERYWHERE

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Repeat the first group's weights."""
        return y * weight[:group].float().repeat(y.shape[-1] // group)


class WeightSkipped(Correct):
    """The weight is never applied: a fresh parameter of ones stands in its place."""

    caught_by = EVERYWHERE

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Leave y alone."""
        return y


class WeightRolled(Correct):
    """Every column gets its neighbour's weight."""

    caught_by = EVERYWHERE

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Shift by one."""
        return y * weight.float().roll(1)


class WeightTwice(Correct):
    """The weight is applied by the norm and again by its caller."""

    caught_by = EVERYWHERE

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply twice."""
        return y * weight.float() * weight.float()


class WeightPlusOne(Correct):
    """The offset of Gemma's norm is added to a weight that has none."""

    caught_by = EVERYWHERE

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply by one plus the weight."""
        return y * (1.0 + weight.float())


class EpsOutsideTheRoot(Correct):
    """Adds eps to the root instead of the variance: seen on small rows alone."""

    caught_by = EVERYWHERE

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / (sqrt(mean) + eps)``."""
        return 1.0 / (self.mean_square(grouped).sqrt() + eps)


class EpsHardCoded(Correct):
    """eps is the kernel's own 1e-5, whatever the model passes."""

    caught_by = EVERYWHERE

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Ignore the argument."""
        return super().inverse_rms(grouped, 1e-5)


class EpsTwice(Correct):
    """Adds eps in the mean and again under the root."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Add a millionth to the mean already."""
        return super().mean_square(grouped) + 1e-6


class OneLess(Correct):
    """Divides by n - 1, as an unbiased variance would."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Return the sum over one less than the columns."""
        return grouped.pow(2).sum(-1, keepdim=True) / max(grouped.shape[-1] - 1, 1)


class MeanSubtracted(Correct):
    """A LayerNorm: the mean is taken off before the variance."""

    caught_by = EVERYWHERE

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Return the variance about the mean."""
        return grouped.var(-1, keepdim=True, unbiased=False)


class UnknownActivationUngated(Correct):
    """An unknown activation falls through every branch and the gate is silently dropped."""

    caught_by = ("errors",)

    def check(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        group_size: int | None,
        activation: str,
    ) -> None:
        """Do not look at the activation."""
        super().check(x, gate, weight, group_size, "silu")

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Have no last branch."""
        known = activation in {"silu", "swish", "sigmoid"}
        return super().activate(gate, activation, x) if known else torch.ones_like(x, dtype=torch.float32)


class UnknownActivationLookedUp(UnknownActivationUngated):
    """No check knows the activations: a table is asked for the function, and does not have an unknown one."""

    def activate(self, gate: torch.Tensor, activation: str, x: torch.Tensor) -> torch.Tensor:
        """Look the function up."""
        act = {"silu": F.silu(gate.float()), "swish": F.silu(gate.float()), "sigmoid": torch.sigmoid(gate.float())}
        return act[activation]


class GateBroadcasts(Correct):
    """A gate of one row is broadcast, which a kernel would have read past its end."""

    caught_by = ("errors",)

    def check(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        group_size: int | None,
        activation: str,
    ) -> None:
        """Do not compare shapes, let torch broadcast."""
        super().check(x, None, weight, group_size, activation)


class GroupRoundedDown(Correct):
    """A group size that does not divide the row: the last columns belong to no group and pass through."""

    caught_by = ("errors",)

    def check(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        group_size: int | None,
        activation: str,
    ) -> None:
        """Ask for a positive size alone."""
        super().check(x, gate, weight, None if group_size and group_size > 0 else group_size, activation)

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Normalise whole groups and append the rest."""
        whole = stream.shape[-1] - stream.shape[-1] % group
        done = super().normalise(stream[..., :whole], group, eps, x)
        return torch.cat([done, stream[..., whole:]], -1)
