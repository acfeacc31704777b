"""Rotary embedding of q and k at positions on three axes: time, height, width.

Heads are turned in halves. Frequency ``i`` takes its cosine and sine at the position on the axis that ``sections``
give it: section after section, or, interleaved, in turns (h and w as long as their sections last, else t). The
formula is Qwen2-VL's and Qwen3-VL's, in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations import rotation
from conformance.operations.head_calls import head_operation
from conformance.operations.head_sizes import Sizes
from conformance.operations.mrope_calls import AXES, CALLS, Sections, sections
from conformance.operations.mrope_mistakes import SECTIONS
from conformance.operations.operation import Scaling
from conformance.operations.rotation import ROTATED, Angles, rotated
from conformance.operations.term import Dropped, Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract
from conformance.oracle.interval import Interval


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
    angles = Angles.of(*(given[name][index, columns] for name in ("cos", "sin")))
    heads = {name: given[name].reshape(len(index), -1, sizes.head_dim) for name in ROTATED}
    return {
        ROTATED[name]: rotated(machine, contract, Interval.exactly(x), angles, x.dtype)
        for name, x in heads.items()
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


def _turns_to_the_end(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Let height and width take turns to the last frequency, where their sections end before it."""
    ended = case.flag("sections")
    endless = sections("even", sum(ended))
    orders = [axis_of_frequency(each, interleaved=case.flag("interleaved")) for each in (ended, endless)]
    if not case.flag("interleaved") or orders[0] == orders[1] or values["positions"].dim() == 1:
        return None
    return case.with_flag("sections", endless), values


def _with_ends(case: Case) -> Case:
    """Return the call with a quarter of the frequencies for height and for width: time has the last ones alone."""
    half = sum(case.flag("sections"))
    return case.with_flag("sections", (half - 2 * (half // 4), half // 4, half // 4))


TERMS = (
    Term("height", _without_axis(1)),
    Term("width", _without_axis(2)),
    Term("third axis where two are alike", _without_third_axis, levels={"two_alike": "prompt"}),
    Term("order of axes", _in_the_other_order),
    Term("end of turns", _turns_to_the_end, made=_with_ends),
    *rotation.TERMS,
)


MROPE = head_operation(
    CALLS,
    formula=formula,
    rounds=rotation.ROUNDS,
    points=rotation.points,
    ordinary=rotation.ORDINARY,
    terms=TERMS,
    mistakes=SECTIONS,
    copies=rotation.copies,
    # a rotation is linear
    scaling=Scaling(dict.fromkeys(ROTATED, 1), dict.fromkeys(ROTATED.values(), 1)),
)
