"""Dataclasses as JSON data, and back: what is read has the types that are declared, or an error says where not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from conformance.cases.case import Case

T = TypeVar("T")
_SPARSE = "sparse"  # a field that is left out where it has its default
_REST = "rest"  # a field with all entries that no other field names


class Unreadable(ValueError):
    """Error: data that lack an entry, or have one of another type."""


def sparse(factory: Callable[[], T]) -> T:
    """Return a field that is written only where it differs from its default."""
    made: T = field(default_factory=factory, metadata={_SPARSE: True})
    return made


def rest() -> Any:  # noqa: ANN401 - as dataclasses.field
    """Return a field with the entries of an object that no other field names, which are written beside those."""
    return field(default_factory=dict, metadata={_REST: True})


def number(value: float) -> float | str:
    """Return a number in a form that JSON can hold: ``float()`` reads the strings back."""
    return value if math.isfinite(value) else str(value)


def to_data(value: object) -> Any:  # noqa: ANN401 - what JSON holds
    """Return a value as what JSON can hold."""
    if isinstance(value, Case):
        return value.to_data()
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_entries(value))
    if isinstance(value, Mapping):
        return {str(name): to_data(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(each) for each in value]
    return number(value) if isinstance(value, float) else value


def _entries(value: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - any dataclass
    entries: list[tuple[str, Any]] = []
    for each in fields(value):
        held = getattr(value, each.name)
        if each.metadata.get(_REST):
            entries += to_data(held).items()
        elif not (each.metadata.get(_SPARSE) and held == _default(each)):
            entries.append((each.name, to_data(held)))
    return entries


def from_data(kind: type[T], data: object, place: str = "") -> T:
    """Return the value of a type that :func:`to_data` wrote. Raises ``Unreadable`` with the place in the data."""
    read: T = _read(kind, data, place)
    return read


def _read(kind: Any, data: object, place: str) -> Any:  # noqa: ANN401 - a type, and a value of it
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin is UnionType:
        return _one_of(parts, data, place)
    if origin is tuple and isinstance(data, list | tuple):
        kinds = (parts[0],) * len(data) if parts[-1] is ... else parts
        if len(kinds) == len(data):
            pairs = enumerate(zip(kinds, data, strict=True))
            return tuple(_read(each, value, f"{place}[{number}]") for number, (each, value) in pairs)
    elif origin is Mapping and isinstance(data, Mapping):
        return {name: _read(parts[1], value, f"{place}.{name}") for name, value in data.items()}
    elif kind is Case and isinstance(data, Mapping):
        return _case(data, place)
    elif is_dataclass(kind) and isinstance(data, Mapping):
        return _object(kind, data, place)
    elif isinstance(kind, type) and issubclass(kind, StrEnum) and data in [*kind]:
        return kind(str(data))
    elif kind is float and _is_number(data):
        return float(data)  # type: ignore[arg-type]  # a number, or the text of one
    elif kind in {str, bool, int, NoneType} and type(data) is kind:
        return data
    raise Unreadable(f"{place.lstrip('.') or 'it'} is {_short(data)}, must be {_named(kind)}")


def _one_of(kinds: tuple[Any, ...], data: object, place: str) -> Any:  # noqa: ANN401 - a value of one of them
    error = Unreadable(place)
    for kind in kinds:
        try:
            return _read(kind, data, place)
        except Unreadable as refused:
            # the message of the type that the data resemble
            error = refused if kind is not NoneType else error
    raise error


def _case(data: Mapping[str, Any], place: str) -> Case:
    try:
        return Case.from_data(data)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{place.lstrip('.')} is no case: {error}") from error


def _object(kind: Any, data: Mapping[str, Any], place: str) -> Any:  # noqa: ANN401 - a dataclass, and one of it
    given: dict[str, Any] = {}
    hints = _hints(kind)
    for each in fields(kind):
        if each.metadata.get(_REST):
            others = {name: value for name, value in data.items() if name not in hints}
            given[each.name] = _read(hints[each.name], others, place)
        elif each.name in data:
            given[each.name] = _read(hints[each.name], data[each.name], f"{place}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise Unreadable(f"{place.lstrip('.') or 'it'} has no {each.name!r}")
    return kind(**given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _default(each: Field[Any]) -> object:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _is_number(data: object) -> bool:
    named = isinstance(data, str) and data in {"nan", "inf", "-inf"}
    return named or (isinstance(data, int | float) and not isinstance(data, bool))


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(kind: Any) -> str:  # noqa: ANN401 - a type
    if get_origin(kind) is tuple:
        return "a list" if get_args(kind)[-1] is ... else f"a list of {len(get_args(kind))}"
    if get_origin(kind) is Mapping or is_dataclass(kind):
        return "an object"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    return {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "null")
