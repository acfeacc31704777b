"""Tests of the cases: data, drawing, shrinking and the corpus."""
