"""A row has the same bits whatever rows are appended to the batch: zeros, NaN, or other tokens.

Serving pads a batch to the next size for which it has a captured graph; the padding may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import rows
from conformance.oracle.bits import same_bits
from conformance.properties.batch_invariance import cannot, fixed, native
from conformance.properties.property import Property

# batch sizes that graphs are captured for are multiples of this
MULTIPLE = 16


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor)


def _nans(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else torch.zeros_like(tensor)


def _tokens(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


PADDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"zeros": _zeros, "NaN": _nans, "tokens": _tokens}


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call without padding, then with each kind of padding appended; the first rows must have the same bits."""
    case = rows.flat(case)
    values = values_for(subject, case)
    made = perform(subject, case, values, path=True)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("padding_invariance", case, made.outcome),)
    if reason := native(made.outcome):
        return (Verdict("padding_invariance", case, Status.NOT_JUDGED, reason),)
    more = padding_of(case)
    longer = rows.with_rows(case, rows.count(case) + more)
    for kind, fill in PADDINGS.items():
        padded = perform(subject, longer, _padded(case, values, fill, more))
        if not isinstance(padded.outcome, Ran):
            return (without_outputs("padding_invariance", case, padded.outcome),)
        for a, b in zip(made.outcome.outputs, padded.outcome.outputs, strict=True):
            if not same_bits(a, b[: len(a)]):
                reason = f"rows have other bits with {more} rows of {kind} after them"
                return (Verdict("padding_invariance", case, Status.FAILED, reason),)
    return (Verdict("padding_invariance", case, Status.PASSED),)


def padding_of(case: Case) -> int:
    """Return how many rows are appended: up to the next multiple; one row where the number is a multiple."""
    return -rows.count(case) % MULTIPLE or 1


def _padded(
    case: Case, values: dict[str, torch.Tensor], fill: Callable[[torch.Tensor], torch.Tensor], more: int
) -> dict[str, torch.Tensor]:
    """Return the values with ``more`` rows made of the first rows, in the other order."""
    names = rows.row_tensors(case)
    return {
        name: _appended(tensor, fill, more, rows.axis(case, name)) if name in names else tensor
        for name, tensor in values.items()
    }


def _appended(
    tensor: torch.Tensor, fill: Callable[[torch.Tensor], torch.Tensor], more: int, axis: int
) -> torch.Tensor:
    # repeated where there are too few
    repeats = -(-more // tensor.shape[axis])
    source = torch.cat([tensor] * repeats, axis).narrow(axis, 0, more).flip(axis)
    return torch.cat([tensor, fill(source)], axis)


PADDING_INVARIANCE = Property(
    "padding_invariance",
    "a row has the same bits whatever rows are appended: zeros, NaN, other tokens",
    judge,
    fixed=fixed,
    cannot=cannot,
)
