"""Tests of launches, and of the keys that find them."""
