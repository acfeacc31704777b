"""The chosen path agrees with the reference path within PyTorch's default tolerances.

What an output holds is no closer than the numbers it was made of: where x is rounded to bfloat16, a float32 scale
of it is compared as bfloat16 is. Numbers in fp8, for which PyTorch has no defaults, agree within one step.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from conformance.adapter import Adapter, Ran, load
from conformance.calls.call import Subject, perform
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.properties.property import Property, ordinary

# rtol and atol that torch.testing.assert_close takes by itself, as its documentation lists them
TOLERANCES = {
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (1e-3, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
}


@functools.cache
def _reference(name: str) -> Adapter:
    return load(name)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call both on the same case; ``torch.testing.assert_close`` with its defaults per dtype."""
    assert subject.declared.reference is not None
    made = perform(subject, case)
    expected = perform(replace(subject, adapter=_reference(subject.declared.reference)), case)
    for call in (made, expected):
        if not isinstance(call.outcome, Ran):
            return (without_outputs("parity", case, call.outcome),)
    assert isinstance(made.outcome, Ran)
    assert isinstance(expected.outcome, Ran)
    try:
        assert_alike(made.outcome.outputs, expected.outcome.outputs, getattr(torch, case.dtype))
    except AssertionError as error:
        return (Verdict("parity", case, Status.FAILED, " ".join(str(error).split())),)
    return (Verdict("parity", case, Status.PASSED),)


def assert_alike(made: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    """Raise ``AssertionError`` unless the outputs of a call whose first tensor has ``dtype`` are close."""
    assert len(made) == len(expected), f"{len(made)} tensors, the reference returns {len(expected)}"
    # the only assert_close that judges anybody: what people ask for first, beside the exact judgement
    for a, b in zip(made, expected, strict=True):
        if a.dtype.itemsize == 1 == b.dtype.itemsize:
            torch.testing.assert_close(_steps(a), _steps(b), rtol=0, atol=1, equal_nan=True)
        else:
            rtol, atol = max(TOLERANCES[dtype], TOLERANCES[b.dtype])
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def _steps(values: torch.Tensor) -> torch.Tensor:
    """Which number of its dtype each is, counted from zero."""
    codes = values.view(torch.uint8).float()
    return torch.where(values.isnan(), torch.nan, torch.where(codes < 128, codes, 128 - codes))


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.declared.reference else "the adapter names no reference to compare with"


PARITY = Property(
    "parity",
    "the chosen path agrees with the reference path by torch.testing.assert_close",
    judge,
    fixed=ordinary,
    cannot=_cannot,
)
