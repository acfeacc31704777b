"""pytest in this repository: the suite's own plugin, as elsewhere `-p conformance.plugin` loads it."""

pytest_plugins = ["conformance.plugin"]
