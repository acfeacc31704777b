"""Case → the level of every factor that it has: the way back from a completed assignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conformance.cases.case import SAME, SHARED_PARTS, Case, Layout, TensorSpec
from conformance.cases.factors import ODD_WIDTHS, TILE
from conformance.operations import OPERATIONS, fp8_outputs, mrope_calls, rms_norm, rms_norm_gated
from conformance.operations.rows import count

# the most rows and columns that the levels `few` and `narrow` draw; the fewest columns of `wide`
FEW, NARROW, WIDE = 8, 16, 2048

_NORM = (("x", "residual", "weight"), rms_norm.VALUES)
_GATED = (("x", "gate", "weight"), rms_norm_gated.VALUES)
# by operation: tensors, and their profiles by level of the factor `values`
PROFILES: Mapping[str, tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]]] = {
    "rms_norm": _NORM,
    "gemma_rms_norm": _NORM,
    "rms_norm_fp8": _NORM,
    "rms_norm_gated": _GATED,
    "rms_norm_gated_fp8": _GATED,
    "mrope": (("q", "k", "cos", "sin"), mrope_calls.VALUES),
}


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
    return READERS[factor](case)


def _flag(name: str, levels: Mapping[object, str] | None = None) -> Callable[[Case], str | None]:
    """Return a reader of a flag: its value as text, or the level that ``levels`` give it."""
    return lambda case: str(case.flag(name)) if levels is None else levels.get(case.flag(name))


def _companion(name: str) -> Callable[[Case], str]:
    """Return a reader of a tensor other than the first: not passed, in the first one's dtype, or in another."""

    def read(case: Case) -> str:
        spec = case.tensor(name)
        return "none" if spec is None else "same" if spec.dtype == case.dtype else "other"

    return read


def _weight(case: Case) -> str:
    spec = case.tensor("weight")
    return "none" if spec is None else "same" if spec.dtype == case.dtype else spec.dtype


def _rows(case: Case) -> str | None:
    rows = count(case)
    return {0: None, 1: "one"}.get(rows, "few" if rows <= FEW else "many")


def _width(case: Case) -> str | None:
    group = case.flag("group_size") if "group_size" in dict(case.flags) else None
    n: int = group or case.tensors[0][1].shape[-1]
    if n == 0:
        return None
    if n == TILE:
        return "tile"
    if n <= NARROW:
        return "narrow"
    if n in ODD_WIDTHS:
        return "odd"
    next_to_a_power = any((n + d).bit_count() == 1 for d in (-1, 1))
    if n >= WIDE and not next_to_a_power:
        return "wide"
    return "edge" if next_to_a_power or n.bit_count() == 1 else "odd"


def _group(case: Case) -> str:
    group = case.flag("group_size")
    return "none" if group is None else "whole" if group == case.tensors[0][1].shape[-1] else "several"


def _quant_group(case: Case) -> str:
    group = case.flag("quant_group")
    if group is None:
        return "row"
    if str(group) in fp8_outputs.FACTORS["quant_group"]:
        return str(group)
    return "larger" if group >= case.tensors[0][1].shape[-1] else "ragged"


def _values(case: Case) -> str | None:
    """Return the first level whose profiles the tensors have; tensors left out or aliased do not count."""
    names, levels = PROFILES[case.operation]
    own = {name: spec.values for name, spec in case.tensors if case.source(name) == name}
    behind = fp8_outputs.BEHIND.get(own[names[0]])
    if behind is not None:
        own[names[0]], level = levels[behind][0], own[names[0]]
        return level if _has(own, names, levels[behind]) else None
    return next((level for level, profiles in levels.items() if _has(own, names, profiles)), None)


def _has(own: Mapping[str, str], names: tuple[str, ...], profiles: tuple[str, ...]) -> bool:
    return all(own.get(name, profile) == profile for name, profile in zip(names, profiles, strict=True))


def _dims(case: Case) -> str:
    sizes = mrope_calls.Sizes.of(case)
    for level, pairs in mrope_calls.DIMS.items():
        if (sizes.head_dim, sizes.half) in pairs:
            return level
    return {2: "whole", 8: "quarter"}.get(sizes.head_dim // max(sizes.half, 1), "part")


def _dtypes(case: Case) -> str:
    k, cos = (mrope_calls.spec_of(case, name).dtype for name in ("k", "cos"))
    return "other_k" if k != case.dtype else "same" if cos == case.dtype else "cos_float32"


def _heads(case: Case) -> str:
    sizes = mrope_calls.Sizes.of(case)
    if sizes.heads == sizes.k_heads:
        return "one" if sizes.heads == 1 else "equal"
    return "grouped" if sizes.heads > sizes.k_heads else "fewer"


def _two_alike(case: Case) -> str | None:
    profile = mrope_calls.spec_of(case, "positions").values.partition("<")[0]
    return next((level for level, name in mrope_calls.TWO_ALIKE.items() if name == profile), None)


def _sections(case: Case) -> str:
    given = case.flag("sections")
    levels = mrope_calls.FACTORS["sections"]
    known = (level for level in levels if mrope_calls.sections(level, sum(given)) == given)
    return next(known, "uneven" if all(given) else "two")


READERS: Mapping[str, Callable[[Case], str | None]] = {
    "activation": _flag("activation"),
    "dims": _dims,
    "dtypes": _dtypes,
    "fp8": _flag("fp8_dtype"),
    "gate": _companion("gate"),
    "group": _group,
    "heads": _heads,
    "index": lambda case: mrope_calls.spec_of(case, "positions").dtype,
    "norm_before_gate": _flag("norm_before_gate", {True: "yes", False: "no"}),
    "offset": _flag("weight_offset", {value: level for level, value in rms_norm.OFFSETS.items()}),
    "order": _flag("interleaved", {True: "interleaved", False: "sectioned"}),
    "positions": lambda case: "axes" if len(mrope_calls.spec_of(case, "positions").shape) == 2 else "text",
    "quant_group": _quant_group,
    "rank": lambda case: str(len(case.tensors[0][1].shape)),
    "residual": _companion("residual"),
    "rows": _rows,
    "scales": _flag("scale_layout"),
    "sections": _sections,
    "two_alike": _two_alike,
    "unquantised": _flag("also_unquantised", {True: "yes", False: "no"}),
    "values": _values,
    "weight": _weight,
    "width": _width,
}
