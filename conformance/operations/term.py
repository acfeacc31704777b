"""Terms of a formula whose loss could go unnoticed, and ways to remove them.

A case in which a term makes no difference is no evidence that an implementation has the term: eps is invisible
next to large values, and so is a missing last column among many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from conformance.cases.case import Case, Flag

Values = Mapping[str, torch.Tensor]  # values of a case's tensors, by name
# The call without the term, or None where the call does not have it.
Dropped = Callable[[Case, Values], tuple[Case, Values] | None]


@dataclass(frozen=True, slots=True)
class Term:
    """A term of a formula, whose loss must show in one of ``outputs`` (empty: any).

    ``elsewhere``: the loss must show outside the last column. It shows in a plain call at these ``levels``, once
    ``made`` has set the call's values and flags.
    """

    name: str
    dropped: Dropped
    outputs: tuple[str, ...] = ()
    elsewhere: bool = False
    levels: Mapping[str, str] = field(default_factory=dict)
    made: Callable[[Case], Case] | None = None


def lacking(part: str, *, value: Flag = False) -> Dropped:
    """Tell the formula by a flag that no call has to leave a part out: no value of an argument does."""
    return lambda case, values: (replace(case, flags=(*case.flags, (part, value))), values)


def drawn_as(name: str, profile: str) -> Callable[[Case], Case]:
    """Return how a call gets a tensor of another profile."""

    def made(case: Case) -> Case:
        return case.with_tensor(name, replace(dict(case.tensors)[name], values=profile))

    return made


def without_flag(name: str, value: object) -> Dropped:
    """Set a flag to the value at which it does nothing."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        if name not in dict(case.flags) or case.flag(name) == value:
            return None
        return case.with_flag(name, value), values  # type: ignore[arg-type]  # the operation's own plain values

    return dropped


def without_tensor(name: str) -> Dropped:
    """Leave a tensor out."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        if case.tensor(name) is None:
            return None
        return case.with_tensor(name, None), {other: tensor for other, tensor in values.items() if other != name}

    return dropped


def with_ones(name: str) -> Dropped:
    """Put ones in the place of a tensor."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        return None if case.tensor(name) is None else (case, {**values, name: torch.ones_like(values[name])})

    return dropped


def without_last_column(*names: str) -> Dropped:
    """Zero the last column of the tensors, as if a sum stopped before it."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        if case.tensors[0][1].shape[-1] == 1:
            return None
        zeroed = {name: values[name].clone() for name in names if name in values}
        for tensor in zeroed.values():
            tensor[..., -1] = 0
        return case, {**values, **zeroed}

    return dropped
