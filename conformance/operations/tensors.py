"""Tensors of a call on rows: what each is, and the mistakes that can be made with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from conformance.cases.case import BESIDE, LAYOUTS
from conformance.cases.factors import DTYPES
from conformance.operations.operation import Arguments

VECTORS = ("contiguous", "offset", "step", "expanded")  # layouts of a vector that differ from each other

Mistake = Callable[[Arguments], Arguments]
Wrong = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # the right tensor, the first one -> a wrong one


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a call.

    ``dtypes`` are the levels of the factor that is named after the tensor, the plainest first: ``same`` (the first
    tensor's dtype), ``other`` (any other float), the name of a dtype, or ``none`` (not passed). Without levels it
    is always passed in the first tensor's dtype. ``layouts`` are the levels of the factor of its layout;
    ``keyword``: it is passed by name.
    """

    name: str
    dtypes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = LAYOUTS
    keyword: bool = False

    @property
    def optional(self) -> bool:
        """Return whether calls may leave the tensor out."""
        return "none" in self.dtypes

    def shape(self, first: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that goes with the first tensor's."""
        raise NotImplementedError

    def mistakes(self, first: str) -> dict[str, Mistake]:
        """Return the ways in which a call can be wrong in this tensor alone; ``first`` names the first tensor.

        Where a call does not pass the tensor, a mistake passes a wrong one.
        """
        return {
            f"{self.name} {words}": partial(self._wrong, first, wrong) for words, wrong in self.wrongs().items()
        }

    def wrongs(self) -> dict[str, Wrong]:
        """Return tensors to pass in place of this one, in words that follow its name."""
        raise NotImplementedError

    def _wrong(self, first: str, wrong: Wrong, call: Arguments) -> Arguments:
        rows: torch.Tensor = call[first]
        given = call[self.name] if call[self.name] is not None else rows.new_ones(self.shape(tuple(rows.shape)))
        return {**call, self.name: wrong(given, rows)}

    def dtype(self, level: str, first: str, rng: random.Random) -> str:
        """Return the dtype of a level, next to a first tensor of dtype ``first``."""
        return first if level == "same" else other_dtype(first, rng) if level == "other" else level


@dataclass(frozen=True, slots=True)
class Rows(Tensor):
    """The first tensor, such as x: rows of columns, with any leading dimensions."""

    def shape(self, first: tuple[int, ...]) -> tuple[int, ...]:
        """Return the same shape."""
        return first

    def mistakes(self, first: str) -> dict[str, Mistake]:
        """Return another dtype, and no dimension: with it goes that of every tensor in the same shape."""
        name = self.name

        def a_scalar(call: Arguments) -> Arguments:
            scalar, given = call[name].new_ones(()), call[name].shape
            return {
                other: scalar if isinstance(value, torch.Tensor) and value.shape == given else value
                for other, value in call.items()
            }

        return {**Tensor.mistakes(self, first), f"{name} without a dimension": a_scalar}

    def wrongs(self) -> dict[str, Wrong]:
        """Return another dtype, and another layout."""
        return {"of integers": _integers, "that is sparse": lambda given, _: given.to_sparse()}


@dataclass(frozen=True, slots=True)
class Beside(Rows):
    """A tensor in the shape of the first one, such as a residual or a gate, which may be the first one itself."""

    layouts: tuple[str, ...] = BESIDE

    def mistakes(self, first: str) -> dict[str, Mistake]:
        """Return what is wrong with this tensor next to a right first one."""
        return Tensor.mistakes(self, first)

    def wrongs(self) -> dict[str, Wrong]:
        """Return another shape, a shape that would broadcast, another dtype, and another device."""

        def broadcasts(given: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return given.reshape(-1, given.shape[-1])[0].expand(*(1,) * (given.dim() - 1), -1)

        return {
            "of another shape": lambda given, _: given[..., :-1],
            "that would broadcast": broadcasts,
            "of integers": _integers,
            "on another device": lambda given, _: elsewhere(given),
        }


@dataclass(frozen=True, slots=True)
class Columns(Tensor):
    """A vector with a number for every column, such as a weight or a bias: a parameter of the model."""

    layouts: tuple[str, ...] = VECTORS

    def shape(self, first: tuple[int, ...]) -> tuple[int, ...]:
        """Return the last dimension."""
        return first[-1:]

    def wrongs(self) -> dict[str, Wrong]:
        """Return other lengths, a number for every element, another dtype, and another device."""
        return {
            "too long": lambda given, _: torch.cat([given, given]),
            "of one element": lambda given, _: given[:1],
            "with rows": lambda given, rows: rows.to(given.dtype),
            "of integers": _integers,
            "on another device": lambda given, _: elsewhere(given),
        }


def elsewhere(given: torch.Tensor) -> torch.Tensor:
    """Return a tensor as if it had been left on the CPU; one of the CPU as on the meta device."""
    return given.to("meta" if given.is_cpu else "cpu")


def _integers(given: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(given, dtype=torch.int32)


def other_dtype(dtype: str, rng: random.Random) -> str:
    """Return one of the dtypes that are not ``dtype``."""
    return rng.choice([name for name in DTYPES if name != dtype])
