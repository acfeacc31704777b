"""Tests of the tree: imports, names, prose and the wheel."""
