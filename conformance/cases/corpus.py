"""The data of ``fixtures/``: the shapes of real models, and cases that once failed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from conformance.cases.case import Case, Flag


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The call of one operation by one real model on one rank of a tensor-parallel group."""

    model: str
    operation: str
    tp: int
    heads: int | None  # on this rank; None where the model normalises the whole row at once
    head_dim: int  # the last dimension, on this rank
    hidden_size: int  # of the model: a width for the norms between layers
    eps: float | None  # None where the operation has none
    dtype: str
    flags: tuple[tuple[str, Flag], ...]  # without eps, sorted by name
    decode: tuple[int, ...]  # tokens in a batch
    prefill: tuple[int, ...]  # tokens in a prompt; far too many for a CPU
    source: str

    def shape(self, tokens: int) -> tuple[int, ...]:
        """Return the shape of x for a number of tokens."""
        return (tokens, self.head_dim) if self.heads is None else (tokens, self.heads, self.head_dim)


def fixtures() -> Traversable:
    """Return the folder of fixtures: inside the package in an installed wheel, next to it in a checkout.

    Raises ``FileNotFoundError`` without one: a run would judge no case of a real model, and say nothing.
    """
    places = resources.files("conformance") / "fixtures", Path(__file__).resolve().parents[2] / "fixtures"
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"fixtures are in none of {', '.join(map(str, places))}: install the suite again")
    return found


def model_shapes() -> tuple[ModelShape, ...]:
    """Return every shape of ``fixtures/models``, per model and then per tensor parallelism."""
    return tuple(
        shape
        for file in _files("models", ".toml")
        for shape in _shapes(tomllib.loads(file.read_text(encoding="utf-8")))
    )


def saved_cases() -> tuple[Case, ...]:
    """Return every case of ``fixtures/cases``.

    Each failed once, or came nearest to its bound; every run judges them.
    """
    return tuple(Case.from_json(file.read_text(encoding="utf-8")) for file in _files("cases", ".json"))


def _files(folder: str, suffix: str) -> list[Traversable]:
    """Return the files of a folder in the order of their names; none if the folder does not exist."""
    where = fixtures() / folder
    if not where.is_dir():
        return []
    return sorted((f for f in where.iterdir() if f.name.endswith(suffix)), key=lambda f: f.name)


def _shapes(model: dict[str, Any]) -> list[ModelShape]:
    """Return the shapes of a model's file: its own keys, and a table, or a list of tables, per operation."""
    return [
        _shape(model, operation, table, tp)
        for operation, tables in model.items()
        for table in ([tables] if isinstance(tables, dict) else tables if _are_tables(tables) else [])
        for tp in model["tensor_parallel"]
    ]


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _shape(model: dict[str, Any], operation: str, table: dict[str, Any], tp: int) -> ModelShape:
    """Return one rank's part: whole heads, whole groups of a ``width``, or all of a ``whole`` or hidden row."""
    flags = dict(table)
    eps = flags.pop("eps", None)
    heads = None
    if "width" in flags:
        head_dim = _share(model, "width", flags.pop("width"), tp)
    elif "whole" in flags:
        head_dim = flags.pop("whole")
    elif "heads" in flags:
        heads, head_dim = _share(model, "heads", flags.pop("heads"), tp), flags.pop("head_dim")
    else:
        head_dim = model["hidden_size"]
    return ModelShape(
        model=model["model"],
        operation=operation,
        tp=tp,
        heads=heads,
        head_dim=head_dim,
        hidden_size=model["hidden_size"],
        eps=eps,
        dtype=model["dtype"],
        flags=tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in flags.items())),
        decode=tuple(model["decode"]),
        prefill=tuple(model["prefill"]),
        source=model["source"],
    )


def _share(model: dict[str, Any], name: str, size: int, tp: int) -> int:
    """Return the part of ``size`` on one of ``tp`` ranks."""
    if size % tp:
        raise ValueError(f"{model['model']}: {name}={size} does not divide among {tp} ranks")
    return size // tp
