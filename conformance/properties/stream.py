"""A call works on the current stream: it reads what earlier work on that stream wrote.

The inputs are filled on a side stream, after some work that keeps it busy. Kernels that are launched on another
stream run before the inputs are filled, and normalise the old contents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, arguments_of, call_with, metadata, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.properties.graph import fixed
from conformance.properties.measure import measure
from conformance.properties.property import Property

CYCLES = 50_000_000  # some 30 ms: longer than the launches of a call take


@contextlib.contextmanager
def busy_stream() -> Iterator[None]:
    """Make another stream current inside the block, and busy for a while; wait for it at the end."""
    torch.cuda.synchronize()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.cuda.stream(side):
        # torch's own tests of streams use this
        torch.cuda._sleep(CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001
        yield
    side.synchronize()


def judge(
    subject: Subject, case: Case, busy: Callable[[], AbstractContextManager[None]] = busy_stream
) -> tuple[Verdict, ...]:
    """Fill the inputs on a busy stream and call; the outputs must be those of the new values."""
    old = values_for(subject, replace(case, seed=case.seed + 1))
    arguments = arguments_of(materialize(case, old, subject.device, POISONS[0]))
    # compile now, not while the stream is busy
    first = call_with(subject, case, arguments)
    if not isinstance(first, Ran):
        return (without_outputs("stream", case, first),)
    values = values_for(subject, case)
    ready = {name: tensor.to(subject.device) for name, tensor in values.items()}
    with busy():
        for name, tensor in ready.items():
            arguments[name].copy_(tensor)
        outcome = call_with(subject, case, arguments, wait=False)
    if not isinstance(outcome, Ran):
        return (without_outputs("stream", case, outcome),)
    wrong = metadata(subject, case, outcome.outputs)
    if not wrong:
        comparison = measure(subject, subject.contract(case.operation), case, values, outcome.outputs)
        outside = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        wrong = f"on a side stream: {outside}" if comparison.outside else ""
    return (Verdict("stream", case, Status.FAILED if wrong else Status.PASSED, wrong),)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "needs a CUDA GPU" if subject.device == "cpu" else ""


STREAM = Property(
    "stream",
    "a call works on the stream that is current",
    judge,
    fixed=fixed,
    cannot=_cannot,
)
