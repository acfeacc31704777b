"""Results of a run as data: a row per workload, in JSON as here. Ratios and means are computed from them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import OURS
from benchmarks.timing import Timing
from conformance.report.lines import in_lines

CONTROL = "control"  # our own call a second time, under another name
PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One implementation in a row. Timings are None where it was not timed, and ``status`` and ``reason`` say why.

    ``cold``: device time over inputs that are not in L2; ``warm``: over one set again and again, None where a set
    is larger than L2; ``host``: of one eager call. ``invariant``: rows had the same bits in other batches.
    ``in_place``: the form that writes over its arguments was called.
    """

    name: str
    status: str
    reason: str = ""
    in_place: bool = False
    invariant: bool | None = None
    path: str | None = None
    cold: Timing | None = None
    warm: Timing | None = None
    host: Timing | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One workload: its case as data, the bytes it moves, its tokens and columns, and all times.

    ``ceilings`` are cold device times at as many bytes: ``copy``, ``triad`` and ``quad``, each the best of several
    ways that are listed too (``copy: memcpy``), and ``empty``, a launch alone; ``ceiling`` names the one to
    compare ours with. ``beside``: the row of the same bytes with a plan of its own.
    ``seconds``: time spent on drawing arguments, judging, capturing and timing.
    """

    name: str
    operation: str
    tokens: int
    width: int
    bytes: int
    ceiling: str
    beside: str
    case: Mapping[str, Any]
    entries: tuple[Entry, ...]
    ceilings: Mapping[str, Timing] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def entry(self, name: str) -> Entry | None:
        """Return the entry of an implementation, or None if the row has none."""
        return next((entry for entry in self.entries if entry.name == name), None)

    @property
    def ours(self) -> Timing | None:
        """Return our cold device time, or None if ours was not timed."""
        entry = self.entry(OURS)
        return entry.cold if entry else None

    @property
    def peers(self) -> tuple[Entry, ...]:
        """Return the entries of all others that were timed."""
        return tuple(e for e in self.entries if e.name not in {OURS, CONTROL} and e.cold is not None)

    def of_ceiling(self) -> float | None:
        """Return our share of the bandwidth that the ceiling reaches at as many bytes."""
        ceiling = self.ceilings.get(self.ceiling)
        return ceiling.median / self.ours.median if ceiling and self.ours else None

    def bandwidth(self) -> float | None:
        """Return the bytes that the call must move over our time, in TB/s."""
        return self.bytes / self.ours.median / 1e6 if self.ours else None


@dataclass(frozen=True, slots=True)
class Results:
    """A run: the dependencies of its numbers, its rows, and the workloads that it had no time for."""

    header: Mapping[str, Any]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Ratios of our time to the fastest peer's, over the rows with a timed peer.

    ``even``: rows at most 1, within ``spread``; ``near``: at most 1.03. ``spread`` is how far our own duplicate
    was off, in the middle of all rows.
    """

    rows: int
    even: int
    near: int
    mean: float
    spread: float


def invariant(rows: Iterable[Row], row: Row, name: str) -> bool:
    """Return whether rows kept their bits in other batches: here, and in all rows of this operation and width.

    An implementation that changes its order of additions with the batch is caught at some sizes only.
    """
    alike = (r.entry(name) for r in rows if (r.operation, r.width) == (row.operation, row.width))
    return all(entry.invariant is not False for entry in alike if entry)


def fastest(row: Row) -> Entry | None:
    """Return the fastest peer of a row, cold; None if no other was timed."""
    return _quickest(row.peers)


def _quickest(entries: Iterable[Entry]) -> Entry | None:
    return min(entries, key=lambda entry: entry.cold.median if entry.cold else math.inf, default=None)


def fastest_invariant(rows: Iterable[Row], row: Row) -> Entry | None:
    """Return the fastest peer whose rows do not depend on their batch."""
    every = tuple(rows)
    return _quickest(entry for entry in row.peers if invariant(every, row, entry.name))


def ratio(row: Row, peer: Entry | None) -> float | None:
    """Return our time over a peer's; below 1 we are faster."""
    if peer is None or peer.cold is None or row.ours is None:
        return None
    return row.ours.median / peer.cold.median


def off(row: Row) -> float | None:
    """Return the difference between our duplicate and ours: the possible error of a ratio."""
    other = ratio(row, row.entry(CONTROL))
    return abs(other - 1) if other else None


def geometric_mean(numbers: Sequence[float]) -> float:
    """Return the geometric mean of ratios. Raises ``statistics.StatisticsError`` if there are none."""
    return statistics.geometric_mean(numbers)


def summary(rows: Sequence[Row], peer_of: Callable[[Row], Entry | None]) -> Summary | None:
    """Return the summary of the rows with a timed peer; None without such a row."""
    ratios = {row.name: r for row in rows if (r := ratio(row, peer_of(row))) is not None}
    if not ratios:
        return None
    offs = {row.name: o for row in rows if (o := off(row)) is not None}
    spread = statistics.median(offs.values()) if offs else 0.0
    even = sum(r <= 1 + max(spread, offs.get(name, 0.0)) for name, r in ratios.items())
    near = sum(r <= 1.03 for r in ratios.values())
    return Summary(len(ratios), even, near, geometric_mean(tuple(ratios.values())), spread)


# --- JSON -------------------------------------------------------------------------------------------------------


def write(results: Results, path: Path) -> None:
    """Write a run so that a file is always whole, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f"{path.suffix}.new")
    beside.write_text(in_lines(asdict(results)), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Results:
    """Read a file of :func:`write`. Raises ``ValueError`` with the missing part."""
    data = json.loads(path.read_text(encoding="utf-8"))
    try:
        rows = tuple(_row(row) for row in data["rows"])
        return Results(data["header"], rows, tuple(data["left_out"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no result of `python -m benchmarks`: {error!r}") from error


def _row(data: dict[str, Any]) -> Row:
    entries = tuple(Entry(**{**e, **_timings(e, ("cold", "warm", "host"))}) for e in data["entries"])
    return Row(**{**data, "entries": entries, "ceilings": _timings(data["ceilings"], tuple(data["ceilings"]))})


def _timings(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: Timing(**data[name]) if data[name] else None for name in names}
