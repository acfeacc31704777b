"""Draw where contracts round, from the suite's own tables, and an interval: ``python docs/pictures.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from conformance.operations import OPERATIONS
from conformance.oracle.contract import contracts

FOLDER = Path(__file__).with_name("pictures")
# the steps that round, as a reader knows them; v is what is normalised
STEPS = {
    "sum": "x + residual",
    "offset": "offset + w",
    "gated": "x · act",
    "mean": "mean(x)",
    "centred": "x − mean",
    "square": "v²",
    "variance": "mean(v²) + ε",
    "rstd": "1 / √",
    "normalised": "v · rstd",
    "weighted": "· weight",
    "act": "act(gate)",
    "angle": "cos, sin",
    "turned": "x · cos, x · sin",
}
DRAWN = ("rms_norm_gated", "rms_norm", "layer_norm", "mrope")

LEFT, COLUMN, TOP, ROW = 120, 98, 64, 34
INK, ASIDE, ROUNDED = "#1c1f24", "#5b6370", "#0b57a8"


def figures() -> dict[str, str]:
    """Return every picture by the name of its file."""
    drawn = {f"{name}.svg": rounding(name) for name in DRAWN}
    return {**drawn, "interval.svg": interval()}


def rounding(name: str) -> str:
    """Return a row for each named contract of an operation, and a column for each of its rounding points."""
    points = [point.name for point in OPERATIONS[name].rounds]
    rows = named(name)
    columns = [*points, "store"]
    width, height = LEFT + COLUMN * len(columns), TOP + ROW * len(rows) + 6
    parts = [_text(10, 22, name, INK, bold=True)]
    for number, column in enumerate(columns):
        middle = LEFT + COLUMN * number + COLUMN / 2
        parts.append(_text(middle, 22, column, INK, anchor="middle"))
        parts.append(_text(middle, 40, STEPS.get(column, "y"), ASIDE, anchor="middle"))
    for number, (contract, rounds) in enumerate(rows.items()):
        line = TOP + ROW * number + ROW / 2 - 6
        parts.append(_text(10, line + 4, contract, INK))
        parts.append(f'<path d="M{LEFT + 10} {line}H{width - COLUMN / 2:g}" stroke="{ASIDE}"/>')
        parts += _circles(line, columns, {*rounds, "store"})
    return _svg(width, height, parts)


def named(name: str) -> dict[str, frozenset[str]]:
    """Return the named contracts that an operation can tell apart: those of other points are left out."""
    points = OPERATIONS[name].rounds
    names = {point.name for point in points}
    return {contract: rounds for contract, rounds in contracts(points).items() if rounds <= names}


def _circles(line: float, columns: Iterable[str], rounds: set[str]) -> Iterator[str]:
    for number, column in enumerate(columns):
        fill = ROUNDED if column in rounds else "#ffffff"
        middle = LEFT + COLUMN * number + COLUMN / 2
        yield f'<circle cx="{middle:g}" cy="{line:g}" r="7" fill="{fill}" stroke="{ROUNDED}" stroke-width="1.5"/>'


def interval() -> str:
    """Return two intervals among four neighbours in bfloat16: one allows one of them, the other two."""
    left, step, line = 70, 170, 78
    ulp = 2.0**-7
    parts = [f'<path d="M20 {line}H{left + 3 * step + 50}" stroke="{ASIDE}"/>']
    for number in range(4):
        at = left + step * number
        parts.append(f'<path d="M{at} {line - 9}V{line + 9}" stroke="{INK}" stroke-width="2"/>')
        parts.append(_text(at, line + 28, f"{1 + number * ulp}", INK, anchor="middle"))
    allowed = {
        "one value allowed": (0.8, 1.15),
        "two values allowed": (2.35, 2.62),
    }
    for said, (low, high) in allowed.items():
        begin, end = left + step * low, left + step * high
        parts.append(
            f'<rect x="{begin:g}" y="{line - 22}" width="{end - begin:g}" height="14" rx="3" fill="{ROUNDED}"/>'
        )
        parts.append(_text((begin + end) / 2, line - 34, said, ROUNDED, anchor="middle"))
    for number in range(3):
        middle = left + step * (number + 0.5)
        parts.append(f'<path d="M{middle:g} {line - 5}V{line + 5}" stroke="{ASIDE}" stroke-dasharray="2 2"/>')
    parts.append(_text(left, line + 50, "neighbours in bfloat16; dashed: halfway, where rounding turns", ASIDE))
    return _svg(left + 3 * step + 70, line + 64, parts)


def _text(x: float, y: float, said: str, colour: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}"{weight}>{said}</text>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    back = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', back, *parts, "</svg>", ""])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in figures().items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
