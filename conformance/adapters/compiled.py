"""The formulas through ``torch.compile``, for the very shape of each call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters import formulas
from conformance.oracle.contract import Contract

Results = torch.Tensor | tuple[torch.Tensor, ...]
Flag = Any  # flags are of several types, and are passed on unchanged
MOST_SHAPES = 2**16


def allow_many_shapes() -> None:
    """Let many shapes be compiled, each for itself: torch.compile stops at a few by default."""
    torch._dynamo.config.recompile_limit = MOST_SHAPES  # noqa: SLF001 - there is no public name
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES  # noqa: SLF001 - as above


class Compiled(Adapter):
    """``torch.compile`` with its defaults and static shapes: it knows all sizes when it chooses."""

    name = "compile static"
    package = "torch"
    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        ("rms_norm", "gemma_rms_norm", "rms_norm_gated", "mrope", "rms_norm_fp8", "rms_norm_gated_fp8"), "fp32"
    )
    # the compiled code, and so the order of a sum, depends on the whole shape
    batch_invariant = False
    few_variants = False
    mode: str | None = None

    def __init__(self) -> None:
        allow_many_shapes()

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[..., Results]]:
        every = (
            formulas.rms_norm,
            formulas.rms_norm_gated,
            formulas.mrope,
            formulas.rms_norm_fp8,
            formulas.rms_norm_gated_fp8,
        )
        return {f.__name__: torch.compile(f, dynamic=False, fullgraph=True, mode=self.mode) for f in every}

    def rms_norm(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the compiled formula."""
        return self._compiled["rms_norm"](*given, **flags)

    def gemma_rms_norm(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the compiled formula with one added to the weight."""
        return self._compiled["rms_norm"](*given, **flags, weight_offset=1.0)

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the compiled formula."""
        return self._compiled["rms_norm_gated"](*given, **flags)

    def mrope(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the compiled formula."""
        return self._compiled["mrope"](*given, **flags)

    def rms_norm_fp8(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the compiled formula."""
        return self._compiled["rms_norm_fp8"](*given, **flags)

    def rms_norm_gated_fp8(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the compiled formula."""
        return self._compiled["rms_norm_gated_fp8"](*given, **flags)


class Autotuned(Compiled):
    """``torch.compile`` that measures its choices, without its own graphs, because ours record the calls."""

    name = "compile autotuned"
    mode = "max-autotune-no-cudagraphs"
