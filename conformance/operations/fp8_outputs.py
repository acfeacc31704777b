"""Quantisation to fp8, after a norm or alone: its arguments, outputs, formula, cases and mistakes.

Per group of ``quant_group`` columns of the norm's ``y`` (None: the whole row; a shorter last group is legal)::

    scale  = max(largest magnitude, 1e-10) / largest number of the fp8 type
    values = y / scale, rounded once to nearest even, saturated

the dynamic quantisation of DeepSeek-V3's activations, with the floor under the magnitude that vLLM and SGLang
have. Rounding points:
``unquantised`` rounds y to x's dtype before anything is measured of it; ``power_of_two`` rounds the scale up to a
power of two (UE8M0). A kernel may divide, or multiply by a reciprocal.

Special numbers. A NaN in y is a NaN in the values, for any scale: the scale is NaN where the maximum keeps
NaN, and follows the numbers of the group (or the floor) where the maximum ignores NaN; IEEE 754 has both. A group
with a NaN for its scale is NaN throughout. An infinity makes the scale infinite, itself NaN, and the rest zero.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch.nn.functional import pad

from conformance.cases.case import Case, Flag
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Factors, Scope
from conformance.cases.shrink import plainer_flags
from conformance.operations import readers
from conformance.operations.operation import Arguments, Operation, Output
from conformance.operations.readers import Reader
from conformance.operations.term import Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval, Span

FLOOR = 1e-10

FACTORS: Factors = {
    "fp8": ("float8_e4m3fn", "float8_e4m3fnuz"),
    "quant_group": ("128", "64", "row", "ragged", "larger"),
    "scales": ("row", "column"),
    "unquantised": ("no", "yes"),
}
# group sizes that leave a shorter last group: the first two that fit are drawn from. LARGER exceeds every width
RAGGED = (100, 48, 7, 2)
LARGER = 8192
PLAIN: dict[str, Flag] = {
    "also_unquantised": False,
    "fp8_dtype": "float8_e4m3fn",
    "quant_group": 128,
    "scale_layout": "row",
}
ROUNDS = (Point("unquantised"), Point("power_of_two", eager=False))
# the norm's level of values that is completed in place of the level ``blocks``
BEHIND = {"blocks": "normal"}


def fp8_operation(name: str, norm: Operation, *, beside: bool = True) -> Operation:
    """Return the operation that quantises what ``norm`` returns; ``beside``: its y may be asked for as well."""
    factors = {factor: levels for factor, levels in FACTORS.items() if beside or factor != "unquantised"}
    plain_flags = {flag: value for flag, value in PLAIN.items() if beside or flag != "also_unquantised"}
    rounds = tuple(point for point in ROUNDS if beside or point.name != "unquantised")

    def formula(
        machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
    ) -> dict[str, Interval]:
        before = norm.formula(machine, contract, given, case)
        return {**before, **quantised(machine, contract, before["y"], given, case)}

    def complete(assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
        level = assignment["values"]
        case = norm.complete({**assignment, "values": BEHIND.get(level, level)}, rng, scope)
        flags: dict[str, Flag] = {
            "also_unquantised": assignment.get("unquantised") == "yes",
            "fp8_dtype": assignment["fp8"],
            # a kernel is compiled for its group
            "quant_group": _group(assignment["quant_group"], case, scope.compiled(rng)),
            "scale_layout": assignment["scales"],
        }
        flags = {flag: flags[flag] for flag in plain_flags}
        (x_name, x), *others = case.tensors
        x = replace(x, values=level) if level in BEHIND else x
        return _call(name, replace(case, tensors=((x_name, x), *others)), flags)

    def empties(scope: Scope) -> tuple[Case, ...]:
        calls = norm.empties(scope)
        plain = [_call(name, case, plain_flags) for case in calls]
        others: dict[str, Flag] = {"also_unquantised": True, "scale_layout": "column"}
        column = {flag: others.get(flag, value) for flag, value in plain_flags.items()}
        return (*plain, *(_call(name, case, column) for case in calls))

    def model_case(shape: ModelShape, tokens: int) -> Case:
        said = dict(shape.flags)
        flags = {flag: said.get(flag, plain) for flag, plain in plain_flags.items()}
        return _call(name, norm.model_case(shape, tokens), flags)

    def simpler(case: Case) -> Iterator[Case]:
        yield from norm.simpler(case)
        yield from plainer_flags(case, {**plain_flags, "quant_group": None})

    scaling = norm.scaling
    if scaling is not None:
        # scales follow y, which no factor changes
        scaling = replace(scaling, outputs={**scaling.outputs, "values": 0, "scales": 0})
    return replace(
        norm,
        name=name,
        factors={**norm.factors, **factors, "values": (*norm.ordinary, *BEHIND, *_special(norm))},
        readers={**norm.readers, **{factor: READERS[factor] for factor in factors}, "values": _values(norm)},
        complete=complete,
        outputs=lambda case: (*quantised_outputs(case), *_unquantised_outputs(norm, case)),
        formula=formula,
        rounds=(*norm.rounds, *rounds),
        points=lambda case: (*norm.points(case), *(point.name for point in rounds)),
        invalid={**norm.invalid, **INVALID},
        ordinary=(*norm.ordinary, *BEHIND),
        terms=(*(seen_in_values(term) for term in norm.terms), *_terms(norm)),
        empties=empties,
        model_case=model_case,
        simpler=simpler,
        # values and scales have no argument of their dtype to overwrite, and y is a fresh tensor
        in_place={name: over for name, over in norm.in_place.items() if name != "y"},
        scaling=scaling,
    )


def quantised(
    machine: Machine, contract: Contract, y: Interval, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of ``values`` and ``scales`` before their stores, ``y`` being ``(rows, n)``."""
    return scaled(machine, contract, y, given, case.flag("quant_group"), torch.finfo(_fp8(case)).max)


def scaled(
    machine: Machine,
    contract: Contract,
    y: Interval,
    given: Mapping[str, torch.Tensor],
    group: int | None,
    largest: float,
) -> dict[str, Interval]:
    """Return the intervals of the quotients, ``values``, and of their ``scales``, for groups of columns.

    The scales are judged given the ``y`` that was returned, where one was and the contract rounds it, and the
    values given the scales that were returned.
    """
    y = contract.at("unquantised", y, given["x"].dtype)
    if "unquantised" in contract.rounds and "y" in given:
        y = Interval.exactly(given["y"])
    n = y.lo.shape[-1]
    groups = _grouped(y, min(group or n, n))
    amax = _at_least(machine.largest(groups), FLOOR)
    scales = machine.quotient(amax, Interval.number(largest, amax.lo.device))
    if "power_of_two" in contract.rounds:
        scales = machine.power_of_two(scales)
    scales = scales.reshape(-1, groups.lo.shape[-2])
    used = Interval.exactly(given["scales"]) if "scales" in given else scales
    values = machine.quotient(groups, used.reshape(*used.lo.shape, 1))
    return {"values": _ungrouped(values, n), "scales": scales}


def _fp8(case: Case) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, case.flag("fp8_dtype"))
    return dtype


def _grouped(y: Interval, group: int) -> Interval:
    """Return ``y`` as ``(rows, groups, group)``; the last group is padded with zeros, which no maximum sees."""
    lacking = -y.lo.shape[-1] % group
    missing = None if y.missing is None else pad(y.nan, (0, lacking))
    span = y.span._replace(least=0.0) if lacking else y.span
    filled = Interval.of(pad(y.ends, (0, lacking)) if lacking else y.ends, missing, span)
    return filled.reshape(len(y.lo), -1, group)


def _ungrouped(values: Interval, n: int) -> Interval:
    flat = values.reshape(values.lo.shape[0], -1)
    missing = None if flat.missing is None else flat.nan[:, :n]
    return Interval.of(flat.ends[..., :n], missing, flat.span)


def _at_least(amax: Interval, floor: float) -> Interval:
    """Return the larger of ``amax`` and the floor, which kernels take as float32."""
    least = float(torch.tensor(floor, dtype=torch.float32))
    span = Span(max(amax.span.least, least), max(amax.span.most, least), positive=True)
    return Interval.of(amax.ends.clamp(min=least), amax.missing, span)


def quantised_outputs(case: Case) -> tuple[Output, ...]:
    """Return the outputs: values in x's shape, and a scale per row and group."""
    *leading, n = case.tensors[0][1].shape
    group = case.flag("quant_group")
    count = 1 if group is None else -(-n // group)
    columns = case.flag("scale_layout") == "column"
    return (
        Output("values", (*leading, n), _fp8(case)),
        Output("scales", (*leading, count), torch.float32, columns=columns),
    )


def _unquantised_outputs(norm: Operation, case: Case) -> tuple[Output, ...]:
    """Return the outputs of the norm, with y only if it was asked for."""
    wanted = dict(case.flags).get("also_unquantised", False)
    return tuple(output for output in norm.outputs(case) if wanted or output.name != "y")


def _special(norm: Operation) -> tuple[str, ...]:
    return tuple(level for level in norm.factors["values"] if level not in norm.ordinary)


def _call(name: str, case: Case, flags: Mapping[str, Flag]) -> Case:
    return replace(case, operation=name, flags=tuple({**dict(case.flags), **flags}.items()))


def _group(level: str, case: Case, rng: random.Random) -> int | None:
    """Return the columns of a quant group; a ragged one holds whole groups of the norm if it can."""
    if level == "row":
        return None
    if level == "larger":
        return LARGER
    if level == "ragged":
        n = case.tensors[0][1].shape[-1]
        normed = next((value for name, value in case.flags if name == "group_size" and isinstance(value, int)), n)
        spans = [group for group in range(2 * normed, n, normed) if n % group]
        fitting = spans or [group for group in RAGGED if group < n and n % group]
        return rng.choice(fitting[:2]) if fitting else LARGER
    return int(level)


def _quant_group(case: Case) -> str:
    group = case.flag("quant_group")
    if group is None:
        return "row"
    if str(group) in FACTORS["quant_group"]:
        return str(group)
    return "larger" if group >= case.tensors[0][1].shape[-1] else "ragged"


def _values(norm: Operation) -> Reader:
    """Return the reader of the norm's values, with the levels that are completed as another one of the norm."""

    def read(case: Case) -> str | None:
        name, first = case.tensors[0]
        behind = BEHIND.get(first.values)
        if behind is None:
            return norm.readers["values"](case)
        plain = case.with_tensor(name, replace(first, values=behind))
        return first.values if norm.readers["values"](plain) == behind else None

    return read


READERS: Mapping[str, Reader] = {
    "fp8": readers.flag("fp8_dtype"),
    "quant_group": _quant_group,
    "scales": readers.flag("scale_layout"),
    "unquantised": readers.flag("also_unquantised", {"yes": True, "no": False}),
}


def seen_in_values(term: Term) -> Term:
    """Return the term with the quantised outputs added: they show its loss where y is not returned."""
    shown = ("values", "scales") if "y" in term.outputs else ()
    return replace(term, outputs=(*term.outputs, *shown))


def _other_type(case: Case, values: Values) -> tuple[Case, Values]:
    other = next(name for name in FACTORS["fp8"] if name != case.flag("fp8_dtype"))
    return case.with_flag("fp8_dtype", other), values


def _without_quant_groups(case: Case, values: Values) -> tuple[Case, Values] | None:
    # None and a group of all columns or more are the same
    group = case.flag("quant_group")
    several = group is not None and group < case.tensors[0][1].shape[-1]
    return (case.with_flag("quant_group", None), values) if several else None


def _without_eps(case: Case) -> Case:
    """Return the call with an eps of zero, where it has one, and rows of which nothing else is left.

    Their norm is infinite, and ``0 * inf`` is that of padding; so is the norm of padding alone in every row.
    """
    for name, spec in case.tensors:
        if name in {"x", "residual"}:
            case = case.with_tensor(name, replace(spec, values="vanishing"))
    return case.with_flag("eps", 0.0) if "eps" in dict(case.flags) else case


def _terms(norm: Operation) -> tuple[Term, ...]:
    """Return the terms of the quantisation, shown by groups that do not fill a row, or a block of a kernel."""
    # of groups of the norm the last quant group has one of two in the first call, and each has three in the second
    grouped = "group" in norm.factors
    second = {"group": "several", "quant_group": "row"} if grouped else {"quant_group": "64", "width": "odd"}
    first = {"gate": "none", "group": "several", "quant_group": "ragged"}
    return (
        Term("quant groups", _without_quant_groups, outputs=("values",), levels=first, made=_without_eps),
        Term("fp8 type", _other_type, outputs=("scales",), levels=second, made=_without_eps),
    )


def _no_group(call: Arguments) -> Arguments:
    return {**call, "quant_group": 0}


def _negative_group(call: Arguments) -> Arguments:
    return {**call, "quant_group": -128}


def _unknown_layout(call: Arguments) -> Arguments:
    return {**call, "scale_layout": "diagonal"}


def _not_fp8(call: Arguments) -> Arguments:
    return {**call, "fp8_dtype": torch.float16}


INVALID = {
    "quant group zero": _no_group,
    "negative quant group": _negative_group,
    "unknown scale layout": _unknown_layout,
    "fp8 dtype of 16 bits": _not_fp8,
}
