"""The suite as pytest runs it: ``pytest --pyargs conformance.suite --adapter TARGET``."""
