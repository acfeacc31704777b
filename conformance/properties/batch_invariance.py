"""A row has the same bits alone and in every batch, on both sides of every threshold."""

from __future__ import annotations

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform, values_for
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import Operation, rows
from conformance.oracle.bits import same_bits
from conformance.properties.property import Property, contiguous, ordinary


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with the first 1, 2, … rows of the case, and compare each result with the same rows of the whole."""
    whole = rows.flat(case)
    values = values_for(subject, whole)
    made = perform(subject, whole, values, path=True)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("batch_invariance", case, made.outcome),)
    if reason := native(made.outcome):
        return (Verdict("batch_invariance", case, Status.NOT_JUDGED, reason),)
    expected = made.outcome.outputs
    for count in _counts(subject, whole):
        part = perform(subject, rows.with_rows(whole, count), _first_values(whole, values, count))
        if not isinstance(part.outcome, Ran):
            return (without_outputs("batch_invariance", case, part.outcome),)
        for a, b in zip(expected, part.outcome.outputs, strict=True):
            if not same_bits(a[:count], b):
                other = int((a[:count] != b).reshape(count, -1).any(-1).sum())
                reason = f"{other} of the first {count} rows have other bits in a batch of {rows.count(whole)}"
                return (Verdict("batch_invariance", case, Status.FAILED, reason),)
    return (Verdict("batch_invariance", case, Status.PASSED),)


def _counts(subject: Subject, case: Case) -> list[int]:
    edges = subject.traits(case.operation).row_thresholds
    counts = {1, 2, *(edge + d for edge in edges for d in (-1, 0, 1))}
    return sorted(count for count in counts if 0 < count < rows.count(case))


def _first_values(case: Case, values: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    names = rows.row_tensors(case)
    return {
        name: tensor.narrow(rows.axis(case, name), 0, count) if name in names else tensor
        for name, tensor in values.items()
    }


def native(outcome: Ran) -> str:
    """Return why a call promises no equal bits in other batches: plain PyTorch chooses the order of its sums."""
    return "went native, which promises the contract alone" if (outcome.path or "").startswith("native") else ""


def cannot(subject: Subject, operation: str, dtype: str) -> str:
    """Return why invariance of bits cannot be judged here, or nothing."""
    if not subject.traits(operation).batch_invariant:
        return "the adapter does not declare it"
    if subject.device == "cpu":
        return "needs a GPU: in the interpreter a row's sum does not depend on its tile"
    return ""


def fixed(operation: Operation) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the factor levels of the cases: many rows, contiguous and ordinary."""
    return (*contiguous(operation), *ordinary(operation), ("rows", ("many",)), ("rank", ("2", "3")))


BATCH_INVARIANCE = Property(
    "batch_invariance",
    "a row has the same bits alone and in every batch, on both sides of every threshold",
    judge,
    fixed=fixed,
    cannot=cannot,
)
