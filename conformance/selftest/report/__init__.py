"""Tests of the report: its rows, its page and its causes."""
