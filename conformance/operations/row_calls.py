"""Calls on rows, said by their tensors and settings: from these follow factors, cases, mistakes and simpler calls.

The first tensor is rows of columns, with any leading dimensions; every other one is in its shape, or has a number
for every column.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from conformance.cases.case import Case, Flag, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import DTYPES, Assignment, Factors, Scope, layout, leading, rows, width
from conformance.cases.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.operations import readers
from conformance.operations.operation import Formula, Operation, Output
from conformance.operations.readers import Reader
from conformance.operations.tensors import Columns, Mistake, Rows, Tensor
from conformance.operations.term import Term
from conformance.oracle.contract import Point

# the eps of models, and one on either side of them
EPS = (1e-6, 1e-5, 1e-2, 1e-9)

EMPTY_SHAPES = ((0, 128), (0, 4, 128), (3, 0, 128), (0,), (4, 0), (2, 0, 3, 96))

RANKS = ("2", "1", "3", "4")
ROWS = ("few", "one", "many")
WIDTHS = ("tile", "narrow", "edge", "odd", "wide")


def by_profile(others: tuple[str, ...], *profiles: str) -> dict[str, tuple[str, ...]]:
    """Return levels of the factor ``values``: each a profile of the first tensor, all with the same others."""
    return {profile: (profile, *others) for profile in profiles}


@dataclass(frozen=True, slots=True)
class Setting:
    """An argument that is no tensor, passed by name.

    ``levels``: its value by level of a factor, the plainest first; ``factor``: the factor's name, by default the
    argument's. Without levels it is one of ``drawn``, and no factor. A setting whose plain value is None is
    optional: a case leaves it out there, and its call passes None.
    """

    name: str
    levels: Mapping[str, Flag] = field(default_factory=dict)
    factor: str = ""
    drawn: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        """Call the factor as the argument, unless it has another name."""
        object.__setattr__(self, "factor", self.factor or self.name)

    @property
    def plain(self) -> Flag:
        """Return the value at the plainest level."""
        return next(iter(self.levels.values()))

    @property
    def optional(self) -> bool:
        """Return whether calls may leave the setting out."""
        return bool(self.levels) and self.plain is None


EPSILON = Setting("eps", drawn=EPS)

# columns of a row, and the flags that follow from how they were drawn
Widths = Callable[[Assignment, random.Random, Scope], tuple[int, dict[str, Flag]]]


def _one_part(assignment: Assignment, rng: random.Random, scope: Scope) -> tuple[int, dict[str, Flag]]:
    return width(assignment["width"], rng, scope), {}


@dataclass(frozen=True, slots=True)
class RowCalls:
    """The calls of one operation.

    ``values`` are the profiles of the tensors by level of the factor ``values``, the plainest level first.
    ``widths`` draws the columns; where these have parts, ``plain`` holds the plain values of its flags, ``groups``
    the levels of the factor ``group`` and ``narrower`` the calls of fewer columns.
    """

    operation: str
    tensors: tuple[Tensor, ...]
    values: Mapping[str, tuple[str, ...]]
    settings: tuple[Setting, ...] = ()
    widths: Widths = _one_part
    plain: Mapping[str, Flag] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    narrower: Callable[[RowCalls, Case], Iterator[Case]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tensors, in the order of the profiles of their values."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def companions(self) -> tuple[Tensor, ...]:
        """Return the other tensors in the first one's shape."""
        return tuple(tensor for tensor in self.tensors[1:] if isinstance(tensor, Rows))

    @property
    def factors(self) -> Factors:
        """Return the factors with their levels: those of the settings, then all others by name."""
        of_tensors = {tensor.name: tensor.dtypes for tensor in self.tensors if tensor.dtypes}
        of_tensors |= {f"{tensor.name}_layout": tensor.layouts for tensor in self.tensors}
        sizes = {"rank": RANKS, "rows": ROWS, "values": tuple(self.values), "width": WIDTHS}
        sizes |= {"group": self.groups} if self.groups else {}
        of_settings = {setting.factor: tuple(setting.levels) for setting in self.settings if setting.levels}
        return {**of_settings, **dict(sorted({**of_tensors, **sizes}.items()))}

    @property
    def readers(self) -> Mapping[str, Reader]:
        """Return how the level of each factor is read from a case, but for ranks, rows and layouts."""
        tensors = {each.name: readers.dtype(each.name, each.dtypes) for each in self.tensors if each.dtypes}
        settings = {each.factor: readers.flag(each.name, each.levels) for each in self.settings if each.levels}
        sizes = {"values": readers.values(self.names, self.values), "width": readers.width}
        return {**tensors, **settings, **sizes}

    @property
    def mistakes(self) -> dict[str, Mistake]:
        """Return the ways in which a call can be wrong in one tensor: companions, the first one, vectors."""
        found: dict[str, Mistake] = {}
        for tensor in sorted(self.tensors, key=lambda each: (isinstance(each, Columns), each is self.tensors[0])):
            found |= tensor.mistakes(self.names[0])
        return found

    def complete(self, assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
        """Return a call with the assignment's levels; sizes, amounts and seed from ``rng``."""
        n, flags = self.widths(assignment, rng, scope)
        count = rows(assignment["rows"], rng, scope, n)
        first = (*leading(count, int(assignment["rank"]), rng), n)
        tensors: list[tuple[str, TensorSpec]] = []
        for tensor, profile in zip(self.tensors, self.values[assignment["values"]], strict=True):
            level = assignment[tensor.name] if tensor.dtypes else "same"
            if level == "none":
                continue
            dtype = tensor.dtype(level, scope.dtype, rng)
            place = layout(assignment[f"{tensor.name}_layout"], rng)
            place = Layout("shared", 1) if tensors and place.kind == "shared" else place
            tensors.append((tensor.name, TensorSpec(tensor.shape(first), dtype, place, profile)))
        for setting in self.settings:
            known = setting.levels
            value = known[assignment[setting.factor]] if known else rng.choice(setting.drawn)
            if value is not None or not setting.optional:
                flags[setting.name] = value
        return Case(self.operation, tuple(tensors), tuple(flags.items()), rng.randrange(2**32))

    def empties(self, scope: Scope) -> tuple[Case, ...]:
        """Return calls without elements, in three layouts, with companions in every dtype that they may have."""
        plain = {factor: levels[0] for factor, levels in self.factors.items()}
        return tuple(self._empties(self.complete(plain, random.Random(0), scope)))  # noqa: S311

    def _empties(self, base: Case) -> Iterator[Case]:
        other = next(name for name in DTYPES if name != base.dtype)
        for shape in EMPTY_SHAPES:
            for kind in ("contiguous", "row_gap", "expanded"):
                empty = TensorSpec(shape, base.dtype, Layout(kind))
                case = self.resized(base, shape)
                for tensor in (self.tensors[0], *self.companions):
                    case = case.with_tensor(tensor.name, empty)
                yield case
                for tensor in self.companions:
                    if "other" in tensor.dtypes:
                        yield case.with_tensor(tensor.name, replace(empty, dtype=other))
                    if tensor.optional:
                        yield case.with_tensor(tensor.name, None)

    def resized(self, case: Case, shape: tuple[int, ...]) -> Case:
        """Return the case with its first tensor in another shape, and all others in shapes that fit."""
        for tensor in self.tensors:
            spec = case.tensor(tensor.name)
            if spec is not None:
                case = case.with_tensor(tensor.name, replace(spec, shape=tensor.shape(shape)))
        return case

    def model_case(self, shape: ModelShape, tokens: int) -> Case:
        """Return the call of a real model: every tensor in one dtype, rows at scales of their own."""
        first, plain = shape.shape(tokens), next(iter(self.values.values()))
        profiles = ("rows" if profile == "normal" else profile for profile in plain)
        tensors = tuple(
            (tensor.name, TensorSpec(tensor.shape(first), shape.dtype, values=profile))
            for tensor, profile in zip(self.tensors, profiles, strict=True)
        )
        flags = {**self._plain_flags(), **dict(shape.flags)} | ({} if shape.eps is None else {"eps": shape.eps})
        return Case(self.operation, tensors, tuple(flags.items()), tokens)

    def simpler(self, case: Case) -> Iterator[Case]:
        """Yield cases with plain layouts, flags and dtypes, fewer tensors, smaller shapes, ordinary values."""
        yield from plainer_layouts(case)
        yield from plainer_flags(case, self._plain_flags())
        for setting in self.settings:
            if setting.optional and setting.name in dict(case.flags):
                yield case.without_flag(setting.name)
        for tensor in self.tensors:
            if tensor.optional and case.tensor(tensor.name) is not None:
                yield case.with_tensor(tensor.name, None)
        for tensor in self.tensors:
            spec = case.tensor(tensor.name)
            if spec is not None and "same" in tensor.dtypes and spec.dtype != case.dtype:
                yield case.with_tensor(tensor.name, replace(spec, dtype=case.dtype))
        yield from self.fewer_rows(case)
        yield from self.narrower(self, case) if self.narrower is not None else self.fewer_columns(case)
        yield from plainer_values(case, dict(zip(self.names, next(iter(self.values.values())), strict=True)))

    @property
    def telling(self) -> Factors:
        """Return the dtypes in which rounding shows: a product with a wider operand stays in the wider dtype."""
        return {tensor.name: ("same",) for tensor in self.tensors if "same" in tensor.dtypes}

    def _plain_flags(self) -> dict[str, Any]:
        said = (setting for setting in self.settings if setting.levels and not setting.optional)
        return {**self.plain, **{setting.name: setting.plain for setting in said}}

    def fewer_rows(self, case: Case) -> Iterator[Case]:
        """Yield the case with fewer dimensions and rows."""
        *leading_sizes, n = case.tensors[0][1].shape
        if len(leading_sizes) > 1:
            yield self.resized(case, (case.rows, n))
        if leading_sizes and case.rows == 1:
            yield self.resized(case, (n,))
        for place, size in enumerate(leading_sizes):
            for fewer in smaller(size):
                yield self.resized(case, (*leading_sizes[:place], fewer, *leading_sizes[place + 1 :], n))

    def fewer_columns(self, case: Case) -> Iterator[Case]:
        """Yield the case with fewer columns."""
        *leading_sizes, n = case.tensors[0][1].shape
        for fewer in smaller(n):
            yield self.resized(case, (*leading_sizes, fewer))


def below_eps(case: Case) -> Case:
    """Return the call with the largest eps, and rows so small that eps is most of the sum."""
    for name, spec in case.tensors:
        if name in {"x", "residual", "q", "k"}:
            case = case.with_tensor(name, replace(spec, values="small"))
    return case.with_flag("eps", max(EPS))


def like_the_first(case: Case) -> tuple[Output, ...]:
    """Return the one output of most operations: y in the first tensor's shape and dtype."""
    first = case.tensors[0][1]
    return (Output("y", first.shape, getattr(torch, first.dtype)),)


def row_operation(
    calls: RowCalls,
    *,
    formula: Formula,
    rounds: tuple[Point, ...],
    points: Callable[[Case], tuple[str, ...]],
    ordinary: tuple[str, ...],
    terms: tuple[Term, ...],
    outputs: Callable[[Case], tuple[Output, ...]] = like_the_first,
    mistakes: Mapping[str, Mistake] = MappingProxyType({}),
    **rest: Any,  # noqa: ANN401 - other fields of an operation
) -> Operation:
    """Return the operation of some calls. ``rest`` are fields with a default, or in place of what follows here."""
    followed: dict[str, Any] = {
        "name": calls.operation,
        "positional": tuple(tensor.name for tensor in calls.tensors if not tensor.keyword),
        "keywords": (
            *(tensor.name for tensor in calls.tensors if tensor.keyword),
            *(setting.name for setting in calls.settings if setting.optional),
        ),
        "row_tensors": frozenset(tensor.name for tensor in calls.tensors if isinstance(tensor, Rows)),
        "factors": calls.factors,
        "readers": calls.readers,
        "complete": calls.complete,
        "outputs": outputs,
        "formula": formula,
        "rounds": rounds,
        "points": points,
        "invalid": {**calls.mistakes, **mistakes},
        "ordinary": ordinary,
        "telling": calls.telling,
        "terms": terms,
        "empties": calls.empties,
        "model_case": calls.model_case,
        "simpler": calls.simpler,
        "parameters": tuple(tensor.name for tensor in calls.tensors if isinstance(tensor, Columns)),
    }
    return Operation(**{**followed, **rest})
