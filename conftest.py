"""The suite's pytest plugin, loaded as `-p conformance.plugin` loads it elsewhere, and settings of Hypothesis."""

import gc
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["conformance.plugin"]

# Tests of pure functions try the same examples in every run, and none fails for the speed of a machine. Cases of
# a run have settings of their own (conformance/cases/draws.py).
settings.register_profile(
    "repository",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.load_profile("repository")


# New objects after which garbage is looked for, 14 times Python's own number: hardly any is in cycles.
OBJECTS = 10_000


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without collecting garbage, and leave what is there then out of later collections.

    Modules and tests are a million objects that live as long as the process. To search through them again and
    again took a tenth of the time of all tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
        gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])


def pytest_unconfigure() -> None:
    """Let Python free everything at its end: libraries complain of what is left there."""
    gc.unfreeze()
