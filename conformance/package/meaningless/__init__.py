"""Calls without a meaning, a table a family: how each is made, and what its error says."""
