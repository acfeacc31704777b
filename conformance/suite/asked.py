"""The suite's way into pytest, which does nothing until a command line names the suite.

pytest imports this module in every run of an environment in which the suite is installed, also in those of other
projects: until the suite is asked for, no option is added, and neither torch nor the plugin is imported.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

SUITE, PLUGIN = "conformance.suite", "conformance.plugin"


def asked(arguments: Iterable[str]) -> bool:
    """Return whether a command line names the suite, or a part of it."""
    return any(each == SUITE or each.startswith((f"{SUITE}.test_", f"{SUITE}:")) for each in arguments)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Register the plugin, whose options are then read with all others."""
    if asked(args):
        early_config.pluginmanager.import_plugin(PLUGIN)
