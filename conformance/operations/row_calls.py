"""Common parts of calls on rows: x, perhaps a companion of x's shape (gate, residual), and a weight per column."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from conformance.cases.case import Case, Layout, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.cases.shrink import smaller
from conformance.operations.operation import Arguments

# the eps of models, and one on either side of them
EPS = (1e-6, 1e-5, 1e-2, 1e-9)

EMPTY_SHAPES = ((0, 128), (0, 4, 128), (3, 0, 128), (0,), (4, 0), (2, 0, 3, 96))


def other_dtype(dtype: str, rng: random.Random) -> str:
    """Return one of the dtypes that are not ``dtype``."""
    return rng.choice([name for name in DTYPES if name != dtype])


def below_eps(case: Case) -> Case:
    """Return the call with the largest eps, and rows so small that eps is most of the sum."""
    for name, spec in case.tensors:
        if name in {"x", "residual"}:
            case = case.with_tensor(name, replace(spec, values="small"))
    return case.with_flag("eps", max(EPS))


def empty_calls(base: Case, companion: str) -> Iterator[Case]:
    """Yield calls without elements, in three layouts, with a companion in x's dtype, in another, and without."""
    x = base.tensors[0][1]
    other = next(name for name in DTYPES if name != x.dtype)
    for shape in EMPTY_SHAPES:
        for kind in ("contiguous", "row_gap", "expanded"):
            empty = TensorSpec(shape, x.dtype, Layout(kind))
            case = resized(base, shape).with_tensor("x", empty).with_tensor(companion, empty)
            yield case
            yield case.with_tensor(companion, replace(empty, dtype=other))
            yield case.with_tensor(companion, None)


def plainer_dtypes(case: Case) -> Iterator[Case]:
    """Yield the case with one tensor at a time in x's dtype."""
    for name, spec in case.tensors:
        if spec.dtype != case.dtype:
            yield case.with_tensor(name, replace(spec, dtype=case.dtype))


def smaller_shapes(case: Case) -> Iterator[Case]:
    """Yield the case with fewer dimensions, rows and columns."""
    yield from fewer_rows(case)
    *leading, n = case.tensors[0][1].shape
    for fewer in smaller(n):
        yield resized(case, (*leading, fewer))


def fewer_rows(case: Case) -> Iterator[Case]:
    """Yield the case with fewer dimensions and rows."""
    *leading, n = case.tensors[0][1].shape
    if len(leading) > 1:
        yield resized(case, (case.rows, n))
    if leading and case.rows == 1:
        yield resized(case, (n,))
    for place, size in enumerate(leading):
        for fewer in smaller(size):
            yield resized(case, (*leading[:place], fewer, *leading[place + 1 :], n))


def resized(case: Case, shape: tuple[int, ...]) -> Case:
    """Return the case with x and its companion in another shape, and a weight that fits."""
    for name, spec in case.tensors:
        case = case.with_tensor(name, replace(spec, shape=shape[-1:] if name == "weight" else shape))
    return case


def _integers(call: Arguments) -> Arguments:
    return {**call, "x": torch.ones_like(call["x"], dtype=torch.int32)}


def _a_scalar(call: Arguments) -> Arguments:
    scalar = call["x"].new_ones(())
    return {name: scalar if _like_x(call, value) else value for name, value in call.items()}


def _like_x(call: Arguments, value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == call["x"].shape


def _weight_too_long(call: Arguments) -> Arguments:
    return {**call, "weight": torch.cat([call["weight"], call["weight"]])}


def _weight_of_one(call: Arguments) -> Arguments:
    return {**call, "weight": call["weight"][:1]}


def _weight_per_row(call: Arguments) -> Arguments:
    return {**call, "weight": call["x"].to(call["weight"].dtype)}


def _weight_of_integers(call: Arguments) -> Arguments:
    return {**call, "weight": torch.ones_like(call["weight"], dtype=torch.int32)}


Mistakes = dict[str, Callable[[Arguments], Arguments]]

WRONG_X: Mistakes = {"x of integers": _integers, "x without a dimension": _a_scalar}

WRONG_WEIGHTS: Mistakes = {
    "weight too long": _weight_too_long,
    "weight of one element": _weight_of_one,
    "weight with rows": _weight_per_row,
    "weight of integers": _weight_of_integers,
}


def wrong_companion(name: str) -> Mistakes:
    """Return the mistakes of a companion: another shape, a shape that would broadcast, and integers."""

    def another_shape(call: Arguments) -> Arguments:
        return {**call, name: call[name][..., :-1]}

    def broadcasts(call: Arguments) -> Arguments:
        given = call[name]
        return {**call, name: given.reshape(-1, given.shape[-1])[0].expand(*(1,) * (given.dim() - 1), -1)}

    def integers(call: Arguments) -> Arguments:
        return {**call, name: torch.ones_like(call[name], dtype=torch.int32)}

    return {
        f"{name} of another shape": another_shape,
        f"{name} that would broadcast": broadcasts,
        f"{name} of integers": integers,
    }
