"""A call works on the device of its tensors, whichever device is current, and does not change the current one."""

from __future__ import annotations

from dataclasses import replace

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, metadata, perform
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.properties.graph import fixed
from conformance.properties.measure import measure
from conformance.properties.property import Property


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with tensors on the current GPU, then with tensors on another GPU."""
    count = torch.cuda.device_count()
    if count < 2:
        reason = f"needs two GPUs, sees {count} (each worker of several sees one)"
        return (Verdict("device", case, Status.NOT_JUDGED, reason),)
    current = torch.cuda.current_device()
    verdict = judge_on(subject, case, (f"cuda:{current}", f"cuda:{(current + 1) % count}"))
    if torch.cuda.current_device() != current:
        torch.cuda.set_device(current)
        return (Verdict("device", case, Status.FAILED, "the call leaves another device current"),)
    return (verdict,)


def judge_on(subject: Subject, case: Case, devices: tuple[str, str]) -> Verdict:
    """Call on each device in turn: data cached by the first call must not serve the second."""
    values = values_of(case)
    contract = subject.contract(case.operation)
    for device in devices:
        made = perform(replace(subject, device=device), case, values)
        if not isinstance(made.outcome, Ran):
            return without_outputs("device", case, made.outcome)
        wrong = metadata(subject, case, made.outcome.outputs)
        if not wrong:
            comparison = measure(replace(subject, device=device), contract, case, values, made.outcome.outputs)
            outside = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
            wrong = outside if comparison.outside else ""
        if wrong:
            return Verdict("device", case, Status.FAILED, f"tensors on {device}: {wrong}")
    return Verdict("device", case, Status.PASSED)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "needs two GPUs" if subject.device == "cpu" else ""


DEVICE = Property(
    "device",
    "a call works on the device of its tensors, whichever is current",
    judge,
    fixed=fixed,
    cannot=_cannot,
)
