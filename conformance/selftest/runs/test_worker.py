"""A process that a call has broken reports it, and the cause is the verdict on that call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.adapter import Crashed, poisons
from conformance.calls.budget import GIB
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.properties import errors
from conformance.properties.discovery import Evidence
from conformance.runs.behind import Place
from conformance.runs.item import Item, cases_of
from conformance.runs.judge import Answer
from conformance.runs.worker import Worker
from conformance.selftest.calls.test_budget import CASE
from conformance.selftest.fakes.correct import Correct

ILLEGAL = "CUDA error: an illegal memory access was encountered"
PASSED = (Verdict("values", CASE, Status.PASSED),)
HELD = (Verdict("values", CASE, Status.CRASHED, "held more than 8 GiB of GPU memory"),)


class Astray(Correct):
    """An implementation whose kernel reads invalid memory."""

    validates = True

    def rms_norm_gated(self, *arguments: Any, **flags: Any) -> torch.Tensor:
        """Raise PyTorch's error of an invalid access."""
        raise torch.AcceleratorError(ILLEGAL)


def _says(monkeypatch: pytest.MonkeyPatch, answer: Answer | Exception) -> None:
    """Make every judgement return, or raise, the given answer."""

    def judge(*_: Any) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("conformance.runs.worker.judge", judge)


@pytest.mark.parametrize(
    ("how", "poisoned"),
    [
        (f"AcceleratorError: {ILLEGAL}\nSearch for it", True),
        (f"RuntimeError: {ILLEGAL}", True),
        ("RuntimeError: CUDA driver error: unspecified launch failure", True),
        ("RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered", True),
        ("RuntimeError: HIP error: invalid device function", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("OutOfResources: out of resource: shared memory, Required: 300000", False),
        ("ValueError: weight must be on a CUDA device", False),
        ("killed by SIGSEGV", False),
    ],
)
def test_what_leaves_a_context_beyond_use_is_told_by_its_words(how: str, *, poisoned: bool) -> None:
    """Errors of the driver are recognised in any form; errors of a call and lack of memory are not such."""
    assert poisoned is poisons(how)


def test_a_poisoned_process_is_not_healthy() -> None:
    """The verdict of a poisoned process stands; a process without such an error goes on."""
    worker, other = Worker(Subject(Astray())), Worker(Subject(Correct()))
    answer = worker.judge("values", CASE)
    other.judge("values", CASE)

    assert isinstance(answer, tuple)
    (verdict,) = answer
    assert Status.CRASHED is verdict.status
    assert verdict.reason.startswith(f"AcceleratorError: {ILLEGAL} (conformance/selftest/runs/test_worker.py:")
    assert (False, True) == (worker.healthy(), other.healthy())


def test_a_fault_that_shows_late_is_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the suite's own use of the GPU after a call is the call's crash, and no error of the suite."""
    worker = Worker(Subject(Correct()))
    _says(monkeypatch, torch.AcceleratorError(ILLEGAL))

    assert Crashed(f"AcceleratorError: {ILLEGAL}") == worker.judge("values", CASE)
    assert not worker.healthy()


def test_an_error_of_the_suite_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the driver's is raised."""
    worker = Worker(Subject(Correct()))
    _says(monkeypatch, RuntimeError("shapes do not match"))

    with pytest.raises(RuntimeError, match="shapes do not match"):
        worker.judge("values", CASE)
    assert worker.healthy()


def test_a_sentence_about_a_failure_may_cost_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is already known; the sentence is empty, and another process goes on."""
    worker = Worker(Subject(Astray()))
    monkeypatch.setattr("conformance.runs.worker.follow", Astray.rms_norm_gated)

    assert "" == worker.follow(Evidence((CASE,)))
    assert not worker.healthy()


@pytest.mark.parametrize(
    ("answer", "left", "said", "healthy"),
    [
        (PASSED, GIB // 2, PASSED, True),
        (PASSED, 2 * GIB, (Crashed("left 2 GiB of GPU memory behind, of 8 GiB"),), False),
        # the message of its crash says more
        (HELD, 2 * GIB, HELD, False),
        (HELD, 0, HELD, True),
    ],
)
def test_what_calls_leave_behind_is_the_last_ones_crash(
    answer: Answer, left: int, said: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, *, healthy: bool
) -> None:
    """A little memory is for tables and workspaces; more would be missing from the next call's share."""
    worker = Worker(Subject(Correct(), memory=8 * GIB))
    _says(monkeypatch, answer)
    monkeypatch.setattr("conformance.runs.worker.allocated", lambda: left)
    got = worker.judge("values", CASE)

    assert said == (got if isinstance(got, tuple) else (got,))
    assert healthy is worker.healthy()


def test_a_kernel_astray_is_no_way_to_refuse_a_call() -> None:
    """An exception from the driver shows that the arguments were not checked."""
    subject = Subject(Astray())
    case = next(iter(cases_of(Item("rms_norm_gated", "errors", "float32"), subject)))
    (verdict,) = errors.judge(subject, case)

    assert Status.CRASHED is verdict.status


@pytest.mark.parametrize(
    ("error", "healthy"),
    [
        (torch.OutOfMemoryError("out"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError(ILLEGAL), False),
    ],
)
def test_a_look_behind_an_element_costs_no_verdict(
    error: Exception, monkeypatch: pytest.MonkeyPatch, *, healthy: bool
) -> None:
    """A lack of memory and a fault of the GPU are no numbers; after the fault another process goes on."""

    def raises(*_: object) -> None:
        raise error

    worker = Worker(Subject(Correct()))
    monkeypatch.setattr("conformance.runs.worker.behind", raises)

    assert worker.look(CASE, Place("out", (0, 0), 1.0)) is None
    assert healthy == worker.healthy()
