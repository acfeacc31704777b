"""The compile property asks for nothing but what it judges."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case, TensorSpec
from conformance.properties.compile import judge

PLAIN = Case(
    "rms_norm",
    (("x", TensorSpec((4, 128), "float32")), ("weight", TensorSpec((128,), "float32"))),
    (("eps", 1e-6), ("weight_offset", 0.0)),
)


def test_guards_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring guards takes as long as a small compilation; an implementation's own calls measure as they did."""
    guards = pytest.importorskip("torch._dynamo.guards")
    asked = []

    def measured(*given: Any) -> float:
        asked.append(given)
        return 0.0

    monkeypatch.setattr(guards, "profile_guard_manager", measured)
    verdicts = judge(Subject(load("native")), PLAIN)

    assert [Status.PASSED] == [verdict.status for verdict in verdicts]
    assert [] == asked
    assert guards.profile_guard_manager is measured
