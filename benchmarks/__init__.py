"""Timings of implementations compared on calls that the conformance suite has judged first."""
