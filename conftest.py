"""The suite's pytest plugin, loaded as `-p conformance.plugin` loads it elsewhere, and settings of Hypothesis."""

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
