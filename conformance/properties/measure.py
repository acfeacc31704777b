"""Results that the contract allows for a case, and the distance of outputs from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch

from conformance.calls.call import Subject, judged_on, metadata
from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.operations.rows import by_row, count
from conformance.oracle.comparison import NOTHING, Comparison, compare, row_chunks
from conformance.oracle.contract import Contract, rounded
from conformance.oracle.interval import Interval


def intervals(
    subject: Subject,
    contract: Contract,
    case: Case,
    values: Mapping[str, torch.Tensor],
    rows: slice,
    returned: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Interval]:
    """Return what the contract allows for some rows of every output, before the store.

    ``returned`` holds the same rows of the returned outputs.
    """
    operation = OPERATIONS[case.operation]
    given = {}
    for name, tensor in values.items():
        part = by_row(case, name, tensor)[rows] if name in operation.row_tensors else tensor
        given[name] = part.to(judged_on(subject, case))
    return operation.formula(subject.machine(case.operation), contract, {**given, **(returned or {})}, case)


def stored(
    subject: Subject, contract: Contract, case: Case, values: Mapping[str, torch.Tensor]
) -> dict[str, Interval]:
    """Return what a contract allows to be stored in every output of a call that the oracle can hold whole."""
    allowed = intervals(subject, contract, case, values, slice(0, count(case)))
    return {out.name: rounded(allowed[out.name], out.dtype) for out in OPERATIONS[case.operation].outputs(case)}


def apart(one: Interval, other: Interval) -> torch.Tensor:
    """Return where two intervals have no number in common."""
    return (one.lo > other.hi) | (one.hi < other.lo)


def chunks(case: Case) -> Iterator[slice]:
    """Yield the rows of a case in parts that fit the oracle's memory."""
    rows = count(case)
    elements = sum(math.prod(want.shape) for want in OPERATIONS[case.operation].outputs(case))
    return row_chunks(rows, elements // max(rows, 1))


def measure(
    subject: Subject,
    contract: Contract,
    case: Case,
    values: Mapping[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    *,
    signed: Collection[str] = (),
    slices: Iterable[slice] | None = None,
) -> Comparison:
    """Compare all outputs with what the contract allows, in chunks of rows.

    ``signed``: names of the outputs whose errors are added up.
    ``slices``: the rows to look at, each slice small enough for the oracle; by default all rows.
    """
    expected = OPERATIONS[case.operation].outputs(case)
    total = NOTHING
    for rows in chunks(case) if slices is None else slices:
        parts = {
            want.name: got.reshape(count(case), -1)[rows].to(judged_on(subject, case))
            for want, got in zip(expected, outputs, strict=True)
        }
        # an output that others depend on is judged by itself; the others are judged given its returned value
        allowed = intervals(subject, contract, case, values, rows, parts)
        for want in reversed(expected):
            part, interval, lean = parts[want.name], allowed[want.name], want.name in signed
            total += compare(want.name, part, interval, want.shape, rows.start, signed=lean)
    return total


def amiss(
    subject: Subject, case: Case, values: Mapping[str, torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> str:
    """Return what is wrong with the outputs of a call, from their number to their elements; or nothing."""
    said = metadata(subject, case, outputs)
    if said:
        return said
    comparison = measure(subject, subject.contract(case.operation), case, values, outputs)
    outside = f"{comparison.outside} of {comparison.elements} elements outside"
    return f"{comparison.first}; {outside}" if comparison.outside else ""
