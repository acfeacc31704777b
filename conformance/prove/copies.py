"""Copies of ``normkernels`` in which one file is a mutant's, and what such a file can change."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from conformance.operations import OPERATIONS
from conformance.prove.mutants import Mutant, mutants_of, mutated

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "normkernels"
UNCHANGED = "unchanged"  # the kind of a mutant that changes nothing
TESTS = ROOT / "conformance" / "package"
# Files and folders of the package's tests that come last: they take most of the time.
SLOW = frozenset(
    {
        "test_reasons",
        "test_forms",
        "test_rounding",
        "test_gradients",
        "test_launch_compiled",
        "test_compiled",
        "test_compiles",
        "test_codegen",
        "models",
    }
)
# Tests that come first: they take some seconds in all, and kill most mutants that the suite cannot kill.
FAST = (
    "test_measured_plans",
    "test_arguments",
    "test_head_plans",
    "test_options",
    "test_leading",
    "test_padding",
    "test_keys",
    "test_cached_calls",
    "test_errors",
)
# Tests that tell most of a module that no file of tests is named after.
TELLING: Mapping[str, tuple[str, ...]] = {
    "__init__": ("test_public_names",),
    "api": ("test_public_names", "test_apply_rotary_pos_emb", "test_constants", "test_outputs"),
    "checks": ("test_overlap", "test_errors"),
    "errors": ("test_decisions",),
    "library": ("test_constants", "test_refused", "test_gradients", "test_compiled"),
    "modules": ("test_modules", "test_norm_modules", "test_comparison", "test_counterparts"),
}
# What decides about results: kernels, native forms, and the way of a call to either.
FILES = ("kernels/*", "operations/*", "call.py", "checks.py", "dispatch.py", "launch.py", "plans.py")


def sources(patterns: tuple[str, ...] = FILES) -> tuple[str, ...]:
    """Return the files of the package that match a pattern, relative to the root."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    named = {file.relative_to(ROOT / PACKAGE).as_posix(): file.relative_to(ROOT).as_posix() for file in files}
    return tuple(path for name, path in named.items() if any(fnmatch.fnmatch(name, each) for each in patterns))


@cache
def mutants(patterns: tuple[str, ...] = FILES) -> tuple[Mutant, ...]:
    """Return all mutants of today's sources in files that match a pattern."""
    return tuple(
        mutant for file in sources(patterns) for mutant in mutants_of(file, (ROOT / file).read_text("utf-8"))
    )


def unchanged() -> tuple[Mutant, ...]:
    """Return mutants that change nothing, one for each file of operations: they must survive."""
    homes = (file for file in sources() if any(file == _home(name, (file,)) for name in OPERATIONS))
    return tuple(map(as_it_is, homes))


def as_it_is(file: str) -> Mutant:
    """Return the mutant of a file that changes nothing."""
    return Mutant(f"unchanged {file}", file, 1, "", UNCHANGED, "", "", 0, 0, "")


def write(folder: Path, *mutants: Mutant) -> None:
    """Write the package into a folder: links to its files, and the files of mutants with all of their changes."""
    for file in (ROOT / PACKAGE).rglob("*"):
        name = file.relative_to(ROOT)
        if file.is_dir() or "__pycache__" in name.parts:
            continue
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if own := [mutant for mutant in mutants if mutant.file == name.as_posix()]:
            place.write_text(mutated(file.read_text("utf-8"), *own), encoding="utf-8")
        else:
            place.symlink_to(file)


@cache
def reached(file: str) -> tuple[str, ...]:
    """Return the operations that a file can change, its own first; all where no operation imports it."""
    found = [name for name, files in _uses().items() if file in files]
    own = Path(file).stem
    return tuple(sorted(found or _uses(), key=lambda name: (name != own, not own.startswith(name))))


@cache
def _uses() -> dict[str, frozenset[str]]:
    """Return the files behind each operation that the package has."""
    imports = {file: _imports(ROOT / file) for file in sources(("*",))}
    homes = {name: _home(name, imports) for name in OPERATIONS}
    return {name: _closure(home, imports) for name, home in homes.items() if home is not None}


def _home(operation: str, files: Iterable[str]) -> str | None:
    """Return the file that has the class of an operation, named after it."""
    kind = f"class {operation.title().replace('_', '')}("
    inside = (file for file in files if file.startswith(f"{PACKAGE}/operations/"))
    return next((file for file in inside if kind in (ROOT / file).read_text("utf-8")), None)


def _imports(file: Path) -> frozenset[str]:
    """Return the files of the package that a file imports, at any place."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {f"{name.replace('.', '/')}.py" for name in names}
    return frozenset(path for path in paths if (ROOT / path).is_file())


def _closure(file: str, imports: dict[str, frozenset[str]]) -> frozenset[str]:
    found, new = set[str](), {file}
    while new:
        found |= new
        new = {other for each in new for other in imports[each]} - found
    return frozenset(found)


def package_tests(file: str) -> tuple[str, ...]:
    """Return the files of the package's tests, those first that are fast and speak of the module most."""
    module = Path(file).stem
    texts = {path: path.read_text("utf-8") for path in sorted(TESTS.rglob("test_*.py"))}
    telling, places = TELLING.get(module, ()), {stem: place for place, stem in enumerate(FAST)}

    def place(path: Path) -> tuple[int | bool, ...]:
        known = telling.index(path.stem) if path.stem in telling else len(telling)
        slow = not SLOW.isdisjoint({path.stem, path.parent.name})
        elsewhere = module not in path.relative_to(TESTS).as_posix(), module not in path.stem
        return known, slow, *elsewhere, places.get(path.stem, len(FAST)), -texts[path].count(module)

    ordered = sorted(texts, key=place)
    return tuple(path.relative_to(ROOT).as_posix() for path in ordered)
