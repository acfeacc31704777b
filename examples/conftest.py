"""Fixtures of these tests: an interpreter that rounds as a GPU does, and the launches of a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.runs.host import faithful_interpreter
from normkernels import launch


@pytest.fixture(scope="session", autouse=True)
def _faithful() -> None:
    """Make the interpreter round as a GPU does, if the interpreter runs the kernels."""
    if not torch.cuda.is_available():
        faithful_interpreter()


@pytest.fixture(name="launched")
def _launched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which every launch is appended."""
    seen: list[object] = []
    start = launch.launch

    def note(*given: Any) -> None:  # noqa: ANN401 - passed on unchanged
        seen.append(given)
        start(*given)

    monkeypatch.setattr(launch, "launch", note)
    return seen
