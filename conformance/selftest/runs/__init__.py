"""Tests of whole runs: items, surveys, waivers, workers and reproducers."""
