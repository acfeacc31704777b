"""Rotary embedding of q and k at positions on three axes: time, height, width.

Over the first ``rotary_dim`` numbers of a head, in halves: ``y1 = x1 * c - x2 * s``, ``y2 = x2 * c + x1 * s``; the
rest is copied. Frequency ``i`` takes its cosine and sine at the position on the axis that ``sections`` give it:
section after section, or, interleaved, in turns (h and w as long as their sections last, else t). The formula is
Qwen2-VL's and Qwen3-VL's, in real arithmetic.

A contract may round cos and sin to the dtype of what they turn (``angle``), and each product (``turned``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from conformance.case import Case, Flag, Layout, TensorSpec
from conformance.corpus import ModelShape
from conformance.operations.mrope_mistakes import INVALID, UNSEEN
from conformance.operations.operation import Operation, Output
from conformance.operations.row_calls import other_dtype
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract
from conformance.oracle.interval import Interval
from conformance.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.strategies import Assignment, Scope, layout, rows

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

# the size of a head and half of what is rotated of it. Few: a kernel may be compiled for each
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
        """The sizes of a case."""
        q, k, cos = (_spec(case, name) for name in ("q", "k", "cos"))
        head_dim = case.flag("head_dim") or q.shape[-1]
        heads, k_heads = (spec.shape[-1] // head_dim if len(spec.shape) == 2 else spec.shape[1] for spec in (q, k))
        return cls(q.shape[0], heads, k_heads, head_dim, cos.shape[1], cos.shape[0], len(q.shape))

    def shape(self, heads: int) -> tuple[int, ...]:
        """The shape of q or k."""
        return (self.tokens, heads, self.head_dim) if self.rank == 3 else (self.tokens, heads * self.head_dim)

    def given(self, case: Case) -> Case:
        """The case in these sizes, its sections as even as they can be where the frequencies are others."""
        half = _spec(case, "cos").shape[1]
        positions = _spec(case, "positions")
        table = (self.cache, self.half)
        shapes = {"q": self.shape(self.heads), "k": self.shape(self.k_heads), "cos": table, "sin": table}
        for name, shape in shapes.items():
            case = case.with_tensor(name, replace(_spec(case, name), shape=shape))
        axes = (*positions.shape[:-1], self.tokens)
        case = case.with_tensor("positions", replace(positions, shape=axes, values=_positions(self.cache)))
        case = case.with_flag("head_dim", self.head_dim if self.rank == 2 else None)
        return case if half == self.half else case.with_flag("sections", sections("even", self.half))


def _spec(case: Case, name: str) -> TensorSpec:
    spec = case.tensor(name)
    assert spec is not None
    return spec


def _positions(cache: int) -> str:
    return f"positions<{cache}"


def sections(level: str, half: int) -> Sections:
    """How many of ``half`` frequencies t, h and w have: real models' at 32 and 64, none for some, all for t."""
    if level == "text":
        return half, 0, 0
    if level == "two":
        return half - half // 3, 0, half // 3
    if level == "uneven":
        return half // 4, (half - half // 4) - (half - half // 4) // 2, (half - half // 4) // 2
    return half - (half + 1) // 3 - half // 3, (half + 1) // 3, half // 3


def axis_of_frequency(given: Sections, *, interleaved: bool) -> list[int]:
    """Which axis each frequency takes its position from: 0 for t, 1 for h, 2 for w."""
    if not interleaved:
        return [axis for axis, length in enumerate(given) for _ in range(length)]
    turns = [i % AXES for i in range(sum(given))]
    return [turn if i < AXES * given[turn] else 0 for i, turn in enumerate(turns)]


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """The intervals of q and k after their rotation. Row tensors come a token a row."""
    sizes = Sizes.of(case)
    axes = axis_of_frequency(case.flag("sections"), interleaved=case.flag("interleaved"))
    index = given["positions"].long().expand(-1, AXES)[:, axes]
    columns = torch.arange(sizes.half, device=index.device)
    cos, sin = (given[name][index, columns][:, None] for name in ("cos", "sin"))
    return {
        output: _rotated(machine, contract, given[name].reshape(len(index), -1, sizes.head_dim), cos, sin)
        for name, output in ROTATED.items()
    }


def _rotated(
    machine: Machine, contract: Contract, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> Interval:
    """Every head of some tokens: x is ``(tokens, heads, head_dim)``, cos and sin ``(tokens, 1, half)``."""
    half = cos.shape[-1]
    x1, x2, rest = (Interval.exactly(part) for part in torch.split(x, [half, half, x.shape[-1] - 2 * half], -1))
    c, s = (contract.at("angle", Interval.exactly(angle), x.dtype) for angle in (cos, sin))
    kind = x.dtype if "angle" in contract.rounds else torch.promote_types(x.dtype, cos.dtype)

    def turned(a: Interval, b: Interval) -> Interval:
        return contract.at("turned", machine.product(a, b), kind)

    y1 = machine.add(turned(x1, c), -turned(x2, s))
    y2 = machine.add(turned(x2, c), turned(x1, s))
    ends = [torch.cat([getattr(part, end) for part in (y1, y2, rest)], -1) for end in ("lo", "hi", "nan")]
    return Interval(*ends).reshape(len(x), -1)


ROTATED = {"q": "rotated_q", "k": "rotated_k"}


def copies(case: Case, values: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The part of every head that is not rotated."""
    sizes = Sizes.of(case)
    kept = torch.arange(sizes.head_dim) >= 2 * sizes.half
    return {
        output: (kept.repeat(values[name].numel() // sizes.head_dim).reshape(values[name].shape), values[name])
        for name, output in ROTATED.items()
    }


def points(case: Case) -> tuple[str, ...]:
    """Rounding points that show in this call: float32 tables may be rounded before they are multiplied."""
    return ("angle", "turned") if _spec(case, "cos").dtype == "float32" else ("turned",)


def outputs(case: Case) -> tuple[Output, ...]:
    """Both, each in its own shape and dtype."""
    specs = [(output, _spec(case, name)) for name, output in ROTATED.items()]
    return tuple(Output(output, spec.shape, getattr(torch, spec.dtype)) for output, spec in specs)


def complete(assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
    """A call with the assignment's levels; sizes, amounts and seed from ``rng``."""
    head_dim, half = rng.choice(DIMS[assignment["dims"]])
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
    tensors = [
        ("q", TensorSpec(sizes.shape(heads), scope.dtype, q_place, q_values)),
        ("k", TensorSpec(sizes.shape(k_heads), k_dtype, k_place, k_values)),
        ("positions", TensorSpec(axes, assignment["index"], positions, _positions(sizes.cache))),
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


def empties(scope: Scope) -> tuple[Case, ...]:
    """Calls without a token, at positions on three axes and on one, in both ranks, contiguous and not."""
    cases = []
    for rank, positions in (("3", "axes"), ("3", "text"), ("2", "axes"), ("2", "text")):
        base = complete({**PLAIN, "rank": rank, "positions": positions}, random.Random(0), scope)  # noqa: S311
        empty = replace(Sizes.of(base), tokens=0).given(base)
        for kind in ("contiguous", "row_gap", "expanded"):
            case = empty
            for name in ("q", "k", "positions"):
                case = case.with_tensor(name, replace(_spec(case, name), layout=Layout(kind)))
            cases.append(case)
    return tuple(cases)


def model_case(shape: ModelShape, tokens: int) -> Case:
    """The call of a real model: q and k as slices of one qkv projection, cos and sin as halves of one cache.

    A rank holds one head of k at least, however many ranks there are.
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
        ("positions", TensorSpec((AXES, tokens), "int64", values=_positions(MODEL_CACHE))),
        ("cos", TensorSpec(table, shape.dtype, Layout("shared", 0), "cos")),
        ("sin", TensorSpec(table, shape.dtype, Layout("shared", 1), "sin")),
    )
    return Case("mrope", tensors, (*flags.items(), ("head_dim", shape.head_dim)), tokens)


def simpler(case: Case) -> Iterator[Case]:
    """Plain layouts, flags and dtypes; fewer tokens, heads and frequencies; ordinary values."""
    yield from plainer_layouts(case)
    yield from plainer_flags(case, {"interleaved": True})
    yield from _plainer_dtypes(case)
    positions = _spec(case, "positions")
    if len(positions.shape) == 2:
        yield case.with_tensor("positions", replace(positions, shape=positions.shape[-1:]))
    yield from (sizes.given(case) for sizes in _smaller(Sizes.of(case)))
    yield from plainer_values(case, {"q": "normal", "k": "normal", "cos": "cos", "sin": "sin"})


def _plainer_dtypes(case: Case) -> Iterator[Case]:
    plain = {"k": case.dtype, "cos": case.dtype, "sin": case.dtype, "positions": "int64"}
    # cos and sin are of one dtype, and of k's as well unless they are float32
    for names in (("k", "cos", "sin"), ("k",), ("positions",)):
        simple = case
        for name in names:
            simple = simple.with_tensor(name, replace(_spec(case, name), dtype=plain[name]))
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


MROPE = Operation(
    name="mrope",
    positional=("q", "k", "positions", "cos", "sin"),
    keywords=(),
    row_tensors=frozenset({"q", "k", "positions"}),
    factors=FACTORS,
    complete=complete,
    outputs=outputs,
    formula=formula,
    points=points,
    invalid=INVALID,
    ordinary=ORDINARY,
    # float32 tables leave the arithmetic in float32, whatever the contract says of products
    telling={"dtypes": ("same",), "dims": ("quarter", "whole", "part")},
    empties=empties,
    model_case=model_case,
    simpler=simpler,
    token_axes={"q": 0, "k": 0, "positions": -1},
    unseen=frozenset(UNSEEN),
    copies=copies,
)
