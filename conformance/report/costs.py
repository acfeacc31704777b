"""Cost of a campaign: cases and elements a second, and what more chunks would take and would cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from conformance.report.chunks import Chunk
from conformance.report.table import Said, Section, Table, Tone, many

PARTS = (0.9, 0.99, 1.0)  # of the pairs of levels seen so far
MORE = 100  # chunks whose cost is told where no number was asked for


@dataclass(frozen=True, slots=True)
class Spent:
    """Cost of one chunk, and the pairs of levels in its judged cases, as bits by operation."""

    node: str
    seconds: float
    cases: int
    elements: int
    pairs: Mapping[str, int]
    of: Mapping[str, int]


def spent(chunk: Chunk) -> Spent:
    """Return what a chunk took."""
    footer, coverage = chunk.report.footer, chunk.report.coverage
    return Spent(
        chunk.node,
        chunk.seconds,
        footer.judged,
        footer.elements,
        {name: int(each.pairs, 16) for name, each in coverage.items()},
        {name: each.of for name, each in coverage.items()},
    )


@dataclass(frozen=True, slots=True)
class State:
    """State of a campaign: open chunks (None: without end), tasks at a time, and what one of those runs on."""

    left: int | None
    slots: int
    unit: str  # "GPU" or "task"
    lost: int = 0
    given_up: tuple[int, ...] = ()


def section(chunks: Sequence[Spent], state: State) -> Section:
    """Return the cost of some chunks, in the order of their numbers, as a part of a page."""
    nodes = sorted({each.node for each in chunks})
    cases, seconds = sum(each.cases for each in chunks), sum(each.seconds for each in chunks)
    left = "without an end" if state.left is None else f"{state.left:,} are open"
    heading = [f"campaign: {many(len(chunks), 'chunk')} on {many(len(nodes), 'machine')}, {left}"]
    heading += [f"chunks came back without a report {state.lost} times"] if state.lost else []
    wrong = [f"chunk {number} has no report: given up" for number in state.given_up]
    return Section(
        title="campaign",
        end=Said(
            f"{cases:,} cases in {_minutes(seconds)} of a {state.unit}: {_rate(cases, seconds)} a second",
            Tone.ASIDE,
        ),
        heading=tuple(heading),
        wrong=tuple(wrong),
        tables=(_by_node(chunks, nodes), _growth(chunks)),
        notes=(*_more(chunks, state), *_coverage(chunks, state.unit)),
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:,.1f} minutes"


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.1f}" if seconds else "0"


def _cell(text: str) -> tuple[Said, ...]:
    return (Said(text, Tone.ASIDE),)


def _by_node(chunks: Sequence[Spent], nodes: Sequence[str]) -> Table:
    """Return a line for each machine: what it judged, and how fast one of its tasks was."""

    def line(name: str, part: Sequence[Spent]) -> tuple[str, str, tuple[tuple[Said, ...], ...]]:
        seconds, cases = sum(each.seconds for each in part), sum(each.cases for each in part)
        elements = sum(each.elements for each in part)
        numbers = f"{len(part):,}", f"{seconds / 60:,.1f}", f"{cases:,}"
        return name, "", tuple(map(_cell, (*numbers, _rate(cases, seconds), _rate(elements, seconds))))

    lines = [line(node, [each for each in chunks if each.node == node]) for node in nodes]
    columns = "chunks", "minutes", "cases", "cases a second", "elements a second"
    return Table("cost", columns, (*lines, line("all", chunks)), of="machine")


def _more(chunks: Sequence[Spent], state: State) -> Iterator[str]:
    if not chunks:
        return
    each = sum(chunk.seconds for chunk in chunks) / len(chunks)
    count = MORE if state.left is None or not state.left else state.left
    wait = -(-count // state.slots) * each
    whole = f"{_minutes(count * each)} of a {state.unit}"
    yield f"{many(count, 'more chunk')}: about {_minutes(wait)} with {many(state.slots, state.unit)} ({whole})"


# --- pairs of levels --------------------------------------------------------------------------------------------


def _seen(chunks: Sequence[Spent]) -> list[dict[str, int]]:
    """Return the pairs seen after each chunk, as bits by operation."""
    found: list[dict[str, int]] = []
    for each in chunks:
        before = found[-1] if found else {}
        names = {**before, **each.pairs}
        found.append({name: before.get(name, 0) | each.pairs.get(name, 0) for name in names})
    return found


def _growth(chunks: Sequence[Spent]) -> Table:
    """Return how many pairs were seen after one chunk, two, four, and all of them."""
    seen = _seen(chunks)
    steps = [step for step in (2**power for power in range(20)) if step < len(seen)] + [len(seen)] * bool(seen)
    of = {name: count for each in chunks for name, count in each.of.items()}

    def line(name: str) -> tuple[str, str, tuple[tuple[Said, ...], ...]]:
        counts = [seen[step - 1].get(name, 0).bit_count() for step in steps]
        return name, "", tuple(_cell(f"{count:,}") for count in (*counts, of[name]))

    columns = (*(f"{step:,}" for step in steps), "have a name")
    title = "pairs of levels in judged cases, by number of chunks"
    return Table(title, columns, tuple(map(line, sorted(of))), of="operation")


def _coverage(chunks: Sequence[Spent], unit: str) -> Iterator[str]:
    """Yield after how many chunks, and minutes, most of the pairs seen so far were seen."""
    counts = [sum(bits.bit_count() for bits in each.values()) for each in _seen(chunks)]
    if not counts or not counts[-1]:
        return
    said = []
    for part in PARTS:
        step = next(place for place, count in enumerate(counts, start=1) if count >= part * counts[-1])
        took = sum(each.seconds for each in chunks[:step])
        said.append(f"{part:.0%} after {many(step, 'chunk')} ({_minutes(took)} of a {unit})")
    yield f"of the {counts[-1]:,} pairs of levels seen so far: {', '.join(said)}"
