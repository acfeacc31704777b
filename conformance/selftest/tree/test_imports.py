"""Imports point one way, along the pipeline: the order below is the architecture's, as data."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from conformance.selftest.every import every

ROOT = Path(__file__).resolve().parents[3]

# A module may import itself and earlier modules. A folder counts as one module.
ORDER = (
    "cases",
    "oracle",
    "operations",
    "adapter",
    "calls",
    "__init__",  # the names that adapters are written with
    "adapters",
    "interpreter",
    "properties",
    "runs",
    "report",
    "plugin",
    "suite",
    "prove",
    "cli",
    "__main__",
)
# Tests of this repository: they may import everything, and nothing imports them.
TESTS = ("package", "selftest")
# All other modules judge any implementation, so they must not import ours.
KNOW_OURS = ("adapters", *TESTS)


def _modules() -> dict[str, list[Path]]:
    """Return the files of each module of ``conformance``."""
    modules: dict[str, list[Path]] = {}
    for file in sorted((ROOT / "conformance").rglob("*.py")):
        top = file.relative_to(ROOT / "conformance").parts[0].removesuffix(".py")
        modules.setdefault(top, []).append(file)
    return modules


def _imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Return the dotted names that a file of ``package`` imports, also inside functions and for type checkers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = [*package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*origin, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _imports_of(file: Path) -> set[str]:
    return _imported(file.read_text(encoding="utf-8"), file.relative_to(ROOT).parent.parts)


def _used(file: Path, modules: dict[str, list[Path]]) -> set[str]:
    """Return the modules of ``conformance`` that a file imports; the package's own names are __init__'s."""
    used = set()
    for name in _imports_of(file):
        package, _, rest = name.partition(".")
        if package == "conformance":
            first = rest.partition(".")[0]
            used.add(first if first in modules else "__init__")
    return used


def _not_before(module: str, used: set[str]) -> set[str]:
    """Return the modules that ``module`` imports and must not."""
    return used - set(ORDER[: ORDER.index(module) + 1])


MODULES = _modules()


@every("module", sorted(MODULES))
def test_every_module_has_a_place_in_the_order(module: str) -> None:
    """A module outside the architecture's order needs a decision."""
    assert module in (*ORDER, *TESTS)


@every("module", [m for m in ORDER if m in MODULES])
def test_a_module_imports_only_earlier_ones(module: str) -> None:
    """No file imports a later module, at any place in the file."""
    wrong = {str(f.relative_to(ROOT)): _not_before(module, _used(f, MODULES)) for f in MODULES[module]}

    assert {} == {file: later for file, later in wrong.items() if later}


@every("module", [m for m in ORDER if m in MODULES and m not in KNOW_OURS])
def test_the_suite_does_not_know_the_package_that_it_judges(module: str) -> None:
    """Only adapters and the tests of this repository import normkernels; the oracle least of all."""
    ours = {
        str(f.relative_to(ROOT))
        for f in MODULES[module]
        if any(name.partition(".")[0] == "normkernels" for name in _imports_of(f))
    }

    assert set() == ours


def test_the_package_does_not_know_the_suite() -> None:
    """Installing and importing normkernels needs nothing of conformance."""
    knowing = {
        str(f.relative_to(ROOT))
        for f in (ROOT / "normkernels").rglob("*.py")
        if any(name.partition(".")[0] == "conformance" for name in _imports_of(f))
    }

    assert set() == knowing


@every(
    ("source", "imported"),
    [
        ("import conformance.cli", "conformance.cli"),
        ("from conformance import cli", "conformance.cli"),
        ("from conformance.cli import main", "conformance.cli.main"),
        ("from .. import cli", "conformance.cli"),
        ("from ..cli import main", "conformance.cli.main"),
        ("def f():\n    from conformance import cli", "conformance.cli"),
    ],
)
def test_every_way_to_import_is_seen(source: str, imported: str) -> None:
    """The check above reads absolute, relative and local imports alike."""
    assert {imported} == _imported(source, ("conformance", "oracle"))


def test_a_later_module_is_noticed() -> None:
    """The order can fail: a case that used the command line would be caught."""
    assert {"cli"} == _not_before("cases", {"cases", "cli"})


def _files(package: str) -> dict[str, Path]:
    """Return the files of a package by their dotted names."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def _graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Return every file with the files that it imports; a name counts as the file that defines it."""
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        used = set()
        for imported in _imports_of(file):
            parts = imported.split(".")
            candidates = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            used |= {next((each for each in candidates if each in files), name)} - {name}
        graph[name] = used
    return graph


@pytest.mark.parametrize("package", ["conformance", "normkernels"])
def test_no_imports_go_in_a_circle(package: str) -> None:
    """Files can be read in an order in which each file imports only earlier ones."""
    assert len(tuple(TopologicalSorter(_graph(_files(package))).static_order())) >= len(_files(package))


def test_a_circle_is_noticed() -> None:
    """The test above can fail."""
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_the_top_of_the_suite_shows_the_way() -> None:
    """There are at most sixteen files and folders, besides those that Python itself runs."""
    assert len(set(MODULES) - {"__init__", "__main__"}) <= 16
