"""Sizes of calls on heads of q and k: which are drawn, and which a case has."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from conformance.cases.case import Case, Flag, TensorSpec
from conformance.cases.factors import Assignment, Scope, rows, usual

# sizes of a head, and half of its rotated part. Few, because a kernel may be compiled for each
DIMS = {
    "quarter": ((256, 32),),
    "whole": ((128, 64), (64, 32)),
    "part": ((128, 32), (80, 16), (96, 24)),
    "odd": ((7, 3), (13, 5), (192, 96), (2, 1)),
}
# heads of q and of k on one rank; eighteen, because kernels rotate eight at a time
HEADS = {
    "grouped": ((6, 2), (4, 1), (18, 2)),
    "equal": ((2, 2), (3, 3)),
    "one": ((1, 1),),
    "fewer": ((1, 3), (2, 5)),
}
CACHES = (64, 3, 17, 1000)
# rows of a real model's tables, fewer than its context is long
MODEL_CACHE = 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a call. ``half`` is the number of frequencies, ``cache`` the rows of cos and sin."""

    tokens: int
    heads: int
    k_heads: int
    head_dim: int
    half: int
    cache: int
    rank: int

    @classmethod
    def of(cls, case: Case) -> Sizes:
        """Return the sizes of a case."""
        q, k, cos = (spec_of(case, name) for name in ("q", "k", "cos"))
        head_dim = case.flag("head_dim") or q.shape[-1]
        heads, k_heads = (spec.shape[-1] // head_dim if len(spec.shape) == 2 else spec.shape[1] for spec in (q, k))
        return cls(q.shape[0], heads, k_heads, head_dim, cos.shape[1], cos.shape[0], len(q.shape))

    @property
    def projection(self) -> int:
        """Return the columns of a projection to q, k and v."""
        return (self.heads + 2 * self.k_heads) * self.head_dim


def spec_of(case: Case, name: str) -> TensorSpec:
    """Return the spec of a tensor that every call has."""
    spec = case.tensor(name)
    assert spec is not None
    return spec


@dataclass(frozen=True, slots=True)
class Sized:
    """An argument that is no tensor, and follows from a level and the number of frequencies.

    ``level`` reads the level of a value.
    """

    name: str
    levels: tuple[str, ...]
    value: Callable[[str, int], Flag]
    level: Callable[[Flag], str]

    def read(self, case: Case) -> str:
        """Return the level that a case has."""
        return self.level(case.flag(self.name))


def drawn(assignment: Assignment, rng: random.Random, scope: Scope) -> Sizes:
    """Return sizes of the assignment's levels."""
    head_dim, half = scope.compiled(rng).choice(_dims(assignment["dims"], scope))
    heads, k_heads = rng.choice(HEADS[assignment["heads"]])
    tokens = rows(assignment["rows"], rng, scope, (heads + k_heads) * head_dim)
    return Sizes(tokens, heads, k_heads, head_dim, half, rng.choice(CACHES), int(assignment["rank"]))


def _dims(level: str, scope: Scope) -> tuple[tuple[int, int], ...]:
    """Return pairs of head size and half the rotated part: of the level if any of them are taken."""
    exact = dict(scope.exact).get("columns")
    if exact is not None:
        return ((exact, max(1, exact // 4)),)
    every = [*DIMS[level], *(pair for pairs in DIMS.values() for pair in pairs)]
    fits = scope.taken.fits
    taken = [pair for pair in every if fits("head_dim", pair[0]) and fits("rotary_dim", 2 * pair[1])]
    of_level = tuple(pair for pair in taken if pair in DIMS[level])
    if of_level or taken:
        return of_level or tuple(taken)
    heads = usual(scope.taken.numbers("head_dim") or (DIMS[level][0][0],))
    rotary = usual(scope.taken.numbers("rotary_dim") or tuple(heads))
    return tuple((size, r // 2) for size in heads for r in rotary if 2 <= r <= size) or DIMS[level]


def read_dims(case: Case) -> str:
    """Return the level of the sizes of a head."""
    sizes = Sizes.of(case)
    for level, pairs in DIMS.items():
        if (sizes.head_dim, sizes.half) in pairs:
            return level
    return {2: "whole", 8: "quarter"}.get(sizes.head_dim // max(sizes.half, 1), "part")


def read_heads(case: Case) -> str:
    """Return the level of the numbers of heads."""
    sizes = Sizes.of(case)
    if sizes.heads == sizes.k_heads:
        return "one" if sizes.heads == 1 else "equal"
    return "grouped" if sizes.heads > sizes.k_heads else "fewer"
