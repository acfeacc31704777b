"""Tests of the interpreter that judges kernels on a CPU."""
