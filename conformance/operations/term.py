"""What a formula could lose without anyone noticing, and how to lose it.

A case in which a term makes no difference is no evidence that an implementation has the term: eps is invisible
beside large values, a missing last column beside many others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from conformance.cases.case import Case

Values = Mapping[str, torch.Tensor]  # of a case's tensors, by name
# The call without the term, or None where it has none to lose.
Dropped = Callable[[Case, Values], tuple[Case, Values] | None]


@dataclass(frozen=True, slots=True)
class Term:
    """One term: its loss must show in one of ``outputs`` (empty: any), ``elsewhere`` than in the last column.

    The loss shows in a plain call at these ``levels``, if ``made`` gives it the values and flags for that.
    """

    name: str
    dropped: Dropped
    outputs: tuple[str, ...] = ()
    elsewhere: bool = False
    levels: Mapping[str, str] = field(default_factory=dict)
    made: Callable[[Case], Case] | None = None


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
    """Zero the last column of the tensors, as a sum that stops before it sees them."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        if case.tensors[0][1].shape[-1] == 1:
            return None
        zeroed = {name: values[name].clone() for name in names if name in values}
        for tensor in zeroed.values():
            tensor[..., -1] = 0
        return case, {**values, **zeroed}

    return dropped
