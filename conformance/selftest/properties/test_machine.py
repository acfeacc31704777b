"""No property takes a lack of the machine, or a fault of its GPU, for a mistake, whichever call meets it."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from conformance.adapter import Crashed, Outcome, Unable
from conformance.adapters.normkernels import NormKernels
from conformance.calls import call
from conformance.calls.call import Subject
from conformance.calls.claim import outside
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case
from conformance.properties import PROPERTIES
from conformance.runs.item import cases_of, items
from conformance.runs.judge import unjudged
from conformance.selftest.every import every

FULL = Unable("the GPU is full: 0.1 GiB is free, a worker here may take 5 GiB more; fewer fit (-n)")
FAULT = Crashed("AcceleratorError: CUDA error: an illegal memory access was encountered")
OPERATION = "rms_norm"
MOST_CALLS = 8
# they run anywhere, and only a GPU's sums depend on the tile
OF_TILES = frozenset({"batch_invariance", "padding_invariance", "position_invariance"})


class Partial(NormKernels):
    """The kernels with a narrow claim, gradients, and the same bits in any batch."""

    takes = MappingProxyType({"rms_norm": {"rank": ("2", "3"), "columns": range(8, 8193, 8)}})
    differentiable = batch_invariant = True


def some_cases(subject: Subject, prop: str) -> tuple[Case, ...]:
    """Return the first case of a property, and the last: one past the claim, where it judges those."""
    chosen = items(subject, "quick", operations=(OPERATION,), properties=(prop,))
    judged = [item for item in chosen if prop in OF_TILES or unjudged(item, subject) is None]
    cases = list(cases_of(judged[0], subject)) if judged else []
    return tuple(dict.fromkeys((*cases[:1], *cases[-1:])))


def judged_with(
    outcome: Outcome, at: int, subject: Subject, prop: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, tuple[Verdict, ...]]:
    """Judge a case whose call number ``at`` has the outcome; return how many calls were made, and the verdicts."""
    made, shipped = 0, call._attempted

    def attempted(subject: Subject, function: Callable[[], object]) -> Any:
        nonlocal made
        made += 1
        return outcome if made == at else shipped(subject, function)

    with monkeypatch.context() as patched:
        patched.setattr(call, "_attempted", attempted)
        verdicts = PROPERTIES[prop].judge(subject, case)
    return made, verdicts


@every("outcome", (FULL, FAULT))
@every("prop", PROPERTIES)
def test_a_lack_of_the_machine_is_no_mistake(prop: str, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of a case in turn, of its first eight: such a call is not judged, or crashed, and never wrong."""
    subject = Subject(Partial())
    for case in some_cases(subject, prop):
        calls, verdicts = judged_with(outcome, 0, subject, prop, case, monkeypatch)
        assert not any(verdict.status in BAD for verdict in verdicts), str(verdicts)
        for at in range(1, min(calls, MOST_CALLS) + 1):
            _, verdicts = judged_with(outcome, at, subject, prop, case, monkeypatch)
            wrong = [verdict for verdict in verdicts if verdict.status is Status.FAILED]
            assert not wrong, f"call {at} of {calls}: {wrong[0]}"
            crashed = any(verdict.status is Status.CRASHED for verdict in verdicts)
            assert not crashed or outcome is FAULT


def test_nearly_every_property_was_tried() -> None:
    """The others need a GPU."""
    subject = Subject(Partial())
    left_out = {name for name in PROPERTIES if not some_cases(subject, name)}

    assert {"device", "graph", "large_call", "stream"} == left_out


@every(("outcome", "status"), ((FULL, Status.NOT_JUDGED), (FAULT, Status.CRASHED)))
def test_a_fault_past_the_claim_is_no_refusal(
    outcome: Outcome, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that reads out of bounds was not refused, and a call that could not be made says nothing."""
    subject = Subject(Partial())
    case = some_cases(subject, "claim")[-1]
    claim = subject.traits(OPERATION).claim
    assert claim is not None
    assert outside(claim, case)
    _, (verdict,) = judged_with(outcome, 1, subject, "claim", case, monkeypatch)

    assert status is verdict.status
