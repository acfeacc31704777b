"""Tests of normkernels alone: dispatch, plans, kernels, errors, modules and public names."""
