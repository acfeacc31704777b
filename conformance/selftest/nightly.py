"""Number of elements that soaks compare: all in a nightly run (``CONFORMANCE_NIGHTLY=1``), else an eighth.

A soak is a test whose promise is a number of elements. Its cases, implementations and bounds are the same in both.
"""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("CONFORMANCE_NIGHTLY") == "1"
PART = 1 if NIGHTLY else 8


def soaked(elements: int) -> int:
    """Return as many elements as this run compares in place of ``elements``."""
    return elements // PART
