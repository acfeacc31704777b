"""The chosen path agrees with the reference path within PyTorch's default tolerances.

An output is no more exact than the numbers it is computed from: where x is rounded to bfloat16, its float32 scale
is compared with the tolerances of bfloat16. fp8 numbers, for which PyTorch has no defaults, and int8 numbers agree
within one step.
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
    """Call both paths on the same case; compare with ``torch.testing.assert_close`` and its defaults per dtype."""
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
    # the only assert_close that decides a verdict: users ask for it first, next to the exact judgement
    for a, b in zip(made, expected, strict=True):
        if a.dtype.itemsize == 1 == b.dtype.itemsize:
            torch.testing.assert_close(_steps(a), _steps(b), rtol=0, atol=1, equal_nan=True)
        else:
            rtol, atol = max(TOLERANCES[dtype], TOLERANCES[b.dtype])
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def _steps(values: torch.Tensor) -> torch.Tensor:
    """Return the ordinal number of each value in its dtype, counted from zero."""
    if not values.dtype.is_floating_point:
        return values.float()
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
