"""A call recorded in a CUDA graph gives the results of what its tensors hold when it is replayed.

Servers record a call once and replay it for every token, with other activations in the same memory; and they
load weights into that memory after recording. Anything computed while recording is then out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from conformance.adapter import Crashed, Outcome, Ran
from conformance.calls.call import Subject, arguments_of, call_with, metadata, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import Operation
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary

REPLAYS = 3
Record = Callable[[Callable[[], Outcome]], tuple[Outcome, Callable[[], None]]]


def record_on_gpu(call: Callable[[], Outcome]) -> tuple[Outcome, Callable[[], None]]:
    """Record a call on its own stream after two runs of it, as torch asks, and return how to replay it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first = call()
        call()
    torch.cuda.current_stream().wait_stream(side)
    if not isinstance(first, Ran):
        return first, lambda: None
    graph = torch.cuda.CUDAGraph()
    # not torch.cuda.graph, which also collects garbage and gives all cached memory back: with several processes on
    # a GPU that takes most of a case
    torch.cuda.synchronize()
    try:
        with torch.cuda.stream(side):
            graph.capture_begin()
            try:
                outcome = call()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        # a call that cannot be recorded shows only when the recording ends
        return Crashed(f"cannot be recorded: {error}"), lambda: None

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return outcome, replay


def judge(subject: Subject, case: Case, record: Record = record_on_gpu) -> tuple[Verdict, ...]:
    """Record, then put other values into all arguments and replay; the outputs must be those of the new values."""
    arguments = arguments_of(materialize(case, values_for(subject, case), subject.device, POISONS[0]))
    outcome, replay = record(lambda: call_with(subject, case, arguments, wait=False))
    if not isinstance(outcome, Ran):
        return (without_outputs("graph", case, outcome),)
    wrong = metadata(subject, case, outcome.outputs)
    if wrong:
        return (Verdict("graph", case, Status.FAILED, f"nothing to compare: {wrong}"),)
    contract = subject.contract(case.operation)
    for number in range(1, REPLAYS + 1):
        values = values_for(subject, replace(case, seed=case.seed + number))
        for name, tensor in values.items():
            arguments[name].copy_(tensor)
        replay()
        comparison = measure(subject, contract, case, values, outcome.outputs)
        if comparison.outside:
            reason = f"replay {number}: {comparison.first}; {comparison.outside} elements outside"
            return (Verdict("graph", case, Status.FAILED, reason),)
    return (Verdict("graph", case, Status.PASSED),)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    if not subject.traits(operation).graphs:
        return "the adapter does not declare it"
    return "needs a CUDA GPU" if subject.device == "cpu" else ""


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: ordinary calls whose every tensor can be written to."""
    return narrowed(operation, contiguous(operation), ordinary(operation), (("rank", ("2", "3")),))


GRAPH = Property(
    "graph",
    "replayed from a CUDA graph, a call sees the inputs and weights of that moment",
    judge,
    fixed=fixed,
    cannot=_cannot,
)
