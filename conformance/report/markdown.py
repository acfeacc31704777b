"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, none where there is no row."""
    for number, row in enumerate(rows):
        if not number:
            yield _line(columns)
            yield _line(["---"] * len(columns))
        yield _line([text.replace("|", "\\|") for text in row])


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
