"""A run as pictures, from its JSON: time against size, share of the ceiling, ratios to peers, host time."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import OURS, PEERS, SLOW_TO_BUILD
from benchmarks.results import CONTROL, Results, Row, fastest_invariant, invariant

FORMATS = ("png", "svg")
ACROSS = 3  # panels
# ours stands out from all peers
OURS_LOOKS = {"color": "black", "linewidth": 2.0, "marker": "o", "markersize": 5, "zorder": 3}
MARKERS = "s^vD<>pPX*hd"
GRID: dict[str, Any] = {"color": "0.88", "linewidth": 0.6}
# largest ratio shown: slower peers are drawn at the edge
FARTHEST = 4.0


def draw(results: Results, folder: Path) -> tuple[Path, ...]:
    """Write every picture, as PNG and as SVG. Needs matplotlib: ``pip install normkernels[bench]``."""
    import matplotlib as mpl

    # writes files without a screen, with the same bits each time
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "normkernels"
    folder.mkdir(parents=True, exist_ok=True)
    rows = in_order(results.rows)
    pictures: Mapping[str, Callable[[Sequence[Row]], Any]] = {
        "times": _times,
        "ceilings": _ceilings,
        "ratios": _ratios,
        "host": _hosts,
    }
    return tuple(
        path for name, picture in pictures.items() for path in _saved(picture(rows), results, folder / name)
    )


def _saved(figure: Any, results: Results, path: Path) -> tuple[Path, ...]:  # noqa: ANN401 - matplotlib has no types here
    """Save both formats, on a light background, with the dependencies of the numbers below the picture."""
    width = int(figure.get_figwidth() * 14)
    said = textwrap.fill(caption(results), width, break_on_hyphens=False)
    figure.supxlabel(said, fontsize=8, color="0.3")
    paths = tuple(path.with_name(f"{path.name}.{kind}") for kind in FORMATS)
    for each in paths:
        metadata = {"Date": None} if each.suffix == ".svg" else None
        figure.savefig(each, dpi=120, metadata=metadata, facecolor="white")
    return paths


def caption(results: Results) -> str:
    """Return the device, versions, clock and peers of a run."""
    header = results.header
    peers = ", ".join(f"{name} {version}" for name, version in header["peers"].items() if version)
    clocks = ", ".join(f"{value} {name}" for name, value in header["clocks"].items())
    parts = (
        header["device"],
        f"torch {header['torch']}, triton {header['triton'] or 'not installed'}",
        peers,
        f"commit {header['commit'] or 'unknown'}",
        header["clock"],
        clocks and f"clocks seen: {clocks}",
    )
    return "; ".join(part for part in parts if part)


# --- what is drawn ----------------------------------------------------------------------------------------------


def family(row: Row) -> str:
    """Return the kind of a row's call, which names its panel."""
    if row.operation.endswith("fp8"):
        return "outputs in fp8"
    if row.operation == "mrope":
        return "rotation in place" if "in place" in row.name else "rotation"
    if row.operation == "rms_norm_gated":
        return "gated norm"
    return "norm with a residual" if "+res" in row.name else "norm"


def in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return rows by kind, in the order of each kind's first row, and from small to large."""
    every = tuple(rows)
    places = list(dict.fromkeys(family(row) for row in every))
    return tuple(sorted(every, key=lambda row: (places.index(family(row)), bool(row.beside), row.bytes)))


def panels(rows: Iterable[Row]) -> dict[str, tuple[Row, ...]]:
    """Return the rows of each kind."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(family(row), []).append(row)
    return {name: tuple(each) for name, each in found.items()}


def series(rows: Iterable[Row]) -> dict[str, list[tuple[float, float]]]:
    """Return megabytes and cold times for a line per implementation; ours comes last, above the others."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.bytes):
        for entry in row.entries:
            if entry.cold and entry.name != CONTROL:
                lines.setdefault(entry.name, []).append((row.bytes / 1e6, entry.cold.median))
    return dict(sorted(lines.items(), key=lambda line: line[0] == OURS))


def host_medians(rows: Iterable[Row]) -> dict[str, float]:
    """Return the median host time of each implementation over some rows."""
    seen: dict[str, list[float]] = {}
    for row in rows:
        for entry in row.entries:
            if entry.host and entry.name != CONTROL:
                seen.setdefault(entry.name, []).append(entry.host.median)
    return {name: sorted(times)[len(times) // 2] for name, times in seen.items()}


def peers_of(row: Row) -> dict[str, float]:
    """Return each peer's time over ours: above one the peer takes longer."""
    ours = row.ours
    return {e.name: e.cold.median / ours.median for e in row.peers if e.cold} if ours else {}


# --- pictures ---------------------------------------------------------------------------------------------------


def _times(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """Draw a panel per kind of call: microseconds against megabytes, both on logarithmic axes."""
    every = panels(rows)
    figure, axes = _grid(len(every))
    for axis, (name, some) in zip(axes, every.items(), strict=False):
        plain = [row for row in some if not row.beside]
        for who, points in series(plain or some).items():
            # few sizes: a line between them would suggest values for sizes in between
            line = {"linestyle": "none"} if who in SLOW_TO_BUILD else {}
            axis.plot(*zip(*points, strict=True), label=who, **_looks(who), **line)
        points = [(row.bytes / 1e6, row.ours.median) for row in some if row.beside and row.ours]
        if plain and points:
            looks = {**OURS_LOOKS, "markerfacecolor": "white", "linestyle": "none"}
            axis.plot(*zip(*points, strict=True), label=f"{OURS}, other layouts", **looks)
        _ceiling_line(axis, plain or some)
        axis.set(
            title=name,
            xlabel="MB that have to be moved",
            ylabel="µs, inputs not in L2",
            xscale="log",
            yscale="log",
        )
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(which="major", **GRID)
    _legend(figure, axes)
    return figure


def _ceiling_line(axis: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401 - as above
    points = [(row.bytes / 1e6, row.ceilings[row.ceiling].median) for row in rows if row.ceiling in row.ceilings]
    if points:
        axis.plot(*zip(*sorted(points), strict=True), label="ceiling", color="0.5", linestyle="--", linewidth=1.2)


def _ceilings(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """Draw our share of the ceiling's bandwidth, a bar per row, and the share of the fastest invariant peer."""
    shown = [row for row in rows if row.of_ceiling() is not None]
    shares = [row.of_ceiling() or 0.0 for row in shown]
    figure, axis = _by_row(shown)
    places = range(len(shown))
    axis.barh(places, shares, color="0.25", height=0.7, label=OURS)
    for place, share in zip(places, shares, strict=True):
        axis.text(0.01, place, f"{share:.0%}", color="white", fontsize=7, va="center")
    theirs = [
        (row.ceilings[row.ceiling].median / peer.cold.median, place)
        for place, row in enumerate(shown)
        if (peer := fastest_invariant(rows, row)) and peer.cold
    ]
    if theirs:
        axis.plot(*zip(*theirs, strict=True), "D", color="C1", markersize=5, label="fastest batch-invariant peer")
    axis.axvline(1.0, color="0.5", linestyle="--", linewidth=1.2, label="ceiling")
    axis.set_title("share of the ceiling of as many bytes, inputs not in L2")
    axis.set_xlabel("time of the ceiling over theirs: a triad for gated norms, a copy for all others")
    axis.set_xlim(0, max([1.05, *(share + 0.02 for share in shares), *(share + 0.02 for share, _ in theirs)]))
    _legend(figure, [axis])
    return figure


def _ratios(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """Draw each peer's time over ours, a mark per peer; hollow if its rows depend on their batch."""
    shown = [row for row in rows if peers_of(row)]
    figure, axis = _by_row(shown)
    for place, row in enumerate(shown):
        for name, ratio in peers_of(row).items():
            looks = _looks(name)
            face = looks["color"] if invariant(rows, row, name) else "white"
            marks = {"color": looks["color"], "marker": looks["marker"], "linestyle": "none", "markersize": 6}
            axis.plot(min(ratio, FARTHEST), place, markerfacecolor=face, label=name, **marks)
    axis.axvline(1.0, color="black", linewidth=1.2)
    axis.set_xscale("log")
    ticks = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, FARTHEST)
    axis.set_xticks(ticks, [*(f"{tick:g}" for tick in ticks[:-1]), f"{FARTHEST:g} and more"])
    axis.minorticks_off()
    axis.set_xlim(right=FARTHEST * 1.06)
    axis.set_title("cold device time over ours: right of the line we are faster")
    axis.set_xlabel("hollow: rows depend on their batch")
    _legend(figure, [axis])
    return figure


def _hosts(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """Draw the median host time of each operation's rows, a bar per implementation."""
    operations = tuple(dict.fromkeys(row.operation for row in rows))
    figure, axes = _grid(len(operations))
    for axis, operation in zip(axes, operations, strict=False):
        middle = host_medians(row for row in rows if row.operation == operation)
        bars = axis.barh(list(middle), list(middle.values()), color=[_looks(name)["color"] for name in middle])
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.set(title=operation, xlabel="µs of one eager call")
        axis.grid(axis="x", **GRID)
        axis.set_axisbelow(True)
    return figure


# --- how it looks -----------------------------------------------------------------------------------------------


def _looks(name: str) -> dict[str, Any]:
    """Return the color and mark of each name, the same in every picture."""
    if name == OURS:
        return dict(OURS_LOOKS)
    place = list(PEERS).index(name) if name in PEERS else len(PEERS)
    # no gray here: gray is the ceiling
    color = (
        [f"C{i}" for i in range(10) if i != 7][place % 9]
        if place < 9
        else ("gold", "navy", "darkgreen")[place % 3]
    )
    return {
        "color": color,
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.0,
        "alpha": 0.9,
    }


def _legend(figure: Any, axes: Sequence[Any]) -> None:  # noqa: ANN401 - as above
    """Add one legend for all panels, each name once, next to the panels where it hides nothing."""
    once: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            once.setdefault(label, handle)
    order = [OURS, f"{OURS}, other layouts", *PEERS]
    labels = sorted(once, key=lambda label: order.index(label) if label in order else len(order))
    if labels:
        figure.legend([once[label] for label in labels], labels, loc="outside upper center", ncols=7, fontsize=8)


def _by_row(rows: Sequence[Row]) -> tuple[Any, Any]:
    """Return a figure of one panel with a line per row, from the top, and gaps between kinds of rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 0.19 * len(rows) + 2.2), layout="constrained")
    axis = figure.subplots()
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7.5)
    axis.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    for place in range(1, len(rows)):
        if family(rows[place]) != family(rows[place - 1]):
            axis.axhline(place - 0.5, color="0.7", linewidth=0.8)
    axis.grid(axis="x", **GRID)
    axis.set_axisbelow(True)
    return figure, axis


def _grid(count: int) -> tuple[Any, list[Any]]:
    """Return a new figure, which matplotlib does not keep, and its panels."""
    from matplotlib.figure import Figure

    across = min(count, ACROSS) or 1
    down = -(-count // across) or 1
    figure = Figure(figsize=(4.6 * across + 0.4, 3.7 * down + 0.8), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]
