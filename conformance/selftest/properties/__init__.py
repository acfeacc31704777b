"""Tests of the properties: what each judge sees, and what it leaves alone."""
