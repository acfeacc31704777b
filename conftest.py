"""pytest in this repository: the suite's own plugin, as an installed suite has it by entry point."""

pytest_plugins = ["conformance.plugin"]
