"""Decisions on calls: reasons against paths, forced paths, and decisions that are cached."""
