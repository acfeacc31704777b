"""Triton kernels of the oracle, for outputs on a GPU."""
