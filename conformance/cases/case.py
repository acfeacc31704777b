"""A case: everything about one call as data. No tensors; JSON in, JSON out; a stable id.

Shapes are in elements, dtypes are torch's names (``"bfloat16"``). The strategies, the runs, shrinking, the report
and the benchmarks all use cases, and the same case always means the same call.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Flag = str | float | int | bool | tuple[int, ...] | None

# the plainest first: cases shrink towards it
LAYOUTS = ("contiguous", "row_gap", "offset", "step", "transposed", "swapped", "expanded", "shared")
SAME = "same"
SHARED_PARTS = 2  # parts of a shared buffer: x and gate, as slices of one projection
# layouts of a tensor other than the first: a residual or a gate may be x itself
BESIDE = (*LAYOUTS, SAME)


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a tensor in its owner buffer, counted in elements."""

    strides: tuple[int, ...]
    offset: int
    extent: int  # elements of the buffer, from its start


@dataclass(frozen=True, slots=True)
class Layout:
    """The memory layout of a tensor: a kind, one amount, and for a slice the width of the rows it is cut from.

    ========== ======================================================================================
    contiguous row-major, nothing between rows
    offset     contiguous, ``amount`` elements after an aligned address
    row_gap    ``amount`` foreign elements after every row (for a vector: the step of its elements, less one)
    step       every ``amount``-th element of a wider row
    transposed the last two dimensions are swapped in memory (a vector: every second element)
    swapped    the first two dimensions are swapped in memory, rows stay whole
    expanded   the first dimension has stride 0 (a vector: one element seen ``n`` times)
    shared     the ``amount``-th part of a buffer that all shared tensors of the case divide, like a
               projection of which x and gate are slices
    slice      from element ``amount`` on of rows that are ``width`` elements long; slices of equally many rows
               of one width share one buffer, like q and k of a qkv projection
    same       no memory of its own: the case's first tensor, passed once more
    ========== ======================================================================================
    """

    kind: str = "contiguous"
    amount: int = 0
    width: int = 0

    def __str__(self) -> str:
        if self.width:
            return f"{self.kind}({self.amount} of {self.width})"
        return f"{self.kind}({self.amount})" if self.amount else self.kind

    def place(self, shape: tuple[int, ...], parts: int = 1) -> Placement:
        """Return strides, offset and buffer length of a tensor of this layout; ``parts`` tensors share a buffer.

        ``same`` has no place: ask the layout of the first tensor.
        """
        if self.kind == "slice":
            return _slice(shape, self.amount, self.width)
        return _PLACES[self.kind](shape, self.amount, parts)


def _dense(shape: tuple[int, ...], step: int = 1) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _contiguous(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    return Placement(_dense(shape), 0, math.prod(shape))


def _offset(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    return Placement(_dense(shape), amount, amount + math.prod(shape))


def _row_gap(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    if len(shape) == 1:
        return _step(shape, amount + 1, parts)
    strides = (*_dense(shape[:-1], shape[-1] + amount), 1)
    # the gap after the last row belongs to the buffer as well: it is where a row that is written too far ends
    return Placement(strides, 0, _span(shape, strides) + amount)


def _step(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    strides = _dense(shape, amount)
    return Placement(strides, 0, _span(shape, strides) + amount - 1)


def _transposed(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    if len(shape) == 1:
        return _step(shape, 2, parts)
    *leading, rows, columns = shape
    *outer, column_stride, row_stride = _dense((*leading, columns, rows))
    return Placement((*outer, row_stride, column_stride), 0, math.prod(shape))


def _swapped(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    if len(shape) < 3:
        return _row_gap(shape, 1, parts)
    first, second, *rest = shape
    second_stride, first_stride, *others = _dense((second, first, *rest))
    return Placement((first_stride, second_stride, *others), 0, math.prod(shape))


def _expanded(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    strides = (0, *_dense(shape[1:]))
    return Placement(strides, 0, _span(shape, strides))


def _shared(shape: tuple[int, ...], amount: int, parts: int) -> Placement:
    if len(shape) == 1:
        return Placement((1,), amount * shape[0], parts * shape[0])
    # the part is a slice of the dimension after the first, as in x, gate = proj.chunk(2, dim=1)
    part = math.prod(shape[1:])
    strides = (parts * part, *_dense(shape[1:]))
    return Placement(strides, amount * part, parts * math.prod(shape))


def _slice(shape: tuple[int, ...], start: int, width: int) -> Placement:
    # a vector is one such row
    strides = (width, *_dense(shape[1:])) if len(shape) > 1 else (1,)
    return Placement(strides, start, width * (shape[0] if len(shape) > 1 else 1))


_PLACES = {
    "contiguous": _contiguous,
    "offset": _offset,
    "row_gap": _row_gap,
    "step": _step,
    "transposed": _transposed,
    "swapped": _swapped,
    "expanded": _expanded,
    "shared": _shared,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a call. ``values`` names a profile of ``values.py``."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout = Layout()
    values: str = "normal"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape)) or "scalar"
        plain = self.layout.kind == "contiguous"
        return f"{size} {self.dtype} {self.values}" + ("" if plain else f" {self.layout}")


def reaches(spec: TensorSpec) -> bool:
    """Return whether a layout changes the strides or the offset of a tensor: one row cannot be transposed."""
    if spec.layout.kind == SAME:
        return True
    place = spec.layout.place(spec.shape, SHARED_PARTS)
    dense, step = True, 1
    for size, stride in zip(reversed(spec.shape), reversed(place.strides), strict=True):
        dense &= size == 1 or stride == step
        step *= size
    return place.offset > 0 or not (dense or step == 0)


@dataclass(frozen=True, slots=True)
class Case:
    """One call: the operation, its tensors and flags by name, and the seed of every element.

    A tensor that is not passed (``gate=None``) is absent; the first tensor passed once more has the layout
    ``same`` and takes all else from the first. ``invalid`` names the deliberate mistake in this call.
    """

    operation: str
    tensors: tuple[tuple[str, TensorSpec], ...]
    flags: tuple[tuple[str, Flag], ...]
    seed: int = 0
    invalid: str | None = None

    def __post_init__(self) -> None:
        """Put tensors and flags in a fixed order, so that equal calls are equal cases."""
        given = dict(self.tensors)
        tensors = [(name, given[name]) for name in in_order(given)]
        first = tensors[0][1]
        like_first = [(n, replace(first, layout=s.layout) if s.layout.kind == SAME else s) for n, s in tensors]
        object.__setattr__(self, "tensors", tuple(like_first))
        object.__setattr__(self, "flags", tuple(sorted(self.flags)))

    def __str__(self) -> str:
        tensors = ", ".join(f"{name}: {spec}" for name, spec in self.tensors)
        flags = ", ".join(f"{name}={value!r}" for name, value in self.flags)
        wrong = f", invalid: {self.invalid}" if self.invalid else ""
        return f"{self.operation}({tensors}; {flags}; seed {self.seed}{wrong})"

    @property
    def id(self) -> str:
        """Ten hexadecimal digits that follow from the content alone."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]

    @property
    def dtype(self) -> str:
        """The dtype of the first tensor, which names the case in reports."""
        return self.tensors[0][1].dtype

    @property
    def rows(self) -> int:
        """The number of rows of the first tensor."""
        return math.prod(self.tensors[0][1].shape[:-1])

    def tensor(self, name: str) -> TensorSpec | None:
        """Return the spec of a tensor, or None where the call does not pass it."""
        return dict(self.tensors).get(name)

    def source(self, name: str) -> str:
        """Return the name of the tensor that is passed as ``name``: the first one's if the layout is ``same``."""
        spec = self.tensor(name)
        return self.tensors[0][0] if spec is not None and spec.layout.kind == SAME else name

    def flag(self, name: str) -> Any:  # noqa: ANN401 - flags are of several types, each checked by its operation
        """Return the value of a flag."""
        return dict(self.flags)[name]

    def with_tensor(self, name: str, spec: TensorSpec | None) -> Case:
        """Return this case with one tensor replaced, or left out."""
        items = [(n, spec if n == name else s) for n, s in self.tensors]
        return replace(self, tensors=tuple((n, s) for n, s in items if s is not None))

    def with_flag(self, name: str, value: Flag) -> Case:
        """Return this case with one flag replaced."""
        return replace(self, flags=tuple((n, value if n == name else v) for n, v in self.flags))

    def without_flag(self, name: str) -> Case:
        """Return this case with one flag left out."""
        return replace(self, flags=tuple((n, v) for n, v in self.flags if n != name))

    def to_json(self) -> str:
        """Return canonical JSON: the same case is always the same text."""
        return json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"))

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        tensors = {
            name: {
                "shape": list(spec.shape),
                "dtype": spec.dtype,
                "layout": _written(spec.layout),
                "values": spec.values,
            }
            for name, spec in self.tensors
        }
        data: dict[str, Any] = {
            "operation": self.operation,
            "tensors": tensors,
            "flags": dict(self.flags),
            "seed": self.seed,
        }
        if self.invalid is not None:
            data["invalid"] = self.invalid
        return data

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read the text of :meth:`to_json`. Raises ``ValueError`` that names the missing part."""
        data = json.loads(text)
        try:
            return cls.from_data(data)
        except (KeyError, TypeError, AttributeError) as error:
            message = f"not a case: {error!r} in {text[:200]}"
            raise ValueError(message) from error

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Case:
        """Read the data of :meth:`to_data`."""
        tensors = tuple(
            (
                name,
                TensorSpec(tuple(t["shape"]), t["dtype"], Layout(*t["layout"]), t["values"]),
            )
            for name, t in data["tensors"].items()
        )
        flags = tuple(
            (name, tuple(value) if isinstance(value, list) else value) for name, value in data["flags"].items()
        )
        return cls(data["operation"], tensors, flags, data["seed"], data.get("invalid"))


def _written(layout: Layout) -> list[str | int]:
    # two items where there is no width: an id follows from the text
    return [layout.kind, layout.amount, *([layout.width] if layout.width else [])]


# the first tensor names a case, and sorted JSON would put gate before x
_NAMES = ("x", "q", "k", "gate", "residual", "weight", "positions", "cos", "sin")
_ORDER = {name: place for place, name in enumerate(_NAMES, start=-len(_NAMES))}


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of tensors in the order of cases: the first one names a case in reports."""
    return sorted(names, key=lambda name: (_ORDER.get(name, 0), name))
