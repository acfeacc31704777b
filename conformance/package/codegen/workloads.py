"""Calls of models, as data: the number of kernels that a workload compiles shows what kernels specialise on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from conformance.cases.case import Case, Layout
from conformance.cases.corpus import model_shapes
from conformance.operations import OPERATIONS
from normkernels.operations.operation import OPERATIONS as OURS


@dataclass(frozen=True, slots=True)
class Workload:
    """The calls of one model on one of ``tp`` ranks: every batch of 1 to 512 tokens, and its prefills.

    Each call is made as the model lays it out, and again in every one of ``LAYOUTS``; rotations are in place.
    ``kernels`` is the number of variants of each Triton kernel that are compiled for all of these calls, ``of_64``
    the number for some kernels if warps have 64 threads, and ``reason`` explains the numbers.
    """

    name: str
    model: str
    tp: int
    kernels: Mapping[str, int]
    reason: str
    of_64: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def compiled(self, warp: int) -> dict[str, int]:
        """Return the number of variants of each kernel for warps of ``warp`` threads."""
        return {**self.kernels, **(self.of_64 if warp == 64 else {})}


BATCHES = range(1, 513)
# contiguous; rows that begin at multiples of 16 bytes; rows that do not
LAYOUTS = (Layout(), Layout("row_gap", 16), Layout("row_gap", 1))

WORKLOADS = (
    Workload(
        "Qwen3.5",
        "Qwen3.5-27B",
        2,
        {
            "rms_norm_gated_128_kernel": 3,
            "rms_norm_gated_kernel": 6,
            "rms_norm_kernel": 10,
            "mrope_kernel": 6,
        },
        "gated: contiguous rows have three tiles, by their number, others two, each for a gate cut from a "
        "projection, for aligned rows and for others; norms with a residual have three tiles, the last of which "
        "reads rows twice, those without have two, and rotations three plans: heads spread, whole, and of two "
        "tokens; each aligned or not. Twelve heads are of one tile for warps of 64, spread or whole",
        of_64={"mrope_kernel": 4},
    ),
    Workload(
        "Qwen3-Next, fp8",
        "Qwen3-Next-80B-A3B",
        2,
        {
            "rms_norm_gated_128_kernel": 3,
            "rms_norm_gated_kernel": 6,
            "rms_norm_kernel": 12,
            "rms_norm_gated_fp8_kernel": 9,
            "rms_norm_fp8_kernel": 4,
        },
        "gated as Qwen3.5's, and with fp8 values three tiles; rows of 2,048 with a residual, without one and "
        "with fp8 values, and heads of 256: a tile for decode and one for prefill, each aligned or not. Warps of "
        "64 make the two larger tiles of fp8 values one",
        of_64={"rms_norm_gated_fp8_kernel": 6},
    ),
    Workload(
        "DeepSeek-V3, fp8",
        "DeepSeek-V3",
        8,
        {"rms_norm_fp8_kernel": 8},
        "rows of 7,168 with a residual and those of 1,536 without have two tiles, each aligned or not",
    ),
)


def calls(workload: Workload) -> Iterator[tuple[Case, bool]]:
    """Yield every call of a workload, and whether it is in place."""
    for shape in model_shapes():
        if (shape.model, shape.tp) != (workload.model, workload.tp) or shape.operation not in OURS:
            continue
        in_place = shape.operation == "mrope"
        for tokens in (*BATCHES, *shape.prefill):
            case = OPERATIONS[shape.operation].model_case(shape, tokens)
            yield case, in_place
            yield from ((laid_out(case, layout), in_place) for layout in LAYOUTS)


def laid_out(case: Case, layout: Layout) -> Case:
    """Return the case with every tensor that has rows in one layout; positions keep theirs."""
    for name, spec in case.tensors:
        if name in OPERATIONS[case.operation].row_tensors and name != "positions":
            case = case.with_tensor(name, replace(spec, layout=layout))
    return case
