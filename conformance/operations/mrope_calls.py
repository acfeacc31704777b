"""Calls of ``mrope``: positions on three axes, and the sections that give each frequency one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from conformance.cases.case import Flag, Layout, TensorSpec
from conformance.cases.factors import Assignment, Factors
from conformance.operations import rotation
from conformance.operations.head_calls import HeadCalls
from conformance.operations.head_mistakes import POSITIONS
from conformance.operations.head_sizes import Sized, Sizes, spec_of
from conformance.operations.head_tensors import Heads, Positions, Table
from conformance.operations.mrope_mistakes import ON_AXES
from conformance.operations.readers import Reader
from conformance.operations.row_calls import Setting
from conformance.operations.tensors import Mistake

AXES = 3
Sections = tuple[int, int, int]

# the profile of positions by level: no two axes equal, two of them, or text before images
TWO_ALIKE = {
    "none": "positions",
    "time_and_height": "time_is_height",
    "time_and_width": "time_is_width",
    "height_and_width": "height_is_width",
    "prompt": "prompt",
}
SECTIONS = ("even", "uneven", "two", "text")


@dataclass(frozen=True, slots=True)
class PositionsOnAxes(Positions):
    """Three positions for every token, or one, as text has."""

    layouts: tuple[str, ...] = ("contiguous", "row_gap", "transposed", "expanded", "offset", "step")
    # on fewer rows three axes cannot differ
    fewest: int = AXES

    @property
    def factors(self) -> Factors:
        """Return the dtype, whether there are axes, and which of them are equal."""
        return {"index": ("int64", "int32"), "positions": ("axes", "text"), "two_alike": tuple(TWO_ALIKE)}

    @property
    def readers(self) -> Mapping[str, Reader]:
        """Return how the level of each factor is read from a case."""
        levels = {profile: level for level, profile in TWO_ALIKE.items()}
        return {
            "index": lambda case: spec_of(case, self.name).dtype,
            "positions": lambda case: "axes" if len(spec_of(case, self.name).shape) == 2 else "text",
            "two_alike": lambda case: levels.get(spec_of(case, self.name).values.partition("<")[0]),
        }

    def drawn(self, assignment: Assignment, sizes: Sizes, place: Layout) -> TensorSpec:
        """Return the tensor with the assignment's levels."""
        shape = (AXES, sizes.tokens) if assignment["positions"] == "axes" else (sizes.tokens,)
        profile = f"{TWO_ALIKE[assignment['two_alike']]}<{sizes.cache}"
        return TensorSpec(shape, assignment["index"], place, profile)

    def of_a_model(self, sizes: Sizes) -> TensorSpec:
        """Return the tensor of a real model's call."""
        return TensorSpec((AXES, sizes.tokens), "int64", values=f"positions<{sizes.cache}")

    def simpler(self, spec: TensorSpec) -> Iterator[TensorSpec]:
        """Yield the positions of text in place of those on axes."""
        if len(spec.shape) == 2:
            yield replace(spec, shape=spec.shape[-1:])

    def mistakes(self) -> dict[str, Mistake]:
        """Return what is wrong with positions."""
        return POSITIONS | ON_AXES


def sections(level: str, half: int) -> Sections:
    """Return the numbers of ``half`` frequencies for t, h and w: as in real models, none for some, all for t."""
    if level == "text":
        return half, 0, 0
    if level == "two":
        return half - half // 3, 0, half // 3
    if level == "uneven":
        return half // 4, (half - half // 4) - (half - half // 4) // 2, (half - half // 4) // 2
    return half - (half + 1) // 3 - half // 3, (half + 1) // 3, half // 3


def level_of(given: Flag) -> str:
    """Return the first level that gives some sections."""
    assert isinstance(given, tuple)
    known = (level for level in SECTIONS if sections(level, sum(given)) == given)
    return next(known, "uneven" if all(given) else "two")


CALLS = HeadCalls(
    "mrope",
    (Heads("q"), Heads("k"), PositionsOnAxes("positions"), Table("cos"), Table("sin")),
    rotation.VALUES,
    (Setting("interleaved", {"interleaved": True, "sectioned": False}, "order"),),
    (Sized("sections", SECTIONS, sections, level_of),),
)
