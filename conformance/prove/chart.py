"""The score as a picture: what became of the mutants of each file, and which property kills how soon."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.prove.rows import Row, ended
from conformance.prove.score import by, counted, part

FORMATS = ("png", "svg")
CAPTION = 150  # characters a line
COLOURS = {"killed": "#2f7d4f", "does not import": "#9cc7ab", "equivalent": "#c8c8c8", "alive": "#c0392b"}


def draw(rows: Sequence[Row], apart: frozenset[str], caption: str, folder: Path) -> tuple[Path, ...]:
    """Write the picture as PNG and as SVG. Needs matplotlib: ``pip install normkernels[bench]``."""
    import matplotlib as mpl

    # writes files without a screen, with the same bits each time
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "normkernels"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _fates(left, rows, apart)
    _times(right, rows)
    figure.supxlabel("\n".join(textwrap.wrap(caption, CAPTION)), fontsize=8, color="0.3")
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"score.{kind}" for kind in FORMATS)
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=120, metadata=metadata, facecolor="white")
        if path.suffix == ".svg":
            # matplotlib ends lines with spaces
            path.write_text(re.sub(r"[ \t]+\n", "\n", path.read_text("utf-8")), encoding="utf-8")
    return paths


def fates(rows: Sequence[Row], apart: frozenset[str]) -> dict[str, dict[str, int]]:
    """Return what became of the mutants or bugs of each part, by fate."""
    found = {}
    for name, every in by(rows, part).items():
        count = counted(name, every, apart)
        killed = count.dead - count.unborn
        alive = count.demanded - count.dead
        fate = (killed, count.unborn, count.equivalent, alive)
        found[name] = dict(zip(COLOURS, fate, strict=True))
    return found


def _fates(axes: Any, rows: Sequence[Row], apart: frozenset[str]) -> None:  # noqa: ANN401 - matplotlib has no types here
    found = dict(reversed(fates(rows, apart).items()))
    places = range(len(found))
    start = [0] * len(found)
    for fate, colour in COLOURS.items():
        widths = [each[fate] for each in found.values()]
        if not any(widths):
            continue
        axes.barh(places, widths, left=start, color=colour, label=fate)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.set_yticks(places, list(found), fontsize=8)
    axes.set_xlabel("mutants, and planted bugs by operation")
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(COLOURS))


def _times(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401 - as above
    dead = by((row for row in ended(rows).values() if row.dead and row.by), lambda row: row.by)
    ordered = sorted(dead.items(), key=lambda each: len(each[1]))
    for place, (_, every) in enumerate(ordered):
        axes.plot([row.seconds for row in every], [place] * len(every), "|", color="black", alpha=0.5)
        axes.annotate(f"{len(every)}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("seconds until found; how many, on the right")
