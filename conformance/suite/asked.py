"""The suite's way into pytest, which does nothing until a command line names the suite.

Options that the command line lacks are then read from the project's file, as ``conform`` reads them.

pytest imports this module in every run of an environment in which the suite is installed, also in those of other
projects: until the suite is asked for, no option is added, and neither torch nor the plugin is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

SUITE, PLUGIN = "conformance.suite", "conformance.plugin"


def asked(arguments: Iterable[str]) -> bool:
    """Return whether a command line names the suite, or a part of it."""
    return any(each == SUITE or each.startswith((f"{SUITE}.test_", f"{SUITE}:")) for each in arguments)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Register the plugin, whose options are then read with all others, and add those of the project's file."""
    if asked(args):
        early_config.pluginmanager.import_plugin(PLUGIN)
        # pytest goes on with this list; a worker of xdist has the command line, and comes here as well
        args[:0] = _of_the_project(early_config.invocation_params.dir, args)


def _of_the_project(folder: Path, args: Sequence[str]) -> list[str]:
    """Return the options of the file in a folder that ``args`` lack."""
    from conformance.adapter import UsageError
    from conformance.runs import settings

    try:
        return settings.missing(settings.read(folder), args)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
