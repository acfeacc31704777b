"""Surveys of one run: each is made once, by the worker that needs it first, and kept with the journals."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

from conformance.runs.survey import Survey


class Surveys:
    """Surveys by operation, kept as files of a folder that all workers of a run share.

    ``make`` makes the survey of an operation.
    """

    def __init__(self, directory: Path, make: Callable[[str], Survey]) -> None:
        self._directory = directory
        self._make = make
        self._known: dict[str, Survey] = {}

    def of(self, operation: str) -> Survey:
        """Return the survey of an operation; wait where another worker is making it."""
        if operation not in self._known:
            with _path(self._directory, operation).open("a+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                text = file.read()
                found = Survey.from_data(json.loads(text)) if text else self._make(operation)
                if not text:
                    file.write(json.dumps(found.to_data(), allow_nan=False))
            self._known[operation] = found
        return self._known[operation]


def read(directory: Path) -> dict[str, Survey]:
    """Return the surveys of a run by operation."""
    files = sorted(directory.glob("survey-*.json"))
    texts = {file.stem.removeprefix("survey-"): file.read_text(encoding="utf-8") for file in files}
    return {name: Survey.from_data(json.loads(text)) for name, text in texts.items() if text}


def _path(directory: Path, operation: str) -> Path:
    return directory / f"survey-{operation}.json"
