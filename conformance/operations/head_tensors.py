"""Tensors of a call on heads: q and k of some tokens, positions, tables of cosines and sines, weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from conformance.cases.case import Layout, TensorSpec
from conformance.cases.factors import Assignment, Factors, layout
from conformance.operations import head_mistakes, readers
from conformance.operations.head_sizes import Sizes
from conformance.operations.readers import Reader
from conformance.operations.tensors import VECTORS, Columns, Mistake

HEAD_LAYOUTS = ("contiguous", "row_gap", "offset", "step", "transposed", "swapped", "expanded", "slice")
TABLE_LAYOUTS = ("contiguous", "shared", "row_gap", "offset", "step", "transposed")


@dataclass(frozen=True, slots=True)
class HeadTensor:
    """One tensor of a call. ``layouts`` are the levels of the factor of its layout."""

    name: str
    layouts: tuple[str, ...] = VECTORS

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape in a call of these sizes."""
        raise NotImplementedError

    def place(self, level: str, sizes: Sizes, rng: random.Random) -> Layout:
        """Return the layout of a level, with an amount drawn for it."""
        return layout(level, rng)

    def mistakes(self) -> dict[str, Mistake]:
        """Return the ways in which a call can be wrong in this tensor; the first of a pair has those of both."""
        return {}


@dataclass(frozen=True, slots=True)
class Heads(HeadTensor):
    """q or k: ``(tokens, heads, head_dim)``, or ``(tokens, heads * head_dim)`` where ``head_dim`` is given.

    As ``slice`` it is a part of one projection to q, k and v.
    """

    layouts: tuple[str, ...] = HEAD_LAYOUTS

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape of q, or that of k, which may have another number of heads."""
        heads = sizes.k_heads if self.name == "k" else sizes.heads
        if sizes.rank == 3:
            return sizes.tokens, heads, sizes.head_dim
        return sizes.tokens, heads * sizes.head_dim

    def place(self, level: str, sizes: Sizes, rng: random.Random) -> Layout:
        """Return the layout of a level; the part of a projection follows from the sizes."""
        return self.sliced(sizes) if level == "slice" else layout(level, rng)

    def sliced(self, sizes: Sizes) -> Layout:
        """Return the part of a projection: q comes first, then k."""
        start = sizes.heads * sizes.head_dim if self.name == "k" else 0
        return Layout("slice", start, sizes.projection)

    def mistakes(self) -> dict[str, Mistake]:
        """Return what is wrong with q and k, for q."""
        return head_mistakes.HEADS if self.name == "q" else {}


@dataclass(frozen=True, slots=True)
class Table(HeadTensor):
    """cos or sin: a row a position, or a row a token where a call has no positions.

    As ``shared`` it is a half of one cache, so that the stride of rows is free.
    """

    layouts: tuple[str, ...] = TABLE_LAYOUTS

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the rows of the cache, and a column for each frequency."""
        return sizes.cache, sizes.half

    def place(self, level: str, sizes: Sizes, rng: random.Random) -> Layout:
        """Return the layout of a level; the sines come after the cosines."""
        drawn = layout(level, rng)
        return self.halved() if level == "shared" else drawn

    def halved(self) -> Layout:
        """Return the half of a cache."""
        return Layout("shared", 1 if self.name == "sin" else 0)

    def mistakes(self) -> dict[str, Mistake]:
        """Return what is wrong with the tables, for cos."""
        return head_mistakes.TABLES if self.name == "cos" else {}


@dataclass(frozen=True, slots=True)
class HeadWeight(HeadTensor):
    """A vector with a number for every column of a head, the same for all heads: a parameter of the model."""

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the size of a head."""
        return (sizes.head_dim,)

    def mistakes(self) -> dict[str, Mistake]:
        """Return what is wrong with any such vector."""
        return Columns(self.name).mistakes("q")


@dataclass(frozen=True, slots=True)
class Positions(HeadTensor):
    """The row of the tables for every token, in integers; None where the tables have a row a token.

    ``fewest``: rows of a table that positions of any profile need.
    """

    fewest: int = 1

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the number of tokens."""
        return (sizes.tokens,)

    @property
    def factors(self) -> Factors:
        """Return the factors of positions with their levels; ``positions`` is among them."""
        return {"positions": ("int64", "int32", "none")}

    @property
    def readers(self) -> Mapping[str, Reader]:
        """Return how the level of each factor is read from a case."""
        return {"positions": readers.dtype(self.name, self.factors["positions"])}

    def drawn(self, assignment: Assignment, sizes: Sizes, place: Layout) -> TensorSpec | None:
        """Return the tensor with the assignment's levels, or None where a call does not pass it."""
        level = assignment["positions"]
        return None if level == "none" else TensorSpec(self.shape(sizes), level, place, f"positions<{sizes.cache}")

    def of_a_model(self, sizes: Sizes) -> TensorSpec:
        """Return the tensor of a real model's call."""
        return TensorSpec(self.shape(sizes), "int64", values=f"positions<{sizes.cache}")

    def resized(self, spec: TensorSpec, sizes: Sizes) -> TensorSpec:
        """Return the tensor in a call of other sizes."""
        profile, _, _ = spec.values.partition("<")
        return replace(spec, shape=(*spec.shape[:-1], *self.shape(sizes)[-1:]), values=f"{profile}<{sizes.cache}")

    def simpler(self, spec: TensorSpec) -> Iterator[TensorSpec | None]:
        """Yield tensors to try instead of one; None leaves it out."""
        yield None

    def mistakes(self) -> dict[str, Mistake]:
        """Return what is wrong with positions."""
        return head_mistakes.POSITIONS | head_mistakes.NO_POSITIONS
