"""Tests of the oracle: golden values from elsewhere, and right implementations that must pass."""
