"""Rows on which a module is compared before it is taken over, and the formulas that the comparison tells apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from conformance.package.calls.tensors import DEVICE, values
from conformance.selftest.every import every
from normkernels import GemmaRMSNorm, InvalidCall, RMSNorm, RMSNormGated, from_module, swap

EPS = 1e-4
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
}


def normalised(x: torch.Tensor, width: int) -> torch.Tensor:
    """Return each group of columns by the root of its mean square, in float32."""
    groups = x.float().view(*x.shape[:-1], -1, width)
    return (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + EPS)).flatten(-2)


class Foreign(nn.Module):
    """A norm as other libraries write it, which keeps what it is given; its factors are ``centre + weight``."""

    def __init__(self, n: int, centre: float = 0.0, rounding: str = "fp32") -> None:
        """Make a weight of ones."""
        super().__init__()
        self.eps, self.centre, self.rounding = EPS, centre, rounding
        self.weight = nn.Parameter(torch.ones(n))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> Any:
        """Return the norm."""
        self.seen.append(x.detach())
        y = normalised(x, x.shape[-1])
        if self.rounding == "hf":
            return self.weight * y.to(x.dtype)
        return (y * (self.centre + self.weight.float())).to(x.dtype)


class ForeignGated(nn.Module):
    """A gated norm as other libraries write it, with groups of ``width``, and attributes that may say so."""

    def __init__(self, n: int, width: int, rounding: str, activation: str, *, first: bool, **said: int) -> None:
        """Make a weight of ones."""
        super().__init__()
        self.eps, self.width, self.rounding, self.first = EPS, width, rounding, first
        self.act = ACTIVATIONS[activation]
        self.weight = nn.Parameter(torch.ones(n))
        for name, value in said.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Return the norm, gated after it or before."""
        turned = self.act(gate.float())
        y = normalised(x if self.first else x.float() * turned, self.width)
        y = self.weight * y.to(x.dtype) if self.rounding == "hf" else y * self.weight.float()
        return (y * turned if self.first else y).to(x.dtype)


class Changed(Foreign):
    """A norm whose results are changed by a function."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        """Make a norm of 64 columns."""
        super().__init__(64)
        self.change = change

    def forward(self, x: torch.Tensor) -> Any:
        """Return the changed norm."""
        return self.change(super().forward(x))


class Bare(nn.Module):
    """A norm of any width, without a weight."""

    eps = EPS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm."""
        return normalised(x, x.shape[-1]).to(x.dtype)


class BareGated(Bare):
    """A gated norm without a weight, which no norm of the package is."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # two tensors
        """Return the norm, gated."""
        return (super().forward(x) * gate.sigmoid()).to(x.dtype)


def negated(share: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that negates one element of ``share``."""

    def change(y: torch.Tensor) -> torch.Tensor:
        sign = torch.ones(y.numel(), dtype=y.dtype)
        sign[::share] = -1
        return y * sign.view_as(y)

    return change


@every("n", [1, 3, 64, 4095, 4096, 5000])
def test_few_rows_show_the_arithmetic_and_eps(n: int) -> None:
    """There are 4096 elements and one row more; every other row is as small as eps, and the rest are not."""
    norm = Foreign(n)
    from_module(norm)
    (x,) = norm.seen
    squares = x.double().square().mean(-1)

    assert torch.bfloat16 == x.dtype
    assert (len(x) - 2) * n < 4096 <= (len(x) - 1) * n
    assert EPS / 2 < squares[::2].mean() < 2 * EPS
    assert 1 / 2 < squares[1::2].mean() < 2


def test_the_comparison_draws_its_own_numbers() -> None:
    """They are the same each time, on the CPU; those of the caller go on as if nothing had been drawn."""
    norm, before = Foreign(64), torch.get_rng_state()
    from_module(norm)
    with torch.device("meta"):
        from_module(norm)

    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*norm.seen)


@pytest.mark.parametrize("rounding", ["fp32", "hf"])
def test_the_rounding_of_a_norm_is_recognised(rounding: str) -> None:
    """A norm that rounds before the weight is another one than a norm that rounds once."""
    taken = from_module(Foreign(64, rounding=rounding))

    assert isinstance(taken, RMSNorm)
    assert rounding == taken.rounding


def test_a_weight_around_zero_is_recognised() -> None:
    """Gemma's kind of norm is taken over as such."""
    assert isinstance(from_module(Foreign(64, centre=1.0)), GemmaRMSNorm)


# Width of groups of 64 columns, and the attributes that say so.
GROUPS: dict[str, tuple[int, dict[str, int]]] = {
    "whole rows": (64, {}),
    "their number": (32, {"n_groups": 2}),
    "their width": (16, {"group_size": 16}),
}


@every("activation", ACTIVATIONS)
@every("first", [True, False])
@every("rounding", ["fp32", "hf"])
@every("groups", GROUPS)
def test_the_flags_of_a_gated_norm_are_recognised(
    groups: str, rounding: str, activation: str, *, first: bool
) -> None:
    """Each order, activation, rounding and way to tell the groups is its own norm."""
    width, said = GROUPS[groups]
    taken = from_module(ForeignGated(64, width, rounding, activation, first=first, **said))

    assert isinstance(taken, RMSNormGated)
    assert (width, rounding, activation, first) == (
        taken.group_size,
        taken.rounding,
        taken.activation,
        taken.norm_before_gate,
    )


def test_one_result_of_a_hundred_may_differ() -> None:
    """Two right norms may differ in one element of a thousand; one of eighty is another formula."""
    from_module(Changed(negated(128)))
    with pytest.raises(InvalidCall, match="computes what no norm of normkernels computes"):
        from_module(Changed(negated(80)))


@every(
    "module",
    [
        pytest.param(Changed(lambda y: (y, y)), id="two results"),
        pytest.param(Changed(lambda y: y.float()), id="another dtype"),
        pytest.param(Changed(lambda y: y[None]), id="another rank"),
        pytest.param(Changed(lambda _: None), id="no result"),
    ],
)
def test_results_of_another_form_are_refused(module: nn.Module) -> None:
    """The numbers alone do not make a norm: it returns one tensor, in x's shape and dtype."""
    with pytest.raises(InvalidCall, match="computes what no norm of normkernels computes"):
        from_module(module)


@every("eps", [0.0, -1e-6, float("nan"), 1, None])
def test_an_eps_must_be_a_number_above_zero(eps: object) -> None:
    """An integer is none: it is another attribute of this name."""
    norm: Any = Foreign(64)
    norm.eps = eps
    with pytest.raises(InvalidCall, match=f"has eps={eps}, must have a number above zero"):
        from_module(norm)


class Special(nn.Parameter):
    """A weight that may mean something else, such as a shard."""


def test_a_weight_is_a_plain_parameter() -> None:
    """A weight of another type would be read as it is not meant."""
    norm: Any = Foreign(64)
    norm.weight = Special(torch.ones(64))
    with pytest.raises(InvalidCall, match=r"has a Special of shape \(64,\) as weight, must have a plain vector"):
        from_module(norm)


def test_a_weight_is_no_buffer() -> None:
    """A buffer would be left behind: the norm that replaces its module would have no weight."""
    norm: Any = Foreign(64)
    del norm.weight
    norm.register_buffer("weight", torch.ones(64))
    with pytest.raises(InvalidCall, match="has a buffer as weight, must have a weight alone, or none"):
        from_module(norm)


def test_a_gated_norm_has_a_weight() -> None:
    """Without a weight no gate is known, and the message shows what the module takes."""
    with pytest.raises(InvalidCall, match=r"takes \(x, gate\), must take x, or x and a gate"):
        from_module(BareGated())


def test_a_norm_of_no_columns_is_refused() -> None:
    """There is nothing to compare, and the refusal is no other error."""
    with pytest.raises(InvalidCall, match="from_module: module is a Foreign that "):
        from_module(Foreign(0))


def test_a_norm_without_a_weight_takes_any_width() -> None:
    """It says nothing of its width; a norm with a weight has that of the weight."""
    bare = from_module(Bare()).to(DEVICE)
    for width in (32, 96):
        assert (3, width) == bare(values("x", 3, width)).shape
    with pytest.raises(InvalidCall, match="must have 64 columns, hidden_size"):
        from_module(Foreign(64)).to(DEVICE)(values("x", 3, 96))


def test_norms_of_the_package_stay() -> None:
    """A swap neither replaces nor reports them."""
    swapped = swap(nn.Sequential(RMSNorm(64), GemmaRMSNorm(64), RMSNormGated(64)))

    assert ({}, {}) == (swapped.replaced, swapped.unknown)
