"""The picture of the planted bugs, as columns, and the models of suites, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.prove.others.tables import OURS, OUTSIDE, Row, counted

COLOURS = {"caught": "#2f7d4f", "not caught": "#e8b4ad", "not called": "#e4e4e4"}


def draw(rows: Sequence[Row], header: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG. Needs matplotlib: ``pip install normkernels[bench]``."""
    import matplotlib as mpl

    # writes files without a screen
    mpl.use("agg")
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = sorted(counted(rows), key=lambda count: (-count.caught, count.suite))
    # operation by operation, within each those first that most suites catch
    ordered = sorted(rows, key=lambda row: (row.operation, -_caught(row), row.bug))
    cells = [[_place(row.found[count.suite]) for row in ordered] for count in counts]
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap(list(COLOURS.values()))
    axes.imshow(cells, cmap=colours, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    labels = [f"{each.suite}   {each.caught} of {each.called} called" for each in counts]
    axes.set_yticks(range(len(counts)), labels, fontsize=8)
    axes.set_yticks([place - 0.5 for place in range(1, len(counts))], minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    starts = [place for place, row in enumerate(ordered) if row.operation != ordered[place - 1].operation] or [0]
    for place in starts[1:]:
        axes.axvline(place - 0.5, color="white", linewidth=2)
    axes.set_xticks(starts, [ordered[place].operation for place in starts], rotation=35, ha="right", fontsize=8)
    axes.legend(
        handles=[Patch(color=colour, label=name) for name, colour in COLOURS.items()],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(COLOURS),
        fontsize=8,
        frameon=False,
    )
    about = f"{len(rows)} planted bugs, a column each; models of the suites, not the suites; {OURS} must catch all"
    figure.supxlabel(f"{about}; {header['date']}, commit {header['commit']}", fontsize=8, color="0.3")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})


def _caught(row: Row) -> int:
    return sum(word not in {"", OUTSIDE} for word in row.found.values())


def _place(word: str) -> int:
    """Return the number of a colour."""
    return 2 if word == OUTSIDE else 0 if word else 1
