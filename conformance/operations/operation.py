"""The description of an operation for the suite: one :class:`Operation` per file of this folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from conformance.cases.case import Case
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Complete, Factors, Scope
from conformance.cases.values import Profile
from conformance.operations.readers import Reader
from conformance.operations.term import Term, Values
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point
from conformance.oracle.interval import Interval

Arguments = dict[str, Any]  # arguments of a call by name: tensors, numbers, strings, None
Formula = Callable[[Machine, Contract, Mapping[str, torch.Tensor], Case], dict[str, Interval]]


@dataclass(frozen=True, slots=True)
class Output:
    """One result that a call must return: a fresh tensor of this shape and dtype, in strides that are declared.

    ``columns``: each column is contiguous in memory instead, as in ``t().contiguous().t()``: the leading
    dimensions dense from stride 1 on. There may be gaps between columns.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    columns: bool = False

    def misplaced(self, tensor: torch.Tensor, strides: str, like: tuple[int, ...]) -> str:
        """Return the strides that a tensor of this shape must have, in words, if its strides differ; or nothing.

        ``strides`` is ``contiguous``, ``dense``, or ``like_input``: the strides that elementwise operations give a
        result whose input has the strides ``like``.
        """
        if not self.columns or not tensor.numel():
            if tensor.is_contiguous():
                return "" if strides != "like_input" or _elementwise(tensor, like) else _AS_INPUT
            if strides == "dense":
                return "" if _dense(tensor) else "dense, in any order of dimensions"
            return "contiguous" if strides == "contiguous" else "" if _elementwise(tensor, like) else _AS_INPUT
        first = tensor.select(-1, 0)
        whole = first.is_contiguous() and (tensor.shape[-1] == 1 or tensor.stride(-1) >= first.numel())
        return "" if whole else "column by column: leading dimensions dense from stride 1 on"


_AS_INPUT = "those of elementwise operations on the input"


def _dense(tensor: torch.Tensor) -> bool:
    """Return whether the elements of a tensor fill a piece of memory, in any order of dimensions."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _elementwise(tensor: torch.Tensor, like: tuple[int, ...]) -> bool:
    """Return whether a tensor has the strides of an elementwise result, dimensions of one element aside."""
    if len(like) != tensor.dim():
        return tensor.is_contiguous()
    source = torch.empty_strided(tensor.shape, like, device="meta")
    expected = torch.empty_like(source).stride()
    pairs = zip(tensor.stride(), expected, tensor.shape, strict=True)
    return not tensor.numel() or all(got == want for got, want, size in pairs if size > 1)


@dataclass(frozen=True, slots=True)
class Scaling:
    """The effect of a factor on some arguments: the power of that factor that each output gets.

    It is exact for powers of two, as long as nothing overflows or underflows.
    """

    arguments: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Operation:
    """One mathematical function with its arguments.

    ``positional``: the arguments passed by position, in order; everything else goes by name. Tensors among either,
    and optional settings (``keywords`` names both that go by name), are None where a case does not have them.
    ``row_tensors`` have one row per row of the output, so that the oracle can work in chunks of rows;
    ``token_axes`` names the dimension of each row tensor that counts rows, where it is a single one and not all
    but the last. ``indexed`` are tables that hold rows for an argument to choose from, and that argument: without
    it they are row tensors. ``readers`` give the level that a case has of each factor, but for layouts, rank and
    rows. ``formula`` gives the interval of every output before its store, over row tensors in ``(rows,
    elements)``. In ``outputs``, an output from which another is computed comes after the other, and is judged
    before it. ``points`` are the rounding points that can show in a case, ``rounds`` all that the operation has,
    in the order of its formula. ``invalid`` makes a call meaningless in one way; ``unseen`` are the mistakes in
    values, which a call on a GPU does not read. ``copies`` gives the elements that an output takes over bit for
    bit: their places in the output, and their values. ``ordinary`` are the levels of the factor ``values`` with
    finite numbers far from overflow, ``telling`` the levels of other factors at which every rounding point shows.
    ``terms`` are the parts that a wrong formula may lack. ``model_case`` is the call of a real model for a number
    of tokens; ``simpler`` gives the cases to try in place of a failing one. ``in_place`` names the argument that
    the in-place form overwrites with an output, and leaves out the outputs that are fresh there too; it is empty
    without such a form. ``parameters`` are the tensors that a model loads once, and may reload. ``scaling`` is the
    effect on the outputs of a factor on the arguments. ``carried`` names outputs that are the sum of x and an
    argument, and that argument: the next layer's call gets these outputs for it. ``profiles`` are value profiles
    of the operation's own, all of finite numbers. ``one_factor`` says that a row of outputs is a row of arguments
    times one number.
    """

    name: str
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    row_tensors: frozenset[str]
    factors: Factors
    readers: Mapping[str, Reader]
    complete: Complete
    outputs: Callable[[Case], tuple[Output, ...]]
    formula: Formula
    rounds: tuple[Point, ...]
    points: Callable[[Case], tuple[str, ...]]
    invalid: Mapping[str, Callable[[Arguments], Arguments]]
    ordinary: tuple[str, ...]
    telling: Factors
    terms: tuple[Term, ...]
    empties: Callable[[Scope], tuple[Case, ...]]
    model_case: Callable[[ModelShape, int], Case]
    simpler: Callable[[Case], Iterator[Case]]
    token_axes: Mapping[str, int] = field(default_factory=dict)
    indexed: Mapping[str, str] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    copies: Callable[[Case, Values], Mapping[str, tuple[torch.Tensor, torch.Tensor]]] | None = None
    in_place: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ("weight",)
    scaling: Scaling | None = None
    carried: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    one_factor: bool = False


def telling_cases(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return calls within a scope in which the loss of each term shows: plain but for the term's own wishes.

    The calls follow from the operation and the scope alone, so every seed of a run has them.
    """
    factors = scope.levels(operation.factors)
    cases = []
    for term in operation.terms:
        assignment = {
            name: level if (level := term.levels.get(name)) in kept else kept[0] for name, kept in factors.items()
        }
        case = operation.complete(assignment, random.Random(0), scope)  # noqa: S311 - reproducible, not secret
        cases.append(case if term.made is None else term.made(case))
    return tuple(dict.fromkeys(cases))


def flags_of(operation: Operation) -> tuple[str, ...]:
    """Return the names of the flags that every call of an operation is given."""
    plain = {name: levels[0] for name, levels in operation.factors.items()}
    case = operation.complete(plain, random.Random(0), Scope("float32"))  # noqa: S311 - any call will do
    return tuple(name for name, _ in case.flags)
