"""A row has the same bits at every position in the batch."""

from __future__ import annotations

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import rows
from conformance.oracle.bits import same_bits
from conformance.properties.batch_invariance import cannot, fixed, native
from conformance.properties.property import Property


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with the rows as they are and rolled; the outputs must roll with them."""
    case = rows.flat(case)
    shift = 1 + case.seed % max(rows.count(case) - 1, 1)
    values = values_for(subject, case)
    names = rows.row_tensors(case)
    rolled = {
        name: torch.roll(tensor, shift, rows.axis(case, name)) if name in names else tensor
        for name, tensor in values.items()
    }
    outputs = []
    for given in (values, rolled):
        made = perform(subject, case, given, path=True)
        if not isinstance(made.outcome, Ran):
            return (without_outputs("position_invariance", case, made.outcome),)
        if reason := native(made.outcome):
            return (Verdict("position_invariance", case, Status.NOT_JUDGED, reason),)
        outputs.append(made.outcome.outputs)
    for a, b in zip(*outputs, strict=True):
        if not same_bits(_rolled(a, shift), b):
            reason = f"rows have other bits {shift} places further on"
            return (Verdict("position_invariance", case, Status.FAILED, reason),)
    return (Verdict("position_invariance", case, Status.PASSED),)


def _rolled(output: torch.Tensor, shift: int) -> torch.Tensor:
    # torch has no roll for 8-bit floats on a GPU
    if output.element_size() > 1:
        return torch.roll(output, shift, 0)
    return torch.roll(output.view(torch.uint8), shift, 0).view(output.dtype)


POSITION_INVARIANCE = Property(
    "position_invariance",
    "a row has the same bits wherever in the batch it stands",
    judge,
    fixed=fixed,
    cannot=cannot,
)
