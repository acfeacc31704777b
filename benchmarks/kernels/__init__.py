"""Kernels of our own for what has none to install: designs to compare with, and nothing at all."""
