"""Calls of more than 2**31 elements are right: every row has the results of an equal row in a small call.

``large_index`` has few rows that are far apart: an implementation that copies its arguments into rows without
gaps, or whose results have none, passes it with offsets of 32 bits. Here a tensor really has that many elements.
Its rows repeat those of a small call, in numbers of which no power of two is a multiple, so that an offset without
its high bits finds other rows. Rows with other bits than the first of their kind are judged by the contract.
In 16 bits there are more than 2**32 elements, where the GPU has room for them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

import torch

from conformance.adapter import Crashed, Ran, poisons
from conformance.calls.budget import take, turn
from conformance.calls.call import Subject, arguments_of, call_with, metadata, values_for
from conformance.calls.claim import outside
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS, room, rounded
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.calls.watch import watched
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, OF_VALUES, Scope, covering_array
from conformance.operations import OPERATIONS, Operation, rows
from conformance.oracle.bits import raw
from conformance.properties.large_index import NARROW, widest
from conformance.properties.measure import measure
from conformance.properties.property import Property

# elements past which unsigned offsets of 32 bits begin again, and signed ones turn negative
LIMITS = (2**32, 2**31)
LIMIT_OF_FLOAT32 = 2**31  # the same elements take twice the memory
SMALL = 2**18  # elements of the small call
LOOK = 2**28  # elements that are compared at once
USUAL = {"width": "tile", "rank": "2"}  # wide enough that rows are no more than a grid has programs


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with the rows of a case, repeated past the largest limit that the free memory of the GPU allows."""
    with turn() as others:
        if others:
            return (Verdict("large_call", case, Status.NOT_JUDGED, others),)
        return (judged(subject, case, (LIMIT_OF_FLOAT32,) if case.dtype == "float32" else LIMITS),)


def judged(subject: Subject, case: Case, limits: tuple[int, ...]) -> Verdict:
    """Return the verdict past the first of some limits of elements for which there is memory."""
    case = rows.flat(case)
    for limit in limits:
        verdict = _judge(subject, case, limit)
        if verdict.status is not Status.NOT_JUDGED:
            break
    return verdict


def _judge(subject: Subject, case: Case, limit: int) -> Verdict:
    repeated = rows.row_tensors(case) & {name for name, _ in case.tensors}
    times = limit // max(math.prod(spec.shape) for name, spec in case.tensors if name in repeated) + 1
    count = rows.count(case)
    whole = rows.with_rows(case, times * count)
    claim = subject.traits(case.operation).claim
    if lacking := (outside(claim, whole) if claim else "") or _lacking(subject, whole):
        return Verdict("large_call", case, Status.NOT_JUDGED, lacking)
    values = values_for(subject, case)
    small = arguments_of(materialize(case, values, subject.device, POISONS[0]))
    large = small | {name: _repeated(small[name], rows.axis(case, name), times) for name in repeated}
    # a result that is left as it was must not hold that of an earlier call
    with watched(subject.device, POISONS[0]):
        outcome = call_with(subject, whole, large)
    if claim is None and isinstance(outcome, Crashed) and not poisons(outcome.how):
        # no survey calls so many rows: who claims nothing may refuse them
        return Verdict("large_call", case, Status.NOT_JUDGED, f"refused: {outcome.how}")
    if not isinstance(outcome, Ran):
        return without_outputs("large_call", case, outcome)
    said = f"in a call of {times * count:,} rows"
    wrong = metadata(subject, whole, outcome.outputs) or _changed(case, small, large, repeated, times)
    if wrong:
        return Verdict("large_call", case, Status.FAILED, f"{said}: {wrong}")
    contract = subject.contract(case.operation)
    for block in _blocks(outcome.outputs, count, times):
        parts = tuple(output[block * count : (block + 1) * count] for output in outcome.outputs)
        comparison = measure(subject, contract, case, values, parts)
        if comparison.outside:
            reason = f"{said}, from row {block * count:,} on: {comparison.first}"
            return Verdict("large_call", case, Status.FAILED, reason, comparison)
    return Verdict("large_call", case, Status.PASSED)


def _lacking(subject: Subject, whole: Case) -> str:
    """Take a GPU's memory for a call and its results; return which it lacks, or nothing."""
    if subject.device == "cpu":
        return ""
    sizes = (math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize for _, spec in whole.tensors)
    given = sum(map(rounded, sizes))
    results = OPERATIONS[whole.operation].outputs(whole)
    # what is allocated in the call is taken twice for a moment (conformance.calls.watch)
    made = [math.prod(out.shape) * out.dtype.itemsize for out in results]
    return take(given + sum(made) + max(made))


def _repeated(tensor: torch.Tensor, axis: int, times: int) -> torch.Tensor:
    along = axis % tensor.dim()
    shape = (*tensor.shape[:along], times, *tensor.shape[along:])
    made = room(math.prod(shape) * tensor.element_size(), tensor.device.type).view(tensor.dtype).view(shape)
    return made.copy_(tensor.unsqueeze(along)).flatten(along, along + 1)


def _changed(
    case: Case,
    small: Mapping[str, torch.Tensor],
    large: Mapping[str, torch.Tensor],
    names: frozenset[str],
    times: int,
) -> str:
    """Return in words which argument does not hold its rows any more, or nothing."""
    for name in names:
        axis = rows.axis(case, name)
        first = small[name].movedim(axis, 0)
        if next(_unlike(large[name].movedim(axis, 0), first, times), None) is not None:
            return f"{name} was changed"
    return ""


def _blocks(outputs: tuple[torch.Tensor, ...], count: int, times: int) -> Iterator[int]:
    """Yield the number of the first repetition, and of each that has other bits in any output."""
    yield 0
    yield from sorted({block for output in outputs for block in _unlike(output, output[:count], times)})


def _unlike(tensor: torch.Tensor, first: torch.Tensor, times: int) -> Iterator[int]:
    """Yield the numbers of the repetitions along the first dimension that have other bits than ``first``."""
    blocks, one = raw(tensor).view(times, *first.shape), raw(first)
    step = max(1, LOOK // max(one.numel(), 1))
    for start in range(0, times, step):
        other = (blocks[start : start + step] != one).flatten(1).any(1)
        yield from (start + place for place in torch.nonzero(other).flatten().tolist())


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return contiguous calls of an odd number of rows, with each level that may choose another kernel."""
    levels = scope.levels(operation.factors)
    plain = {name: NARROW if NARROW in kept else kept[0] for name, kept in levels.items()}
    plain |= {name: level for name, level in USUAL.items() if level in levels.get(name, ())}
    chosen = {
        name: kept
        for name, kept in levels.items()
        if name not in {*OF_VALUES, *USUAL, "rows"} and not name.endswith("_layout") and NARROW not in kept
    }
    sized = scope.sized(columns=widest(scope)) if "width" in levels else scope
    calls = [
        operation.complete({**plain, **one}, random.Random(seed), scope)  # noqa: S311 - reproducible, not secret
        for seed, one in enumerate(covering_array(chosen, 1, 0, scope.taken.apart))
    ]
    calls.append(operation.complete(plain, random.Random(0), sized))  # noqa: S311
    # a source mostly has one arithmetic of offsets for all dtypes: those taken share the calls out
    dtypes = [dtype for dtype in DTYPES if dtype in dict(scope.taken.levels).get("dtype", DTYPES)]
    odd = tuple(dict.fromkeys(_of_odd_rows(rows.flat(case)) for case in calls))
    return odd[dtypes.index(scope.dtype) :: len(dtypes)] or odd[:1]


def _of_odd_rows(case: Case) -> Case:
    """Return the case with about as many elements as the small call has."""
    one = max(1, *(math.prod(spec.shape) for _, spec in rows.with_rows(case, 1).tensors))
    return rows.with_rows(case, (SMALL // one) | 1)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "needs a GPU" if subject.device == "cpu" else ""


LARGE_CALL = Property(
    "large_call",
    "in a call of more than 2**31 elements, or 2**32, every row has the results that it has in a small one",
    judge,
    given=given,
    cannot=_cannot,
    whole_gpu=True,
)
