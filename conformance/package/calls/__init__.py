"""Calls of each operation for the package's own tests: valid ones, invalid ones, and their results."""
