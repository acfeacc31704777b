"""Tables of ratios of a run for a terminal: a line per workload, then all times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environment import machine
from benchmarks.peers import OURS
from benchmarks.results import (
    CONTROL,
    PASSED,
    Entry,
    Results,
    Row,
    Summary,
    fastest,
    fastest_invariant,
    invariant,
    off,
    ratio,
    summary,
)
from benchmarks.timing import Timing

NOTHING = "-"
NOT_INVARIANT = "*"
# columns of the first table; "beside" is our own call with as many bytes and its own plan
COLUMNS = ("MB", "plan", "µs", "TB/s", "ceiling", "to invariant peer", "to any peer", "control", "to beside")
CEILINGS = ("copy", "triad", "quad", "empty")


def show(results: Results, console: Console) -> None:
    """Print the header, both tables, and the conclusions."""
    for line in (*heading(results), *conclusions(results.rows)):
        console.print(line, highlight=False, markup=False)
    console.print(ratios(results.rows))
    console.print(times(results.rows))
    console.print(host_times(results.rows))
    for line in (*remarks(results.rows), *_left_out(results)):
        console.print(line, highlight=False, markup=False)


def heading(results: Results) -> tuple[str, ...]:
    """Return the dependencies of the numbers."""
    header = results.header
    return (
        machine(header),
        f"device times: {header['clock']}",
        f"clocks seen: {header['clocks'] or 'not seen'}",
        ", ".join(f"{name} {version or 'not installed'}" for name, version in header["peers"].items()),
    )


def conclusions(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a summary of all ratios."""
    among = {
        "the fastest batch-invariant peer": summary(rows, lambda row: fastest_invariant(rows, row)),
        "the fastest peer": summary(rows, fastest),
    }
    return tuple(_concluded(name, found) for name, found in among.items() if found)


def _concluded(name: str, found: Summary) -> str:
    return (
        f"our time over that of {name}: geometric mean {found.mean:.3f} over {found.rows} rows, "
        f"{found.even} at most 1 (within the control's spread of {found.spread:.1%}), {found.near} at most 1.03"
    )


def ratios(rows: Sequence[Row]) -> Table:
    """Return a table with a line per workload: our device time, its share of the ceiling, and ratios to others."""
    table = Table(box=box.SIMPLE, title="cold: our device time, and its ratio to others'")
    table.add_column("workload")
    for name in (
        "MB",
        "plan",
        "µs",
        "TB/s",
        "ceiling",
        "to invariant peer",
        "to any peer",
        "control",
        "to beside",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*line(rows, row))
    return table


def line(rows: Sequence[Row], row: Row) -> tuple[str, ...]:
    """Return the cells of a workload."""
    entry = row.entry(OURS)
    share, rate, spread = row.of_ceiling(), row.bandwidth(), off(row)
    return (
        row.name,
        f"{row.bytes / 1e6:.4g}",
        (entry.path or NOTHING) if entry else NOTHING,
        _time(row.ours),
        f"{rate:.2f}" if rate else NOTHING,
        f"{share:.0%} of {row.ceiling}" if share else NOTHING,
        _beside(row, fastest_invariant(rows, row)),
        _beside(row, fastest(row)),
        f"±{spread:.1%}" if spread is not None else NOTHING,
        _general(rows, row),
    )


def _beside(row: Row, peer: Entry | None) -> str:
    found = ratio(row, peer)
    return f"{found:.3f} {peer.name}" if found is not None and peer else NOTHING


def _general(rows: Sequence[Row], row: Row) -> str:
    """Return our time over that of our own call that moves the same bytes with its own plan."""
    beside = next((other for other in rows if other.name == row.beside), None)
    if beside is None or beside.ours is None or row.ours is None:
        return NOTHING
    return f"{row.ours.median / beside.ours.median:.3f}"


def times(rows: Sequence[Row]) -> Table:
    """Return all cold device times, with warm ones in brackets, and the ceilings'."""
    names = _names(rows)
    table = Table(box=box.SIMPLE, title=f"µs cold (warm); {NOT_INVARIANT} where rows depend on their batch")
    table.add_column("workload")
    for name in (*names, *CEILINGS):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_cell(rows, row, row.entry(name)) for name in names]
        table.add_row(row.name, *cells, *(_time(row.ceilings.get(name)) for name in CEILINGS))
    return table


def _cell(rows: Sequence[Row], row: Row, entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    if entry.cold is None:
        return entry.status
    mark = "" if invariant(rows, row, entry.name) else NOT_INVARIANT
    return f"{_time(entry.cold)}{mark}" + (f" ({_time(entry.warm)})" if entry.warm else "")


def host_times(rows: Sequence[Row]) -> Table:
    """Return the host time of an eager call, per workload and implementation."""
    names = _names(rows)
    table = Table(box=box.SIMPLE, title="host: µs of one eager call with an empty queue")
    table.add_column("workload")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        entries = [row.entry(name) for name in names]
        table.add_row(row.name, *(_time(entry.host) if entry else NOTHING for entry in entries))
    return table


def _names(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the implementations that were timed on some workload."""
    timed = dict.fromkeys(e.name for row in rows for e in row.entries if e.cold and e.name != CONTROL)
    return tuple(timed)


def remarks(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the reasons why implementations were not timed, each reason once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for entry in row.entries:
            if entry.status != PASSED and entry.reason != "not implemented":
                said.setdefault(f"{entry.name} {entry.status}: {entry.reason}", []).append(row.name)
    return tuple(f"{what} ({_some(names)})" for what, names in said.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _left_out(results: Results) -> tuple[str, ...]:
    if not results.left_out:
        return ()
    return (f"no time or memory was left for {len(results.left_out)} workloads: {', '.join(results.left_out)}",)


def _time(timing: Timing | None) -> str:
    return f"{timing.median:.4g}" if timing else NOTHING
