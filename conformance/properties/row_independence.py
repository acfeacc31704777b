"""A row's bits do not depend on what the other rows hold."""

from __future__ import annotations

import torch

from conformance.adapter import Ran
from conformance.case import Case
from conformance.materialize import values_of
from conformance.operations import OPERATIONS
from conformance.properties.property import Property, contiguous, ordinary, several_rows
from conformance.verdict import Status, Subject, Verdict, perform, same_bits, without_outputs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call twice, the second time with NaN in every row but one."""
    row = case.seed % case.rows
    values = values_of(case)
    spoiled = {
        name: _spoiled(tensor, row) if name in OPERATIONS[case.operation].row_tensors else tensor
        for name, tensor in values.items()
    }
    outputs = []
    for given in (values, spoiled):
        made = perform(subject, case, given)
        if not isinstance(made.outcome, Ran):
            return (without_outputs("row_independence", case, made.outcome),)
        outputs.append(made.outcome.outputs)
    for a, b in zip(*outputs, strict=True):
        if a.shape != b.shape or not same_bits(_row(a, row), _row(b, row)):
            reason = f"row {row} changes with the values of the other rows"
            return (Verdict("row_independence", case, Status.FAILED, reason),)
    return (Verdict("row_independence", case, Status.PASSED),)


def _row(tensor: torch.Tensor, row: int) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])[row]


def _spoiled(tensor: torch.Tensor, row: int) -> torch.Tensor:
    spoiled = torch.full_like(tensor, torch.nan)
    _row(spoiled, row).copy_(_row(tensor, row))
    return spoiled


ROW_INDEPENDENCE = Property(
    "row_independence",
    "a row's bits do not depend on what the other rows hold",
    judge,
    fixed=lambda operation: (*contiguous(operation), *ordinary(operation), *several_rows(operation)),
)
