"""Calls of ``mrope``: drawn ones, real models', empty ones, and simpler ones to replace a failing one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from conformance.cases.case import Case, Flag, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Scope, layout, rows, usual
from conformance.cases.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.operations import readers
from conformance.operations.readers import Reader
from conformance.operations.tensors import other_dtype

AXES = 3
Sections = tuple[int, int, int]

# profiles of q, k, cos and sin by level; the ordinary ones first
VALUES = {
    "normal": ("normal", "normal", "cos", "sin"),
    "rows": ("rows", "rows", "cos", "sin"),
    "large": ("large", "normal", "cos", "sin"),
    "large_k": ("normal", "large", "cos", "sin"),
    "specials": ("specials", "specials", "cos", "sin"),
    "special_angles": ("normal", "normal", "specials", "specials"),
    "specials_everywhere": ("specials", "normal", "specials", "sin"),
    "subnormal": ("subnormal", "subnormal", "cos", "sin"),
    "huge": ("huge", "huge", "cos", "sin"),
}
ORDINARY = ("normal", "rows", "large", "large_k")

# sizes of a head, and half of its rotated part. Few, because a kernel may be compiled for each
DIMS = {
    "quarter": ((256, 32),),
    "whole": ((128, 64), (64, 32)),
    "part": ((128, 32), (80, 16), (96, 24)),
    "odd": ((7, 3), (13, 5), (192, 96), (2, 1)),
}
# heads of q and of k on one rank
HEADS = {"grouped": ((6, 2), (4, 1)), "equal": ((2, 2), (3, 3)), "one": ((1, 1),), "fewer": ((1, 3), (2, 5))}
CACHES = (64, 3, 17, 1000)
# rows of a real model's tables, fewer than its context is long
MODEL_CACHE = 4096
HEAD_LAYOUTS = ("contiguous", "row_gap", "offset", "step", "transposed", "swapped", "expanded", "slice")

# the profile of positions by level: no two axes equal, two of them, or text before images
TWO_ALIKE = {
    "none": "positions",
    "time_and_height": "time_is_height",
    "time_and_width": "time_is_width",
    "height_and_width": "height_is_width",
    "prompt": "prompt",
}

FACTORS = {
    "cos_layout": ("contiguous", "shared", "row_gap", "offset", "step", "transposed"),
    "dims": tuple(DIMS),
    "dtypes": ("same", "cos_float32", "other_k"),
    "heads": tuple(HEADS),
    "index": ("int64", "int32"),
    "k_layout": HEAD_LAYOUTS,
    "order": ("interleaved", "sectioned"),
    "positions": ("axes", "text"),
    "positions_layout": ("contiguous", "row_gap", "transposed", "expanded", "offset", "step"),
    "q_layout": HEAD_LAYOUTS,
    "rank": ("3", "2"),
    "rows": ("few", "one", "many"),
    "sections": ("even", "uneven", "two", "text"),
    "sin_layout": ("contiguous", "shared", "row_gap", "offset", "step", "transposed"),
    "two_alike": tuple(TWO_ALIKE),
    "values": tuple(VALUES),
}
PLAIN = {name: levels[0] for name, levels in FACTORS.items()}


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

    def shape(self, heads: int) -> tuple[int, ...]:
        """Return the shape of q or k."""
        return (self.tokens, heads, self.head_dim) if self.rank == 3 else (self.tokens, heads * self.head_dim)

    def given(self, case: Case) -> Case:
        """Return the case in these sizes, with sections as even as possible if the frequencies change."""
        half = spec_of(case, "cos").shape[1]
        positions = spec_of(case, "positions")
        table = (self.cache, self.half)
        shapes = {"q": self.shape(self.heads), "k": self.shape(self.k_heads), "cos": table, "sin": table}
        for name, shape in shapes.items():
            case = case.with_tensor(name, replace(spec_of(case, name), shape=shape))
        axes = (*positions.shape[:-1], self.tokens)
        profile, _, _ = positions.values.partition("<")
        case = case.with_tensor("positions", replace(positions, shape=axes, values=f"{profile}<{self.cache}"))
        case = case.with_flag("head_dim", self.head_dim if self.rank == 2 else None)
        return case if half == self.half else case.with_flag("sections", sections("even", self.half))


def spec_of(case: Case, name: str) -> TensorSpec:
    """Return the spec of a tensor; every call has all of them."""
    spec = case.tensor(name)
    assert spec is not None
    return spec


def sections(level: str, half: int) -> Sections:
    """Return the numbers of ``half`` frequencies for t, h and w: as in real models, none for some, all for t."""
    if level == "text":
        return half, 0, 0
    if level == "two":
        return half - half // 3, 0, half // 3
    if level == "uneven":
        return half // 4, (half - half // 4) - (half - half // 4) // 2, (half - half // 4) // 2
    return half - (half + 1) // 3 - half // 3, (half + 1) // 3, half // 3


def complete(assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
    """Return a call with the assignment's levels; sizes, amounts and seed from ``rng``."""
    head_dim, half = scope.compiled(rng).choice(_dims(assignment["dims"], scope))
    heads, k_heads = rng.choice(HEADS[assignment["heads"]])
    tokens = rows(assignment["rows"], rng, scope, (heads + k_heads) * head_dim)
    sizes = Sizes(tokens, heads, k_heads, head_dim, half, rng.choice(CACHES), int(assignment["rank"]))
    q_values, k_values, *angle_values = VALUES[assignment["values"]]
    projection = (heads + 2 * k_heads) * head_dim

    def slice_or(kind: str, start: int) -> Layout:
        return Layout("slice", start, projection) if kind == "slice" else layout(kind, rng)

    q_place = slice_or(assignment["q_layout"], 0)
    k_place = slice_or(assignment["k_layout"], heads * head_dim)
    k_dtype = other_dtype(scope.dtype, rng) if assignment["dtypes"] == "other_k" else scope.dtype
    angle_dtype = scope.dtype if assignment["dtypes"] == "same" else "float32"
    axes = (AXES, tokens) if assignment["positions"] == "axes" else (tokens,)
    positions = layout(assignment["positions_layout"], rng)
    position_values = f"{TWO_ALIKE[assignment['two_alike']]}<{sizes.cache}"
    tensors = [
        ("q", TensorSpec(sizes.shape(heads), scope.dtype, q_place, q_values)),
        ("k", TensorSpec(sizes.shape(k_heads), k_dtype, k_place, k_values)),
        ("positions", TensorSpec(axes, assignment["index"], positions, position_values)),
    ]
    for part, name in enumerate(("cos", "sin")):
        place = layout(assignment[f"{name}_layout"], rng)
        # both halves of one cache
        place = Layout("shared", part) if place.kind == "shared" else place
        tensors.append((name, TensorSpec((sizes.cache, half), angle_dtype, place, angle_values[part])))
    flags: dict[str, Flag] = {
        "head_dim": head_dim if sizes.rank == 2 else None,
        "interleaved": assignment["order"] == "interleaved",
        "sections": sections(assignment["sections"], half),
    }
    return Case("mrope", tuple(tensors), tuple(flags.items()), rng.randrange(2**32))


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


def _read_dims(case: Case) -> str:
    sizes = Sizes.of(case)
    for level, pairs in DIMS.items():
        if (sizes.head_dim, sizes.half) in pairs:
            return level
    return {2: "whole", 8: "quarter"}.get(sizes.head_dim // max(sizes.half, 1), "part")


def _read_dtypes(case: Case) -> str:
    k, cos = (spec_of(case, name).dtype for name in ("k", "cos"))
    return "other_k" if k != case.dtype else "same" if cos == case.dtype else "cos_float32"


def _read_heads(case: Case) -> str:
    sizes = Sizes.of(case)
    if sizes.heads == sizes.k_heads:
        return "one" if sizes.heads == 1 else "equal"
    return "grouped" if sizes.heads > sizes.k_heads else "fewer"


def _read_two_alike(case: Case) -> str | None:
    profile = spec_of(case, "positions").values.partition("<")[0]
    return next((level for level, name in TWO_ALIKE.items() if name == profile), None)


def _read_sections(case: Case) -> str:
    given = case.flag("sections")
    known = (level for level in FACTORS["sections"] if sections(level, sum(given)) == given)
    return next(known, "uneven" if all(given) else "two")


READERS: dict[str, Reader] = {
    "dims": _read_dims,
    "dtypes": _read_dtypes,
    "heads": _read_heads,
    "index": lambda case: spec_of(case, "positions").dtype,
    "order": readers.flag("interleaved", {"interleaved": True, "sectioned": False}),
    "positions": lambda case: "axes" if len(spec_of(case, "positions").shape) == 2 else "text",
    "sections": _read_sections,
    "two_alike": _read_two_alike,
    "values": readers.values(("q", "k", "cos", "sin"), VALUES),
}


def empties(scope: Scope) -> tuple[Case, ...]:
    """Return calls without tokens or heads, with positions on three axes and on one.

    The calls are in both ranks, contiguous and not.
    """
    cases = []
    for rank, positions, missing, kind in product(
        ("3", "2"),
        ("axes", "text"),
        ({"tokens": 0}, {"heads": 0, "k_heads": 0}),
        ("contiguous", "row_gap", "expanded"),
    ):
        base = complete({**PLAIN, "rank": rank, "positions": positions}, random.Random(0), scope)  # noqa: S311
        case = replace(Sizes.of(base), **missing).given(base)
        for name in ("q", "k", "positions"):
            case = case.with_tensor(name, replace(spec_of(case, name), layout=Layout(kind)))
        cases.append(case)
    return tuple(cases)


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: q and k are slices of one qkv projection, cos and sin halves of a cache.

    Every rank has at least one head of k.
    """
    flags = dict(shape.flags)
    k_heads, rotary_dim = flags.pop("k_heads"), flags.pop("rotary_dim")
    assert isinstance(k_heads, int)
    assert isinstance(rotary_dim, int)
    assert shape.heads is not None
    k_heads = max(1, k_heads // shape.tp)
    start, width = shape.heads * shape.head_dim, (shape.heads + 2 * k_heads) * shape.head_dim
    table = (MODEL_CACHE, rotary_dim // 2)
    tensors = (
        ("q", TensorSpec((tokens, start), shape.dtype, Layout("slice", 0, width), "rows")),
        ("k", TensorSpec((tokens, k_heads * shape.head_dim), shape.dtype, Layout("slice", start, width), "rows")),
        ("positions", TensorSpec((AXES, tokens), "int64", values=f"positions<{MODEL_CACHE}")),
        ("cos", TensorSpec(table, shape.dtype, Layout("shared", 0), "cos")),
        ("sin", TensorSpec(table, shape.dtype, Layout("shared", 1), "sin")),
    )
    return Case("mrope", tensors, (*flags.items(), ("head_dim", shape.head_dim)), tokens)


def simpler(case: Case) -> Iterator[Case]:
    """Yield cases with plain layouts, flags and dtypes; fewer tokens, heads and frequencies; ordinary values."""
    yield from plainer_layouts(case)
    yield from plainer_flags(case, {"interleaved": True})
    yield from _plainer_dtypes(case)
    positions = spec_of(case, "positions")
    if len(positions.shape) == 2:
        yield case.with_tensor("positions", replace(positions, shape=positions.shape[-1:]))
    yield from (sizes.given(case) for sizes in _smaller(Sizes.of(case)))
    unlike = f"positions<{Sizes.of(case).cache}"
    yield from plainer_values(
        case, {"q": "normal", "k": "normal", "positions": unlike, "cos": "cos", "sin": "sin"}
    )


def _plainer_dtypes(case: Case) -> Iterator[Case]:
    plain = {"k": case.dtype, "cos": case.dtype, "sin": case.dtype, "positions": "int64"}
    # cos and sin have the same dtype, which is k's as well unless it is float32
    for names in (("k", "cos", "sin"), ("k",), ("positions",)):
        simple = case
        for name in names:
            simple = simple.with_tensor(name, replace(spec_of(case, name), dtype=plain[name]))
        if simple != case:
            yield simple


def _smaller(sizes: Sizes) -> Iterator[Sizes]:
    for name in ("tokens", "heads", "k_heads", "half", "cache"):
        for fewer in smaller(getattr(sizes, name)):
            # on fewer rows three axes cannot differ
            if name != "cache" or fewer >= AXES:
                yield replace(sizes, **{name: fewer})
    for narrower in smaller(sizes.head_dim):
        if narrower >= 2 * sizes.half:
            yield replace(sizes, head_dim=narrower)
    if sizes.rank == 3:
        yield replace(sizes, rank=2)
