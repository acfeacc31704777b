"""The suite's pytest plugin, loaded as `-p conformance.plugin` loads it elsewhere."""

pytest_plugins = ["conformance.plugin"]
