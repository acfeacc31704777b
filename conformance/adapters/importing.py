"""Packages that an adapter needs: imported where it is made, with one line about what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from conformance.adapter import UsageError


def needed(adapter: str, module: str, package: str, *, alone: bool = False) -> Any:  # noqa: ANN401 - without types
    """Import a module. Raises ``UsageError`` with the package to install where it is missing.

    ``alone``: without running the ``__init__`` of the packages around it, which ask for a GPU, or for extensions
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
    """Let modules of a package be imported without a line of the package itself."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"No module named {package!r}")
    sys.modules[package] = importlib.util.module_from_spec(spec)
