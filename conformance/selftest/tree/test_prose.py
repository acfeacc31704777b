"""Docstrings begin with what a thing does or is: no fragment, and no clause in place of a noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# First words of fragments and of clauses that stand for nouns.
FRAGMENTS = frozenset({"By", "For", "How", "Of", "That", "What", "Whatever", "Whether", "Who", "Whoever"})


def _openings(source: str) -> Iterator[str]:
    """Yield the first line of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text.partition("\n")[0]


def _fragments(source: str) -> list[str]:
    return [line for line in _openings(source) if line.split()[0] in FRAGMENTS]


@pytest.mark.parametrize("folder", ["normkernels", "conformance", "benchmarks", "examples"])
def test_docstrings_begin_with_a_verb_or_a_noun(folder: str) -> None:
    """The first word of a docstring says what a function does or what a class is."""
    found = {
        str(file.relative_to(ROOT)): lines
        for file in sorted((ROOT / folder).rglob("*.py"))
        if (lines := _fragments(file.read_text(encoding="utf-8")))
    }

    assert {} == found


def test_a_fragment_is_noticed() -> None:
    """The test above can fail."""
    assert ["What it is."] == _fragments('"""Rows."""\n\ndef f():\n    """What it is."""\n')
