"""A run as pictures, from its JSON: time against size, share of the ceiling, host time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import OURS
from benchmarks.results import CONTROL, Results, Row

FORMATS = ("png", "svg")
OPERATIONS_A_ROW = 2
# ours stands out, whoever else is there
OURS_LOOKS = {"color": "black", "linewidth": 2.2, "marker": "o", "zorder": 3}


def draw(results: Results, folder: Path) -> tuple[Path, ...]:
    """Write every picture, as PNG and as SVG. Needs matplotlib: ``pip install normkernels[bench]``."""
    import matplotlib as mpl

    # files alone, on a machine without a screen; the same bits each time
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "normkernels"
    folder.mkdir(parents=True, exist_ok=True)
    said = _said(results)
    pictures = {"times": _times(results.rows), "ceilings": _ceilings(results.rows), "host": _hosts(results.rows)}
    return tuple(_saved(figure, said, folder / name) for name, figure in pictures.items() for name in _files(name))


def _files(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for kind in FORMATS)


def _said(results: Results) -> str:
    header = results.header
    return (
        f"{header['device']}, torch {header['torch']}, commit {header['commit'] or 'unknown'}; {header['clock']}"
    )


def _saved(figure: Any, said: str, path: Path) -> Path:  # noqa: ANN401 - matplotlib has no types here
    figure.supxlabel(said, fontsize=7)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=120, metadata=metadata)
    return path


def series(rows: Iterable[Row], width: int) -> dict[str, list[tuple[int, float]]]:
    """Cold times by bytes of every implementation, of the rows of one width, for a line each."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row.bytes):
        for entry in row.entries:
            if entry.cold and entry.name != CONTROL and row.width == width:
                lines.setdefault(entry.name, []).append((row.bytes, entry.cold.median))
    return lines


def panels(rows: Sequence[Row]) -> dict[str, tuple[Row, ...]]:
    """Rows by what they have in common but their size: the words of their names before the size."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        kind = row.name.rpartition(" ")[0]
        found.setdefault(kind, []).append(row)
    return {kind: tuple(each) for kind, each in found.items()}


def _times(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """A panel per kind of call: microseconds against bytes, both on logarithmic axes; a width is one line."""
    every = panels(rows)
    figure, axes = _grid(len(every))
    for axis, (kind, some) in zip(axes, every.items(), strict=False):
        for width in sorted({row.width for row in some}):
            for name, points in series(some, width).items():
                looks = OURS_LOOKS if name == OURS else {"color": _color(name, rows), "marker": ".", "alpha": 0.8}
                axis.plot(*zip(*points, strict=True), label=name, **looks)
        _ceiling_line(axis, some)
        axis.set(title=kind, xlabel="bytes", ylabel="µs cold", xscale="log", yscale="log")
        _legend(axis)
    return figure


def _ceiling_line(axis: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401 - as above
    points = [(row.bytes, row.ceilings[row.ceiling].median) for row in rows if row.ceiling in row.ceilings]
    if points:
        axis.plot(*zip(*sorted(points), strict=True), label="ceiling", color="gray", linestyle=":")


def _ceilings(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """Our share of the ceiling's bandwidth, a bar per row."""
    shares = {row.name: share for row in rows if (share := row.of_ceiling()) is not None}
    figure, (axis,) = _grid(1, height=max(3.0, 0.2 * len(shares) + 1.5))
    axis.barh(list(shares), list(shares.values()), color="black")
    axis.axvline(1.0, color="gray", linestyle=":")
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)
    axis.set(title="share of the ceiling at as many bytes", xlabel="time of the ceiling over ours, cold")
    return figure


def _hosts(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - as above
    """What a call takes the host: the middle of each operation's rows, a bar per implementation."""
    operations = tuple(dict.fromkeys(row.operation for row in rows))
    figure, axes = _grid(len(operations))
    for axis, operation in zip(axes, operations, strict=False):
        middle = host_medians(row for row in rows if row.operation == operation)
        colors = ["black" if name == OURS else _color(name, rows) for name in middle]
        axis.barh(list(middle), list(middle.values()), color=colors)
        axis.invert_yaxis()
        axis.set(title=operation, xlabel="µs of one eager call")
    return figure


def host_medians(rows: Iterable[Row]) -> dict[str, float]:
    """The middle of the host times of each implementation over some rows."""
    seen: dict[str, list[float]] = {}
    for row in rows:
        for entry in row.entries:
            if entry.host and entry.name != CONTROL:
                seen.setdefault(entry.name, []).append(entry.host.median)
    return {name: sorted(times)[len(times) // 2] for name, times in seen.items()}


def _color(name: str, rows: Sequence[Row]) -> str:
    """The same color for a name in every panel."""
    names = list(dict.fromkeys(entry.name for row in rows for entry in row.entries))
    return f"C{names.index(name) % 10}"


def _legend(axis: Any) -> None:  # noqa: ANN401 - as above
    """Each name once, however many lines it has."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), fontsize=6)


def _grid(count: int, height: float | None = None) -> tuple[Any, list[Any]]:
    """A figure of its own, kept by nobody, and its panels."""
    from matplotlib.figure import Figure

    across = min(count, OPERATIONS_A_ROW) or 1
    down = -(-count // across) or 1
    figure = Figure(figsize=(6.5 * across, height or 3.6 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]
