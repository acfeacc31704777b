"""Tests of the mutants, of their marks, and of the score."""
