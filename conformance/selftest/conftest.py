"""Preparation of the processes that run the tests of the suite, before they fork."""

import pytest

from conformance.calls.watch import warm_up
from conformance.runs.host import faithful_interpreter


@pytest.fixture(scope="session", autouse=True)
def _warm(request: pytest.FixtureRequest) -> None:
    """Do once what every forked child would otherwise do for itself, a second and a half each."""
    warm_up()
    if request.config.getoption("device") == "cpu":
        faithful_interpreter()
