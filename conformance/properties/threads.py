"""Calls from several threads at once do not disturb each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import torch

from conformance.adapter import Outcome, Ran
from conformance.calls import state_guard
from conformance.calls.call import Subject, arguments_of, call_with, perform
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import Arguments
from conformance.oracle.bits import same_bits
from conformance.properties.determinism import cannot
from conformance.properties.property import Property, contiguous, ordinary

CALLERS = 8
ROUNDS = 4


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with eight sets of values in turn, then with all at once; each set must give the same bits."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("threads", case, made.outcome),)
    if made.record.launches and subject.device == "cpu":
        reason = "needs a GPU: Triton's interpreter runs one kernel at a time"
        return (Verdict("threads", case, Status.NOT_JUDGED, reason),)
    calls = [partial(call_with, subject, case, _arguments(subject, case, number)) for number in range(CALLERS)]
    alone = [call() for call in calls]
    for _ in range(ROUNDS):
        for number, (expected, got) in enumerate(zip(alone, together(calls), strict=True)):
            for outcome in (expected, got):
                if not isinstance(outcome, Ran):
                    return (without_outputs("threads", case, outcome),)
            assert isinstance(expected, Ran)
            assert isinstance(got, Ran)
            if not all(map(same_bits, expected.outputs, got.outputs)):
                reason = f"call {number + 1} of {CALLERS} at once has other bits than alone"
                return (Verdict("threads", case, Status.FAILED, reason),)
    return (Verdict("threads", case, Status.PASSED),)


def together(calls: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    """Return the outcome of each call, made in a thread of its own; all threads start at the same moment."""
    start = threading.Barrier(len(calls))
    found: dict[int, Outcome] = {}

    def run(number: int) -> None:
        start.wait()
        found[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    # one guard around all threads: otherwise one call would be blamed for the changes of another
    with state_guard.guarded():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [found[number] for number in range(len(calls))]


def _arguments(subject: Subject, case: Case, number: int) -> Arguments:
    """Return the arguments of a thread's call: the case's values, shifted by another number in every thread."""
    values = {
        name: torch.roll(tensor.flatten(), number).reshape(tensor.shape)
        for name, tensor in values_of(case).items()
    }
    return arguments_of(materialize(case, values, subject.device, POISONS[0]))


THREADS = Property(
    "threads",
    "calls from several threads at once give each its own result",
    judge,
    fixed=lambda operation: (*contiguous(operation), *ordinary(operation)),
    cannot=cannot,
)
