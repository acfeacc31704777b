"""Options that a project keeps in a file: ``conform.toml``, or ``[tool.conform]`` in its ``pyproject.toml``.

The keys are ``target`` and the options of ``conform run``, without their dashes::

    target = "my_adapter.py"
    profile = "ci"
    op = ["rms_norm", "rms_norm_gated"]

Paths are relative to the folder of the file, in which ``conform`` or pytest runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conformance.adapter import UsageError
from conformance.calls.claim import known
from conformance.runs.options import NAMED, OPTIONS, Option, arguments

OWN, SHARED = "conform.toml", "pyproject.toml"
# a chunk is a part of a single run
KEYS = {each.name: each for each in (replace(NAMED["adapter"], name="target"), *OPTIONS) if each.name != "chunk"}
KINDS: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float)}
WORDS: Mapping[type, str] = {int: "a whole number", float: "a number"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Values by the names of options, and the file that has them; both are empty where there is no file."""

    file: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def read(folder: Path) -> Settings:
    """Return what a folder says. Raises ``UsageError`` with the nearest known key, or what is taken."""
    own, shared = _toml(folder / OWN), _toml(folder / SHARED) or {}
    tool = shared.get("tool")
    table = tool.get("conform") if isinstance(tool, dict) else None
    if own is not None and table is not None:
        raise UsageError(f"{OWN}: options are also under [tool.conform] in {SHARED}, keep them in one of the two")
    if own is not None:
        return Settings(OWN, _checked(OWN, own))
    return Settings() if table is None else Settings(SHARED, _checked(f"{SHARED}: tool.conform", table))


def missing(found: Settings, line: Sequence[str]) -> list[str]:
    """Return the arguments for pytest that a file has and a command line lacks; they name the file too."""
    named = {"adapter" if name == "target" else name: value for name, value in found.values.items()}
    named |= {"options-from": found.file or None}
    given = {each.partition("=")[0] for each in line}
    return arguments(
        {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in named.items()
            if NAMED[name].flag not in given
        }
    )


def _toml(path: Path) -> dict[str, Any] | None:
    """Return what a file holds, or None where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path.name}: is not TOML: {error}") from error


def _checked(where: str, table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{where} = {table!r}, must be a table of options")
    for name in table:
        known(where, name, KEYS)
    return {name: _value(where, KEYS[name], given) for name, given in table.items()}


def _value(where: str, option: Option, given: object) -> object:
    """Return the value of an option; of a repeatable one all values, also where a single one is given."""
    values = given if option.many and isinstance(given, list) else [given]
    words = WORDS.get(option.type, "text") + " or a list of texts" * option.many
    for value in values:
        # true and false are numbers in Python
        if isinstance(value, bool) or not isinstance(value, KINDS.get(option.type, (str,))):
            raise UsageError(f"{where}: {option.name} = {given!r}, must be {words}")
        try:
            option.read(str(value))
        except ValueError as error:
            raise UsageError(f"{where}: {option.name} = {error}") from error
    return values if option.many else given
