"""Kernels of designs without an installable package, written anew."""
