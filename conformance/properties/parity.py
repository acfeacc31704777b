"""The chosen path agrees with the reference path within PyTorch's default tolerances."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from conformance.adapter import Adapter, Ran, load
from conformance.case import Case
from conformance.properties.property import Property, ordinary
from conformance.verdict import Status, Subject, Verdict, perform, without_outputs


@functools.cache
def _reference(name: str) -> Adapter:
    return load(name)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call both on the same case; ``torch.testing.assert_close`` with its defaults per dtype."""
    assert subject.adapter.reference is not None
    made = perform(subject, case)
    expected = perform(replace(subject, adapter=_reference(subject.adapter.reference)), case)
    for call in (made, expected):
        if not isinstance(call.outcome, Ran):
            return (without_outputs("parity", case, call.outcome),)
    assert isinstance(made.outcome, Ran)
    assert isinstance(expected.outcome, Ran)
    try:
        # the only assert_close that judges anybody: what people ask for first, beside the exact judgement
        torch.testing.assert_close(made.outcome.outputs, expected.outcome.outputs, equal_nan=True)
    except AssertionError as error:
        return (Verdict("parity", case, Status.FAILED, " ".join(str(error).split())),)
    return (Verdict("parity", case, Status.PASSED),)


def _cannot(subject: Subject, dtype: str) -> str:
    return "" if subject.adapter.reference else "the adapter names no reference to compare with"


PARITY = Property(
    "parity",
    "the chosen path agrees with the reference path by torch.testing.assert_close",
    judge,
    fixed=ordinary,
    cannot=_cannot,
)
