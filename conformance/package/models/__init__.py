"""Tests of the package in models: modules that it replaces, and models that it is swapped into."""
