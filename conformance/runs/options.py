"""Options of a run, each defined once: ``conform run`` and the plugin of pytest take them from here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.calls.child import START
from conformance.runs.item import PROFILES

OUT = "build/conformance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its name on a command line, the type of its value, and the values that it takes.

    ``least`` is the smallest number that is taken; where ``above`` is set, numbers must be larger than that.
    ``decides``: the cases depend on it, so the header of a report names it.
    """

    name: str
    help: str
    type: type[str] | type[int] | type[float] | type[Path] = str
    default: str | int | float | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    least: int | None = None
    above: bool = False
    decides: bool = False
    metavar: str | None = None

    @property
    def flag(self) -> str:
        """Return the option as it stands on a command line."""
        return f"--{self.name}"

    def read(self, text: str) -> str | int | float | Path:
        """Return the value that a text stands for. Raises ``ValueError`` where it stands for none."""
        value = self.type(text)
        if self.choices and value not in self.choices:
            raise ValueError(f"{value!r}, must be one of {', '.join(self.choices)}")
        if isinstance(value, int | float) and self.least is not None:
            # written so that NaN is refused
            taken = value > self.least if self.above else value >= self.least
            if not taken:
                raise ValueError(f"{text}, must be {'more than' if self.above else 'at least'} {self.least}")
        return value


# Options of conform run, and of pytest.
OPTIONS = (
    Option(name="op", metavar="NAME", many=True, help="Judge this operation only; repeatable."),
    Option(
        name="operations",
        metavar="FILE",
        many=True,
        help="File or module with operations of its own, in addition to those of the suite; repeatable.",
    ),
    Option(name="property", metavar="NAME", many=True, help="Judge this property only; repeatable."),
    Option(name="device", choices=("cpu", "cuda"), help="Default: cuda where there is a GPU."),
    Option(
        name="profile", choices=tuple(PROFILES), default="quick", decides=True, help="How many cases are judged."
    ),
    Option(name="seed", type=int, default=0, least=0, decides=True, help="The same seed, the same cases."),
    Option(
        name="chunk",
        type=int,
        least=0,
        metavar="K",
        help="Judge chunk K of the profile, or beyond it, alone: as it was judged in a run with the same seed.",
    ),
    Option(
        name="waivers",
        type=Path,
        metavar="FILE",
        help="Known failures (TOML), each with its issue; one that is out of date fails the run.",
    ),
    Option(
        name="import-limit",
        type=float,
        default=START,
        least=0,
        above=True,
        help="Seconds that importing the adapter may take.",
    ),
    Option(
        name="report",
        type=Path,
        default=OUT,
        help="Folder for report.json, report.html, junit.xml, cases and reproducers.",
    ),
)
# Options of pytest alone.
OF_PYTEST = (
    Option(
        name="again",
        type=Path,
        metavar="FILE",
        help="Judge only what FILE (JSON) names as operation/property/dtype, its cases first.",
    ),
    Option(
        name="adapter",
        default="normkernels",
        help="Judge this: a known name, package.module:Class or file.py:Class.",
    ),
    Option(name="chunks", type=int, default=1, least=1, help="Chunks that are judged, from --chunk on."),
    Option(
        name="until",
        type=float,
        metavar="SECONDS",
        help="Begin no chunk after this moment, in seconds since the epoch; one that is begun is judged whole.",
    ),
    Option(name="journal", type=Path, help="Folder that collects the journals of several chunks."),
    Option(
        name="limit",
        type=float,
        least=0,
        above=True,
        help="Seconds after which a call has hung. Default: the profile's.",
    ),
    Option(
        name="memory",
        type=float,
        least=0,
        above=True,
        help="GiB that a worker's calls may hold. Default: its share of four fifths.",
    ),
    Option(name="gpu-memory", type=float, least=0, above=True, help="As --memory, of the worker's GPU."),
    Option(name="options-from", metavar="FILE", help="File that options were read from, for the report to name."),
)
IN_HEADER = tuple(option.name for option in OPTIONS if option.decides)
NAMED = {option.name: option for option in (*OPTIONS, *OF_PYTEST)}


def command(target: str, given: Mapping[str, object], name: str = "run") -> str:
    """Return the command that judges a target with some options, by the names that argparse gives them.

    Nothing where a run judged what failed before: no command line says what that was.
    """
    if given.get("again") is not None:
        return ""
    chosen = {}
    for option in OPTIONS:
        value = given.get(option.name.replace("-", "_"))
        if option.name not in _OF_THE_PLACE and value not in (option.default, []):
            chosen[option.name] = tuple(value) if isinstance(value, list) else value
    return shlex.join(["conform", name, target, *arguments(chosen)])


_OF_THE_PLACE = frozenset({"import-limit", "report"})  # options on which no verdict depends


def arguments(given: Mapping[str, object]) -> list[str]:
    """Return the command line of some options by name; one whose value is None is left out."""
    line = []
    for name, value in given.items():
        option = NAMED[name]
        values = value if option.many and isinstance(value, tuple) else (value,)
        line += [part for each in values if each is not None for part in (option.flag, str(each))]
    return line
