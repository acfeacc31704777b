"""A rotation of pairs in every head of q and of k, and what a wrong one may lack.

``y1 = x1 * c - x2 * s``, ``y2 = x2 * c + x1 * s`` for each pair of the first ``rotary_dim`` numbers of a head.
Pairs have a number from either half, or are neighbours. The rest is copied.

A contract may round cos and sin to the dtype of what they turn (``angle``), and each product (``turned``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from conformance.cases.case import Case
from conformance.operations.head_sizes import Sizes, spec_of
from conformance.operations.operation import Output
from conformance.operations.row_calls import Setting
from conformance.operations.term import Dropped, Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

ROTATED = {"q": "rotated_q", "k": "rotated_k"}  # the output by the argument
HALVES, NEIGHBOURS = "halves", "neighbours"
PAIRS = Setting("pairs", {HALVES: HALVES, NEIGHBOURS: NEIGHBOURS})

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

ROUNDS = (Point("angle"), Point("turned", scales=True))


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call: float32 tables may be rounded before multiplication."""
    return ("angle", "turned") if spec_of(case, "cos").dtype == "float32" else ("turned",)


class Angles(NamedTuple):
    """Cosines and sines of some tokens, for all their heads: ``(tokens, 1, half)``, in a dtype."""

    cos: Interval
    sin: Interval
    dtype: torch.dtype

    @classmethod
    def of(cls, cos: torch.Tensor, sin: torch.Tensor) -> Angles:
        """Return the angles in rows of tables, a row a token."""
        return cls(Interval.exactly(cos[:, None]), Interval.exactly(sin[:, None]), cos.dtype)


def rotated(
    machine: Machine,
    contract: Contract,
    x: Interval,
    angles: Angles,
    kind: torch.dtype,
    pairs: str = HALVES,
) -> Interval:
    """Rotate every head of some tokens.

    x is ``(tokens, heads, head_dim)`` in the dtype ``kind``.
    """
    half, size = angles.cos.lo.shape[-1], x.lo.shape[-1]
    first, second = places(half, size, pairs)
    x1, x2, rest = _part(x, first), _part(x, second), _part(x, slice(2 * half, size))
    c, s = (contract.at("angle", angle, kind) for angle in (angles.cos, angles.sin))
    wide = kind if "angle" in contract.rounds else torch.promote_types(kind, angles.dtype)

    def turned(a: Interval, b: Interval) -> Interval:
        product = machine.product(a, b)
        rounded = contract.at("turned", product, wide)
        return rounded.hull(product) if machine.fuses else rounded

    y1 = machine.add(turned(x1, c), -turned(x2, s))
    y2 = machine.add(turned(x2, c), turned(x1, s))
    parts = (y1, y2, rest)
    ends = _together([part.ends.expand(2, *part.lo.shape) for part in parts], pairs)
    missing = None
    if any(part.missing is not None for part in parts):
        missing = _together([part.nan for part in parts], pairs)
    span = y1.span.hull(y2.span).hull(rest.span) if rest.lo.numel() else y1.span.hull(y2.span)
    return Interval.of(ends, missing, span).reshape(len(x.lo), -1)


def angles_of(given: Values) -> Angles:
    """Return the angles of some tokens, at their positions if there are any."""
    cos, sin = given["cos"], given["sin"]
    if "positions" in given:
        index = given["positions"].long().flatten()
        cos, sin = cos[index], sin[index]
    return Angles.of(cos, sin)


def places(half: int, size: int, pairs: str) -> tuple[slice, slice]:
    """Return where the first numbers of all pairs stand in a head, and where the second ones do."""
    if pairs == HALVES:
        return slice(0, half), slice(half, 2 * half)
    return slice(0, 2 * half, 2), slice(1, 2 * half, 2)


def _part(x: Interval, place: slice) -> Interval:
    missing = None if x.missing is None else x.nan[..., place]
    return Interval.of(x.ends[..., place], missing, x.span)


def _together(parts: list[torch.Tensor], pairs: str) -> torch.Tensor:
    y1, y2, rest = parts
    turned = torch.cat((y1, y2), -1) if pairs == HALVES else torch.stack((y1, y2), -1).flatten(-2)
    return torch.cat((turned, rest), -1)


def copies(case: Case, values: Values) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the part of every head that is not rotated."""
    sizes = Sizes.of(case)
    kept = torch.arange(sizes.head_dim, device=values["q"].device) >= 2 * sizes.half
    return {
        output: (kept.repeat(values[name].numel() // sizes.head_dim).reshape(values[name].shape), values[name])
        for name, output in ROTATED.items()
    }


def outputs(case: Case) -> tuple[Output, ...]:
    """Return both outputs, each in the shape and dtype of its argument."""
    specs = [(output, spec_of(case, name)) for name, output in ROTATED.items()]
    return tuple(Output(output, spec.shape, getattr(torch, spec.dtype)) for output, spec in specs)


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Dropped:
    return lambda case, values: (case, {**values, name: change(values[name])}) if name in values else None


def _without_last_frequency(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Leave the last pair of every head unrotated, as a mask that ends early does."""
    cos, sin = values["cos"].clone(), values["sin"].clone()
    cos[:, -1], sin[:, -1] = 1, 0
    return case, {**values, "cos": cos, "sin": sin}


def _without_last_token(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Move the last token to the first one's position."""
    if "positions" not in values or values["positions"].shape[-1] == 1:
        return None
    positions = values["positions"].clone()
    positions[..., -1] = positions[..., 0]
    return case, {**values, "positions": positions}


def _in_other_pairs(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Pair neighbours in place of halves, or the other way round."""
    if Sizes.of(case).half == 1:
        return None
    return case.with_flag("pairs", NEIGHBOURS if case.flag("pairs") == HALVES else HALVES), values


PAIRING = Term("pairs", _in_other_pairs)
TERMS = (
    Term("position", _with("positions", torch.zeros_like)),
    Term("cos of q", _with("cos", torch.ones_like), outputs=("rotated_q",)),
    Term("sin of q", _with("sin", torch.zeros_like), outputs=("rotated_q",)),
    Term("cos of k", _with("cos", torch.ones_like), outputs=("rotated_k",)),
    Term("sin of k", _with("sin", torch.zeros_like), outputs=("rotated_k",)),
    Term("last frequency", _without_last_frequency),
    Term("position of the last token", _without_last_token),
)
