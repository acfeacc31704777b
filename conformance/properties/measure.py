"""Results that the contract allows for a case, and the distance of outputs from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch

from conformance.calls.call import Subject, judged_on, metadata
from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.operations.rows import by_row, count, row_tensors
from conformance.oracle.arithmetic import MARGIN, U
from conformance.oracle.comparison import NOTHING, Comparison, compare, numbers, row_chunks, stepwise
from conformance.oracle.contract import Contract, rounded
from conformance.oracle.interval import Interval

COMPARED = 2**14  # elements: all of a chunk would take a CPU most of a run
SAMPLE = 16


class Disagreement(AssertionError):
    """Raised where the oracle depends on the machine: an error of the suite itself."""


def intervals(
    subject: Subject,
    contract: Contract,
    case: Case,
    values: Mapping[str, torch.Tensor],
    rows: slice,
    returned: Mapping[str, torch.Tensor] | None = None,
    device: str | None = None,
) -> dict[str, Interval]:
    """Return what the contract allows for some rows of every output, before the store.

    ``returned`` holds the same rows of the returned outputs. They are computed on ``device``, by default the one
    that judges the case.
    """
    device = device or judged_on(subject, case)
    operation, names = OPERATIONS[case.operation], row_tensors(case)
    given = {}
    for name, tensor in values.items():
        part = by_row(case, name, tensor)[rows] if name in names else tensor
        given[name] = part.to(device)
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


def chunks(subject: Subject, case: Case) -> Iterator[slice]:
    """Yield the rows of a case in the parts that the oracle works on."""
    rows = count(case)
    elements = sum(math.prod(want.shape) for want in OPERATIONS[case.operation].outputs(case))
    return row_chunks(rows, elements // max(rows, 1), judged_on(subject, case))


def sampled(subject: Subject, case: Case, rows: slice) -> slice | None:
    """Return the rows, evenly spread, on which a GPU's intervals are compared with a CPU's; or None."""
    if judged_on(subject, case) == "cpu" or case.seed % SAMPLE:
        return None
    elements = (rows.stop - rows.start) * case.tensors[0][1].shape[-1]
    return slice(rows.start, rows.stop, max(1, elements // COMPARED))


def agree(ours: Mapping[str, Interval], theirs: Mapping[str, Interval]) -> None:
    """Raise ``Disagreement`` where two machines allow other results, by more than the model's own margin.

    A step differs by units of float64 of its operands, and widens by far more of them: a share of the width holds
    the difference, also where large operands cancel.
    """
    for name, interval in ours.items():
        width = (theirs[name].hi - theirs[name].lo).nan_to_num(nan=0.0, posinf=0.0)
        for end in ("lo", "hi"):
            a, b = (getattr(one, end).cpu() for one in (interval, theirs[name]))
            margin = MARGIN * torch.maximum(width, U * torch.minimum(a.abs(), b.abs()))
            same = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= margin)
            if not bool(same.all()):
                place = tuple(torch.nonzero(~same)[0].tolist())
                message = f"{name}.{end}{list(place)}: {a[place]:.17g} on the GPU, {b[place]:.17g} on the CPU"
                raise Disagreement(message)
        if not torch.equal(interval.nan.cpu(), theirs[name].nan):
            message = f"{name}: NaN is allowed elsewhere on the GPU than on the CPU"
            raise Disagreement(message)


def compared_alike(parts: Mapping[str, torch.Tensor], allowed: Mapping[str, Interval]) -> None:
    """Raise ``Disagreement`` where the oracle's kernel finds other numbers than its steps do in PyTorch."""
    for name, part in parts.items():
        if part.numel():
            ours, theirs = numbers(part, allowed[name]), stepwise(part, allowed[name])
            if ours != theirs:
                message = f"{name}: compared as {ours} by a kernel, as {theirs} step by step"
                raise Disagreement(message)


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
    for rows in chunks(subject, case) if slices is None else slices:
        parts = {
            want.name: got.reshape(count(case), -1)[rows].to(judged_on(subject, case))
            for want, got in zip(expected, outputs, strict=True)
        }
        # an output that others depend on is judged by itself; the others are judged given its returned value
        allowed = intervals(subject, contract, case, values, rows, parts)
        if some := sampled(subject, case, rows):
            chosen = {name: part[:: some.step] for name, part in parts.items()}
            # fewer rows may be known exactly where more are not: both machines take the same
            ours = allowed if some.step == 1 else intervals(subject, contract, case, values, some, chosen)
            on_the_cpu = {name: part.cpu() for name, part in chosen.items()}
            agree(ours, intervals(subject, contract, case, values, some, on_the_cpu, "cpu"))
            compared_alike(chosen, ours)
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
