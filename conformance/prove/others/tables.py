"""Tables of the planted bugs and the models of suites. Pure: from rows to Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OUTSIDE = "outside"  # the model has no call of the operation, or no reference that rounds as declared
OURS = "conformance, quick"
MODELS = (
    "Models of these suites, by their inputs and tolerances, and not the suites: no test of theirs was run. "
    f"The tests of this repository demand that {OURS} catches every planted bug: its row is no comparison."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A planted bug in an operation, and what each suite finds wrong with it: a word, or nothing."""

    bug: str
    operation: str
    source: str
    found: Mapping[str, str]

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Count:
    """The bugs that a suite catches, of those in operations that it calls, and of all."""

    suite: str
    caught: int
    called: int
    planted: int
    words: Mapping[str, int]


def counted(rows: Sequence[Row]) -> tuple[Count, ...]:
    """Return the count of each suite, in the order of the rows' columns."""
    found = []
    for name in rows[0].found if rows else ():
        words = Counter(row.found[name] for row in rows)
        outside, passed = words.pop(OUTSIDE, 0), words.pop("", 0)
        caught = len(rows) - outside - passed
        found.append(Count(name, caught, len(rows) - outside, len(rows), dict(sorted(words.items()))))
    return tuple(found)


def told(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the table of suites and the matrix of bugs, with what they depend on."""
    said = ", ".join(f"{name} {value}" for name, value in header.items() if isinstance(value, str | int))
    return f"{MODELS}\n{said}\n\n{table(counted(rows))}\n\n{matrix(rows)}\n"


def table(counts: Sequence[Count]) -> str:
    """Return a table in Markdown, a line for each suite."""
    lines = ["| suite (model) | caught | of those it calls | planted | caught by |", "|---|---|---|---|---|"]
    for count in counts:
        words = ", ".join(f"{word} {number}" for word, number in count.words.items())
        lines.append(f"| {count.suite} | {count.caught} | {count.called} | {count.planted} | {words} |")
    return "\n".join(lines)


def matrix(rows: Sequence[Row]) -> str:
    """Return a table in Markdown, a line for each bug: how a suite caught it, ``-`` for a bug that passed."""
    names = list(rows[0].found) if rows else []
    lines = [f"| bug | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {row.bug} | {' | '.join(row.found[name] or '-' for name in names)} |" for row in rows]
    return "\n".join(lines)
