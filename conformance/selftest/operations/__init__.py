"""Tests of the operations: their levels, cases and outputs."""
