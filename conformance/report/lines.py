"""JSON text with a row a line: a change of one row is a change of one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def in_lines(document: Mapping[str, Any]) -> str:
    """Return the JSON of a document: a line for every entry of its tables and lists."""
    parts = (f"{json.dumps(name)}: {_part(part)}" for name, part in document.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _part(part: object) -> str:
    if isinstance(part, Mapping) and part:
        return _block("{", (f"{json.dumps(name)}: {_line(value)}" for name, value in part.items()), "}")
    if isinstance(part, list | tuple) and part:
        return _block("[", map(_line, part), "]")
    return _line(part)


def _block(begin: str, lines: Iterable[str], end: str) -> str:
    text = ",\n".join(f"  {line}" for line in lines)
    return f"{begin}\n{text}\n{end}"


def _line(value: object) -> str:
    # NaN and infinities are no JSON
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
