"""Tests of what carries out a call: children, memory, limits, global state and claims."""
