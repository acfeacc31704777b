"""A failure → a script that shows it: what people attach to a bug report."""

from conformance.reproducer.script import write

__all__ = ["write"]
