"""Timings side by side, of calls that the conformance suite has judged first."""
