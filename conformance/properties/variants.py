"""Neither a number of rows nor an eps has a kernel of its own: a new batch size does not stop to compile.

The launch alone decides what Triton compiles (:func:`conformance.calls.watch.variant`), so that the property
is judged in the interpreter too. Triton may specialise a number on being 1 or a multiple of 16, and each side of a
threshold of the implementation may have its kernel; more variants would grow with the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from conformance.adapter import Ran
from conformance.calls.budget import lacking
from conformance.calls.call import Subject, perform
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import Operation
from conformance.operations.row_calls import EPS
from conformance.operations.rows import flat, with_rows
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary

# classes of numbers: one, the multiples of 16, all others
KINDS = 3
INTERPRETED_ROWS = 256
COUNTS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Count what would be compiled over many numbers of rows, and over every eps."""
    whole = flat(case)
    counts, allowed = counted(subject, whole)
    # not counted: an autotuner tries all of its kernels in the first call that is like no other before
    perform(subject, with_rows(whole, counts[0]))
    rows = _variants(subject, (with_rows(whole, count) for count in counts))
    if isinstance(rows, Verdict):
        return (replace(rows, case=case),)
    if not rows:
        return (Verdict("variants", case, Status.NOT_JUDGED, "the call launches no Triton kernel"),)
    specialises = subject.traits(case.operation).specialises
    if len(rows) > allowed and "rows" not in specialises:
        reason = f"{len(rows)} kernels are compiled for {len(counts)} numbers of rows, {allowed} would do"
        return (Verdict("variants", case, Status.FAILED, reason),)
    if "eps" in dict(case.flags) and "eps" not in specialises:
        one = _variants(subject, [case])
        many = _variants(subject, (case.with_flag("eps", eps) for eps in EPS))
        if isinstance(one, Verdict) or isinstance(many, Verdict):
            return tuple(found for found in (one, many) if isinstance(found, Verdict))
        if len(many) > len(one):
            reason = f"{len(many)} kernels are compiled for {len(EPS)} values of eps, {len(one)} would do"
            return (Verdict("variants", case, Status.FAILED, reason),)
    return (Verdict("variants", case, Status.PASSED),)


def counted(subject: Subject, case: Case) -> tuple[list[int], int]:
    """Return the numbers of rows that are tried, as far as memory suffices, and how many kernels they may need."""
    thresholds = subject.traits(case.operation).row_thresholds
    # rows for a GPU: Triton's interpreter may take minutes for more
    edges = [edge for edge in thresholds if subject.device != "cpu" or edge <= INTERPRETED_ROWS]
    counts = sorted({*COUNTS, *(edge + d for edge in edges for d in (-1, 0, 1) if edge + d > 0)})
    if subject.memory is not None:
        memory = subject.memory
        counts = [count for count in counts if not lacking(with_rows(case, count), memory)]
    return counts, KINDS * (len(edges) + 1)


def _variants(subject: Subject, cases: Iterable[Case]) -> set[str] | Verdict:
    """Return what Triton compiles for some calls, or the verdict on a call that gave nothing."""
    found: set[str] = set()
    for case in cases:
        made = perform(subject, case)
        if not isinstance(made.outcome, Ran):
            return without_outputs("variants", case, made.outcome)
        found |= made.record.variants
    return found


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.traits(operation).few_variants else "the adapter does not declare it"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: plain rows of a usual width."""
    return narrowed(
        operation, contiguous(operation), ordinary(operation), (("width", ("tile",)), ("rank", ("2",)))
    )


VARIANTS = Property(
    "variants",
    "neither a number of rows nor an eps has a kernel of its own",
    judge,
    fixed=fixed,
    cannot=_cannot,
)
