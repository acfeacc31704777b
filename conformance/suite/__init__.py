"""The suite as pytest runs it: ``pytest -p conformance.plugin --pyargs conformance.suite --adapter TARGET``."""
