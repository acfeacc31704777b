"""Triton kernels, one file for each operation, and the functions that they share. These files import triton."""
