"""Softmax of scores over the last dimension: ``exp(s - max(s)) / sum(exp(s - max(s)))``, ``s = x * scale + mask``.

Both are optional. A scale is positive. A mask is in x's shape: one that broadcasts is passed expanded. Its floats,
in x's dtype or float32, are added; its bools keep the scores where they are True, others have probability zero.
Right kernels compute all of it in float32, and round once (the scaled masked softmax of Apex and of
TransformerEngine, GPT-BigCode in Transformers). Attention in plain PyTorch rounds the product (``scaled``) and the
sum (``masked``).

A row of minus infinity alone, and a row with plus infinity, give NaN: they subtract infinities of one sign. So
does a row that is masked whole, unless its contract names another promise: zeros (``zeroed``, as in Apex and
scaled_dot_product_attention), or equal shares of one, where bools fill in a finite number that is low (``filled``,
as in GPT-BigCode). A float mask of the lowest number is finite, and needs no promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from conformance.cases.case import LAYOUTS, Case
from conformance.cases.corpus import ModelShape
from conformance.operations.row_calls import RowCalls, Setting, row_operation
from conformance.operations.tensors import Beside, Rows, Wrong
from conformance.operations.term import Term, Values, drawn_as, lacking, without_flag, without_tensor
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval, Span, either

ORDINARY = ("normal", "rows", "constant", "far", "wide_gate", "large", "lowest")
# profiles of x and the mask by level; the ordinary ones first
VALUES = {
    "normal": ("normal", "padding"),
    "rows": ("rows", "padding"),
    "constant": ("constant", "normal"),
    "far": ("far", "padding"),
    "wide_gate": ("wide_gate", "normal"),
    "large": ("large", "padding"),
    "lowest": ("normal", "lowest"),
    # scores of the lowest number are no higher than what bools may fill in
    "masked": ("masked", "normal"),
    "whole": ("normal", "whole"),
    "specials": ("specials", "padding"),
    "subnormal": ("subnormal", "normal"),
    "huge": ("huge", "padding"),
}
# one over the root of a head's size: 64, and 128 as float32 has it
SCALES = {"none": None, "eighth": 0.125, "root": 0.088388346135616302490234375}
OF_MASKED_ROWS = (Point("zeroed", eager=False), Point("filled", eager=False))
ROUNDS = (
    Point("scaled", scales=True),
    Point("masked", scales=True),
    Point("difference", scales=True),
    Point("exp"),
    Point("total"),
    *OF_MASKED_ROWS,
)
LEAST_TOTAL = 0.5  # less than any sum of powers of which one is that of zero


@dataclass(frozen=True, slots=True)
class Mask(Beside):
    """A mask in x's shape. Libraries take masks that broadcast as well: they are no mistake."""

    layouts: tuple[str, ...] = LAYOUTS

    def wrongs(self) -> dict[str, Wrong]:
        """Return another shape, and another dtype."""
        return {words: wrong for words, wrong in Beside.wrongs(self).items() if "broadcast" not in words}


CALLS = RowCalls(
    "softmax",
    (Rows("x"), Mask("mask", ("none", "same", "float32", "bool"), keyword=True)),
    VALUES,
    (Setting("scale", SCALES),),
)


def far(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows so far below or above zero that the power of every number underflows or overflows."""
    values = torch.randn((rows, n), generator=generator)
    distance = 128.0 + 384.0 * torch.rand((rows, 1), generator=generator)
    distance[1::2] *= -1.0
    return values - distance


def masked(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows whose columns from some place on are the lowest number, as models mask; some are all masked."""
    values = torch.randn((rows, n), generator=generator)
    length = torch.randint(n + 1, (rows, 1), generator=generator)
    return torch.where(torch.arange(n) < length, values, torch.finfo(dtype).min)


def crowned(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw rows whose last column has most of the sum, however many others there are."""
    values = torch.randn((rows, n), generator=generator)
    values[:, -1] = 12.0
    return values


def padding(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw masks of minus infinity that keep columns from a place on, up to one, between two, or here and there.

    Each row keeps one column at least. Padding on the left, and windows, mask whole tiles of columns.
    """
    places = torch.randint(n, (rows, 2), generator=generator)
    first, last = places.amin(-1, keepdim=True), places.amax(-1, keepdim=True)
    first[::4], last[1::4] = 0, n - 1
    column = torch.arange(n)
    kept = (first <= column) & (column <= last)
    scattered = (torch.rand((rows, n), generator=generator) < 0.5) | (column == first)
    kept[3::4] = scattered[3::4]
    return torch.where(kept, 0.0, -math.inf)


def lowest(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw masks of the lowest number, as Transformers masks."""
    return padding(rows, n, dtype, generator).clamp(min=torch.finfo(dtype).min)


def whole(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw masks of minus infinity of which every second one keeps nothing."""
    values = padding(rows, n, dtype, generator)
    values[::2] = -math.inf
    return values


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the interval of ``y`` before its store. x and the mask are ``(rows, n)``."""
    mask, scores = given.get("mask"), _scores(machine, contract, given, case)
    kind = given["x"].dtype if mask is None else torch.promote_types(given["x"].dtype, mask.dtype)
    difference = contract.at("difference", _from_largest(machine, scores), kind)
    powers = contract.at("exp", machine.exp(difference), kind)
    if not dict(case.flags).get("divided", True):
        return {"y": powers}
    total = machine.total(powers, contract.additions(powers.ends.shape[-1]))
    if not scores.is_exact:
        total = Interval.of(total.ends.clamp(min=LEAST_TOTAL), total.missing)
    y = machine.quotient(powers, contract.at("total", total, kind))
    return {"y": _promised(machine, contract, y, scores, mask)}


def _scores(machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case) -> Interval:
    """Return ``x * scale + mask``; kernels take the scale as float32."""
    x, mask = given["x"], given.get("mask")
    scale: float | None = case.flag("scale") if "scale" in dict(case.flags) else None
    scores = Interval.exactly(x)
    if scale is not None:
        factor = Interval.single(scale, x.device)
        scores = contract.at("scaled", machine.product(scores, factor), x.dtype)
    if mask is None:
        return scores
    if mask.dtype != torch.bool:
        kind = torch.promote_types(x.dtype, mask.dtype)
        return contract.at("masked", machine.add(scores, Interval.exactly(mask)), kind)
    # what is masked may be replaced, or have minus infinity added: then NaN and infinity stay NaN
    stays = None if scores.span.finite else ~mask & ~x.isfinite()
    missing = None if scores.missing is None else scores.missing & mask
    return Interval.of(torch.where(mask, scores.ends, -math.inf), either(missing, stays), Span())


def _from_largest(machine: Machine, scores: Interval) -> Interval:
    """Return every score less the largest of its row: nothing above zero, and zero for the largest itself."""
    missing = None if scores.missing is None else scores.nan.any(-1, keepdim=True)
    largest = Interval.of(scores.ends.amax(-1, keepdim=True), missing)
    difference = machine.add(scores, -largest)
    if scores.is_exact:
        return difference
    may_lead = (scores.hi >= largest.lo) & scores.hi.isfinite()
    leads = may_lead & (may_lead.sum(-1, keepdim=True) == 1)
    ends = torch.where(leads, 0.0, difference.ends.clamp(max=0.0))
    return Interval.of(ends, difference.missing)


def _promised(
    machine: Machine, contract: Contract, y: Interval, scores: Interval, mask: torch.Tensor | None
) -> Interval:
    """Return the results with those of wholly masked rows, where the contract has a promise for them."""
    if "zeroed" in contract.rounds:
        nothing = (scores.hi == -math.inf).all(-1, keepdim=True)
        return _with(y, nothing, Interval.number(0.0, y.lo.device))
    if "filled" in contract.rounds and mask is not None and mask.dtype == torch.bool:
        n = Interval.number(float(mask.shape[-1]), y.lo.device)
        return _with(y, ~mask.any(-1, keepdim=True), machine.reciprocal(n))
    return y


def _with(y: Interval, rows: torch.Tensor, number: Interval) -> Interval:
    """Return the results with another number in some rows, and no NaN there."""
    lo, hi = (torch.where(rows, end, of_y) for end, of_y in ((number.lo, y.lo), (number.hi, y.hi)))
    return Interval(lo, hi, y.nan & ~rows)


def points(case: Case) -> tuple[str, ...]:
    """Return the rounding points that show in this call."""
    mask = case.tensor("mask")
    promises = OF_MASKED_ROWS if mask is not None and mask.values == "whole" else ()
    return (
        *(("scaled",) if dict(case.flags).get("scale") is not None else ()),
        *(("masked",) if mask is not None and mask.dtype != "bool" else ()),
        *("difference", "exp", "total"),
        *(point.name for point in promises),
    )


def model_case(shape: ModelShape, tokens: int) -> Case:
    """Return the call of a real model: a router has neither mask nor scale."""
    return CALLS.model_case(shape, tokens).with_tensor("mask", None)


def _without_last_column(case: Case, values: Values) -> tuple[Case, Values] | None:
    """Mask the last column: the power of a zero would be in the sum."""
    if case.tensors[0][1].shape[-1] == 1:
        return None
    x = values["x"].clone()
    x[..., -1] = -torch.inf
    return case, {**values, "x": x}


SOFTMAX = row_operation(
    CALLS,
    formula=formula,
    rounds=ROUNDS,
    points=points,
    ordinary=ORDINARY,
    # scores from -13 to 13, and masks of numbers: their roundings move powers
    telling={**CALLS.telling, "scale": ("root",), "values": ("wide_gate",)},
    terms=(
        # the maximum is none: it cancels, and is there so that nothing overflows
        Term("sum", lacking("divided"), made=drawn_as("x", "constant")),
        Term("last column", _without_last_column, elsewhere=True, made=drawn_as("x", "crowned")),
        Term("scale", without_flag("scale", None), levels={"scale": "eighth"}),
        Term("mask", without_tensor("mask"), levels={"mask": "same"}),
    ),
    model_case=model_case,
    in_place={"y": "x"},
    profiles={
        "far": far,
        "masked": masked,
        "crowned": crowned,
        "padding": padding,
        "lowest": lowest,
        "whole": whole,
    },
)
