"""A row's bits do not depend on what the other rows hold."""

from __future__ import annotations

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import rows
from conformance.oracle.bits import same_bits
from conformance.properties.property import Property, contiguous, ordinary, several_rows


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call twice, the second time with NaN in every row but one."""
    row = case.seed % rows.count(case)
    values, names = values_for(subject, case), rows.row_tensors(case)
    spoiled = {
        name: _spoiled(case, name, tensor, row) if name in names else tensor for name, tensor in values.items()
    }
    outputs = []
    for given in (values, spoiled):
        made = perform(subject, case, given)
        if not isinstance(made.outcome, Ran):
            return (without_outputs("row_independence", case, made.outcome),)
        outputs.append(made.outcome.outputs)
    for a, b in zip(*outputs, strict=True):
        if a.shape != b.shape or not same_bits(*(out.reshape(rows.count(case), -1)[row] for out in (a, b))):
            reason = f"row {row} changes with the values of the other rows"
            return (Verdict("row_independence", case, Status.FAILED, reason),)
    return (Verdict("row_independence", case, Status.PASSED),)


def _spoiled(case: Case, name: str, tensor: torch.Tensor, row: int) -> torch.Tensor:
    # an index that is not a number would make the call invalid
    spoiled = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else 0)
    rows.by_row(case, name, spoiled)[row] = rows.by_row(case, name, tensor)[row]
    return spoiled


ROW_INDEPENDENCE = Property(
    "row_independence",
    "a row's bits do not depend on what the other rows hold",
    judge,
    fixed=lambda operation: (*contiguous(operation), *ordinary(operation), *several_rows(operation)),
)
