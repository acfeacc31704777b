"""Imports of packages that an adapter needs, with a one-line error for a missing one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from conformance.adapter import UsageError


def needed(adapter: str, module: str, package: str, *, alone: bool = False) -> Any:  # noqa: ANN401 - without types
    """Import a module. Raises ``UsageError`` with the package to install where it is missing.

    ``alone``: do not run the ``__init__`` of the packages around it, which ask for a GPU, or for extensions
    that the module itself does not use.
    """
    try:
        for name in _parents(module) if alone else ():
            _import_empty(name)
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{adapter}: needs {module}, pip install {package}: {error}") from error


def _parents(module: str) -> list[str]:
    """Return the packages around a module, outermost first."""
    names = module.split(".")[:-1]
    return [".".join(names[: end + 1]) for end in range(len(names))]


def _import_empty(package: str) -> None:
    """Make modules of a package importable without running the package's own code."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"No module named {package!r}")
    sys.modules[package] = importlib.util.module_from_spec(spec)
