"""Fixture of tests that compile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from conformance.properties.compile import unmeasured_guards


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Start without compiled code, and leave none."""
    torch._dynamo.reset()
    with unmeasured_guards():
        yield
    torch._dynamo.reset()
