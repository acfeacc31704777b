"""Tests of the adapters of known implementations."""
