"""Tests of the package of this repository alone: dispatch, plans, kernels, errors, modules, public names."""
