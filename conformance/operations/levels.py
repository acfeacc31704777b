"""Case → the level of every factor that it has: the way back from a completed assignment."""

from __future__ import annotations

from conformance.cases.case import SAME, SHARED_PARTS, Case, Layout, TensorSpec
from conformance.operations import OPERATIONS
from conformance.operations.rows import count

FEW = 8  # the most rows that the level `few` draws


def levels_of(case: Case) -> dict[str, str]:
    """Return the level of every factor of the operation that a case has.

    A factor is left out where the case has no level of it: the layout of a tensor that is not passed, rows of an
    empty call. Where several levels make the same call the plainest one is given: a float32 weight next to a
    float32 x is ``same``, a width of 16 is ``narrow`` and not ``edge``.
    """
    found = {factor: _level(case, factor) for factor in OPERATIONS[case.operation].factors}
    return {factor: level for factor, level in found.items() if level is not None}


def effective_levels(case: Case) -> dict[str, str]:
    """Return the levels of a case with every layout named as it is in memory.

    One row cannot be transposed, a vector with gaps has a step, and two dimensions swapped are a row gap.
    """
    effective = {f"{name}_layout": _in_memory(spec) for name, spec in case.tensors}
    return {factor: effective.get(factor, level) for factor, level in levels_of(case).items()}


def _in_memory(spec: TensorSpec) -> str:
    kind = spec.layout.kind
    if kind == SAME:
        return kind
    place, dense = spec.layout.place(spec.shape, SHARED_PARTS), Layout().place(spec.shape)
    sizes = zip(spec.shape, place.strides, dense.strides, strict=True)
    if not place.offset and all(size <= 1 or stride == other for size, stride, other in sizes):
        return "contiguous"
    if len(spec.shape) == 1 and kind in {"row_gap", "transposed", "swapped"}:
        return "step"
    return "row_gap" if kind == "swapped" and len(spec.shape) < 3 else kind


def _level(case: Case, factor: str) -> str | None:
    if factor.endswith("_layout"):
        spec = case.tensor(factor.removesuffix("_layout"))
        return spec.layout.kind if spec is not None else None
    if factor == "rank":
        return str(len(case.tensors[0][1].shape))
    if factor == "rows":
        rows = count(case)
        return {0: None, 1: "one"}.get(rows, "few" if rows <= FEW else "many")
    return OPERATIONS[case.operation].readers[factor](case)
