"""Rotary embedding of q and k at positions on three axes: time, height, width.

Over the first ``rotary_dim`` numbers of a head, in halves: ``y1 = x1 * c - x2 * s``, ``y2 = x2 * c + x1 * s``; the
rest is copied. Frequency ``i`` takes its cosine and sine at the position on the axis that ``sections`` give it:
section after section, or, interleaved, in turns (h and w as long as their sections last, else t). The formula is
Qwen2-VL's and Qwen3-VL's, in real arithmetic.

A contract may round cos and sin to the dtype of what they turn (``angle``), and each product (``turned``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from conformance.cases.case import Case
from conformance.operations.mrope_calls import (
    AXES,
    FACTORS,
    ORDINARY,
    READERS,
    Sections,
    Sizes,
    complete,
    empties,
    model_case,
    simpler,
    spec_of,
)
from conformance.operations.mrope_mistakes import INVALID, UNSEEN
from conformance.operations.operation import Operation, Output, Scaling
from conformance.operations.term import Dropped, Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

ROTATED = {"q": "rotated_q", "k": "rotated_k"}  # the output by the argument


def axis_of_frequency(given: Sections, *, interleaved: bool) -> list[int]:
    """Return the axis from which each frequency takes its position: 0 for t, 1 for h, 2 for w."""
    if not interleaved:
        return [axis for axis, length in enumerate(given) for _ in range(length)]
    turns = [i % AXES for i in range(sum(given))]
    return [turn if i < AXES * given[turn] else 0 for i, turn in enumerate(turns)]


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of q and k after their rotation. Row tensors have one token per row."""
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
    """Rotate every head of some tokens: x is ``(tokens, heads, head_dim)``, cos and sin ``(tokens, 1, half)``."""
    half = cos.shape[-1]
    x1, x2, rest = (Interval.exactly(part) for part in torch.split(x, [half, half, x.shape[-1] - 2 * half], -1))
    c, s = (contract.at("angle", Interval.exactly(angle), x.dtype) for angle in (cos, sin))
    kind = x.dtype if "angle" in contract.rounds else torch.promote_types(x.dtype, cos.dtype)

    def turned(a: Interval, b: Interval) -> Interval:
        product = machine.product(a, b)
        rounded = contract.at("turned", product, kind)
        return rounded.hull(product) if machine.fuses else rounded

    y1 = machine.add(turned(x1, c), -turned(x2, s))
    y2 = machine.add(turned(x2, c), turned(x1, s))
    ends = [torch.cat([getattr(part, end) for part in (y1, y2, rest)], -1) for end in ("lo", "hi", "nan")]
    return Interval(*ends).reshape(len(x), -1)


def copies(case: Case, values: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the part of every head that is not rotated."""
    sizes = Sizes.of(case)
    kept = torch.arange(sizes.head_dim, device=values["q"].device) >= 2 * sizes.half
    return {
        output: (kept.repeat(values[name].numel() // sizes.head_dim).reshape(values[name].shape), values[name])
        for name, output in ROTATED.items()
    }


def _without_axis(axis: int) -> Dropped:
    """Return a change of the call that puts the position on axis t, as in text, on another axis."""

    def dropped(case: Case, values: Values) -> tuple[Case, Values] | None:
        axes = axis_of_frequency(case.flag("sections"), interleaved=case.flag("interleaved"))
        positions = values["positions"]
        if axis not in axes or positions.dim() == 1:
            return None
        moved = positions.clone()
        moved[axis] = positions[0]
        return case, {**values, "positions": moved}

    return dropped


def _without_third_axis(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Treat tokens with two equal axes as text."""
    positions = values["positions"]
    axes = axis_of_frequency(case.flag("sections"), interleaved=case.flag("interleaved"))
    if positions.dim() == 1 or not any(axes):
        return None
    t, h, w = positions
    moved = torch.where((t == h) | (h == w) | (t == w), t, positions)
    return None if torch.equal(moved, positions) else (case, {**values, "positions": moved})


def _in_the_other_order(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Order the axes section after section in place of interleaved, or the other way round."""
    orders = [axis_of_frequency(case.flag("sections"), interleaved=order) for order in (True, False)]
    if orders[0] == orders[1] or values["positions"].dim() == 1:
        return None
    return case.with_flag("interleaved", not case.flag("interleaved")), values


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Dropped:
    return lambda case, values: (case, {**values, name: change(values[name])})


def _without_last_frequency(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Leave the last pair of every head unrotated, as a mask that ends early does."""
    cos, sin = values["cos"].clone(), values["sin"].clone()
    cos[:, -1], sin[:, -1] = 1, 0
    return case, {**values, "cos": cos, "sin": sin}


def _without_last_token(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Move the last token to the first one's position."""
    positions = values["positions"].clone()
    positions[..., -1] = positions[..., 0]
    return None if positions.shape[-1] == 1 else (case, {**values, "positions": positions})


TERMS = (
    Term("height", _without_axis(1)),
    Term("width", _without_axis(2)),
    Term("third axis where two are alike", _without_third_axis, levels={"two_alike": "prompt"}),
    Term("order of axes", _in_the_other_order),
    Term("position", _with("positions", torch.zeros_like)),
    Term("cos of q", _with("cos", torch.ones_like), outputs=("rotated_q",)),
    Term("sin of q", _with("sin", torch.zeros_like), outputs=("rotated_q",)),
    Term("cos of k", _with("cos", torch.ones_like), outputs=("rotated_k",)),
    Term("sin of k", _with("sin", torch.zeros_like), outputs=("rotated_k",)),
    Term("last frequency", _without_last_frequency),
    Term("position of the last token", _without_last_token),
)


ROUNDS = (Point("angle"), Point("turned", scales=True))


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call: float32 tables may be rounded before multiplication."""
    return ("angle", "turned") if spec_of(case, "cos").dtype == "float32" else ("turned",)


def outputs(case: Case) -> tuple[Output, ...]:
    """Return both outputs, each in the shape and dtype of its argument."""
    specs = [(output, spec_of(case, name)) for name, output in ROTATED.items()]
    return tuple(Output(output, spec.shape, getattr(torch, spec.dtype)) for output, spec in specs)


MROPE = Operation(
    name="mrope",
    positional=("q", "k", "positions", "cos", "sin"),
    keywords=(),
    row_tensors=frozenset({"q", "k", "positions"}),
    factors=FACTORS,
    readers=READERS,
    complete=complete,
    outputs=outputs,
    formula=formula,
    rounds=ROUNDS,
    points=points,
    invalid=INVALID,
    ordinary=ORDINARY,
    # float32 tables leave the arithmetic in float32, even if the contract rounds products
    telling={"dtypes": ("same",), "dims": ("quarter", "whole", "part")},
    terms=TERMS,
    empties=empties,
    model_case=model_case,
    simpler=simpler,
    token_axes={"q": 0, "k": 0, "positions": -1},
    unseen=frozenset(UNSEEN),
    copies=copies,
    in_place={output: name for name, output in ROTATED.items()},
    parameters=("cos", "sin"),
    # a rotation is linear
    scaling=Scaling(dict.fromkeys(ROTATED, 1), dict.fromkeys(ROTATED.values(), 1)),
)
