"""Operations from outside: of installed packages, and of files or modules that a run names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from conformance.adapter import UsageError, imported
from conformance.calls.child import single_threaded
from conformance.calls.location import in_a_line
from conformance.operations import OPERATIONS, Operation, register

# A package names here, under any name, a module with operations, or one operation in it (package.module:NAME).
GROUP = "conformance.operations"

_used: dict[str, ModuleType] = {}  # modules by the file or module that a run named


def use(places: Iterable[str]) -> None:
    """Register the operations of installed packages, and of some files and modules, each once.

    Forked processes have what is registered here; others call this themselves. Raises ``UsageError`` with one line
    where a file cannot be imported, has no operation, or has one whose name exists already.
    """
    # an import may compute, and a child forked after torch has started threads never returns
    single_threaded()
    for entry in metadata.entry_points(group=GROUP):
        where = f"{entry.value} (entry point {GROUP})"
        _register(where, _found(where, entry.load))
    for place in places:
        if place not in _used:
            where = f"--operations {place}"
            module = _module(where, place)
            _register(where, module)
            _used[place] = module


def modules() -> dict[str, ModuleType]:
    """Return the modules in use by the file or module that a run named, in its order."""
    return dict(_used)


def _module(where: str, place: str) -> ModuleType:
    path = Path(place)
    if not place.endswith(".py"):
        found = _found(where, lambda: importlib.import_module(place))
    elif path.is_file():
        found = _found(where, lambda: imported(path, "operations"))
    else:
        message = f"{where}: no such file"
        raise UsageError(message)
    assert isinstance(found, ModuleType)
    return found


def _found(where: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except (Exception, SystemExit) as error:
        message = f"{where}: cannot be imported: {in_a_line(error)}"
        raise UsageError(message) from error


def _register(where: str, found: object) -> None:
    """Register an operation, or all that stand in a module."""
    given = vars(found).values() if isinstance(found, ModuleType) else [found]
    operations = [each for each in given if isinstance(each, Operation)]
    if not operations:
        message = f"{where}: has no operation, make an Operation in it (see conformance/operations)"
        raise UsageError(message)
    for operation in operations:
        try:
            # the suite's own, imported to build upon, or the same one under two names
            if OPERATIONS.get(operation.name) is not operation:
                register(operation)
        except ValueError as error:
            message = f"{where}: {error}"
            raise UsageError(message) from error
