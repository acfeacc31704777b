"""Offsets past 2**31 and 2**32 elements are right: a strided tensor crosses them without holding them.

The rows, or the elements, of one tensor are so far apart that the last of them is past 2**32 elements, in strides
that themselves fit 31 bits; the same with enough rows for each path of the implementation, in wide rows, and with
every level of the factors that may choose another kernel, such as groups. Two rows have a stride that is itself
past 32 bits, and the heads of a single token are as far apart as rows. Indices have 32 bits where they may: one
that is not widened then loses its product with a stride. On the CPU there is no memory between the rows
(:meth:`conformance.calls.memory.Owner.spread`); on a GPU the memory is really allocated, where there is enough.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from conformance.adapter import Ran
from conformance.calls.budget import take
from conformance.calls.call import Subject, metadata, perform
from conformance.calls.materialize import values_of
from conformance.calls.memory import PAGE, rounded
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import SHARED_PARTS, Case, Layout, TensorSpec
from conformance.cases.factors import OF_VALUES, Scope, covering_array
from conformance.operations import Operation
from conformance.operations.rows import count
from conformance.properties.measure import measure
from conformance.properties.property import Property
from conformance.properties.variants import INTERPRETED_ROWS

LIMIT = 2**32
# so that no stride of rows needs more than 31 bits itself
FEWEST = 4
NARROW = "int32"  # the level of indices that have no bits to spare


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call once: values must be right, and nothing but the outputs written."""
    lacking = _lacking(subject, case)
    if lacking:
        return (Verdict("large_index", case, Status.NOT_JUDGED, lacking),)
    values = values_of(case)
    try:
        made = perform(subject, case, values)
    except OSError as error:
        reason = f"so many addresses cannot be had here: {error}"
        return (Verdict("large_index", case, Status.NOT_JUDGED, reason),)
    if not isinstance(made.outcome, Ran):
        return (without_outputs("large_index", case, made.outcome),)
    wrong = metadata(subject, case, made.outcome.outputs) or made.damage()
    if wrong:
        return (Verdict("large_index", case, Status.FAILED, wrong),)
    contract = subject.contract(case.operation)
    comparison = measure(subject, contract, case, values, made.outcome.outputs)
    if comparison.outside:
        reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        return (Verdict("large_index", case, Status.FAILED, reason, comparison),)
    return (Verdict("large_index", case, Status.PASSED, "", comparison),)


def _lacking(subject: Subject, case: Case) -> str:
    """Take a GPU's memory for a case; return which it lacks, or nothing."""
    if subject.device == "cpu":
        return ""
    return take(sum(rounded(_length(spec) + PAGE) for _, spec in case.tensors))


def _length(spec: TensorSpec) -> int:
    """Return the bytes from the first element of a tensor to its last."""
    extent: int = spec.layout.place(spec.shape, SHARED_PARTS).extent * getattr(torch, spec.dtype).itemsize
    return extent


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return plain calls in which one tensor, each in turn, has its rows far apart, and then its elements."""
    factors = scope.levels(operation.factors).items()
    plain = {name: NARROW if NARROW in levels else levels[0] for name, levels in factors}
    drawn = (operation.complete(plain, random.Random(seed), scope) for seed in itertools.count())  # noqa: S311
    base = next(case for case in drawn if count(case) >= FEWEST)
    far = [(base, name, layout) for name, spec in base.tensors for layout in _far_apart(spec)]
    # the heads of a token are far apart where it is alone
    alone = (1,) if operation.token_axes else ()
    for rows in (*alone, 2, *_past_thresholds(scope)):
        sized = operation.complete(plain, random.Random(rows), scope.sized(rows=rows))  # noqa: S311
        specs = [(name, spec) for name, spec in sized.tensors if name in operation.row_tensors]
        fewest = max(rows, 2)
        far += [(sized, name, _rows_apart(spec)) for name, spec in specs if math.prod(spec.shape[:-1]) >= fewest]
    for varied in _varied(operation, plain, scope):
        far += [
            (varied, name, _rows_apart(spec))
            for name, spec in varied.tensors
            if math.prod(spec.shape[:-1]) >= FEWEST and spec.shape[-1]
        ]
    return tuple(
        case.with_tensor(name, replace(dict(case.tensors)[name], layout=layout)) for case, name, layout in far
    )


def _varied(operation: Operation, plain: Mapping[str, str], scope: Scope) -> Iterator[Case]:
    """Yield calls that have, together, every level of every factor that may choose another kernel."""
    chosen = {
        name: levels
        for name, levels in scope.levels(operation.factors).items()
        if name not in {*OF_VALUES, "rows"} and not name.endswith("_layout") and NARROW not in levels
    }
    for seed, levels in enumerate(covering_array(chosen, 1, 0, scope.taken.apart)):
        yield operation.complete({**plain, **levels}, random.Random(seed), scope)  # noqa: S311
    if "width" in chosen:
        # the widest rows, which a kernel may take in several tiles
        wide = widest(scope)
        yield operation.complete(plain, random.Random(wide), scope.sized(columns=wide))  # noqa: S311


def widest(scope: Scope) -> int:
    """Return the widest rows that are drawn and taken."""
    taken = scope.taken.numbers("columns") or scope.taken.numbers("group_size") or (scope.max_width,)
    return max(scope.widths or (width for width in taken if width <= scope.max_width), default=scope.max_width)


def _past_thresholds(scope: Scope) -> list[int]:
    """Return a number of rows behind each threshold, each enough for a stride that fits 31 bits."""
    most = INTERPRETED_ROWS if scope.device == "cpu" else math.inf
    return [edge + 1 for edge in scope.row_edges if FEWEST <= edge <= most]


def _far_apart(spec: TensorSpec) -> Iterator[Layout]:
    if math.prod(spec.shape[:-1]) >= FEWEST:
        yield _rows_apart(spec)
    elements = math.prod(spec.shape)
    if elements >= FEWEST:
        yield Layout("step", LIMIT // (elements - 1) + 1)


def _rows_apart(spec: TensorSpec) -> Layout:
    """Return the layout that takes the last row past the limit."""
    return Layout("row_gap", LIMIT // (math.prod(spec.shape[:-1]) - 1) + 1 - spec.shape[-1])


LARGE_INDEX = Property(
    "large_index",
    "offsets past 2**31 and 2**32 elements are right, in every argument",
    judge,
    given=given,
    whole_gpu=True,
)
