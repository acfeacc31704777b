"""The only place that starts a kernel.

The first call of a kind is launched through Triton, which binds, specialises and compiles. What it came to is
kept: later calls that are alike bring pointers and counts alone, and start the compiled kernel as Triton's
tutorials do (``compiled[grid](*args)``), or run ``kernel[grid]`` on the kept arguments where that is not possible.
``NORMKERNELS_LAUNCH`` is ``direct``, the default, or ``triton``, which never starts a compiled kernel itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from normkernels.call import interpreting
from normkernels.errors import InvalidCall
from normkernels.plans import HeadPlan, Plan

ENVIRONMENT = "NORMKERNELS_LAUNCH"
_WAYS = ("direct", "triton")
# bytes: kernels are compiled for pointers that are multiples of this, or for any
ALIGNMENT = 16
# Triton passes larger integers as another type, that is, to another kernel.
_INT32 = 2**31

# Tensors in the order of the kernel's pointers; None: not there.
Buffers = Sequence[torch.Tensor | None]
# Kernel arguments that differ between calls that are alike; the rows come first.
Counts = Mapping[str, int]
# A kernel and all of its arguments by name. Any: triton has no types.
Arguments = tuple[Any, Mapping[str, Any]]


@dataclass(slots=True)
class Launch:
    """A kernel and everything that it is given but pointers and counts."""

    kernel: Any  # Triton's function; triton has no types
    rest: tuple[Any, ...]  # the arguments after the pointers
    places: tuple[int, ...]  # the counts among all arguments
    plan: Plan
    device: torch.device
    aligned: bool  # whether every pointer is a multiple of ALIGNMENT
    fewest: int  # rows that this launch is known to serve
    most: int
    compiled: Any = None  # the result of the first launch through Triton; None in the interpreter


def launch(known: Launch, tensors: Sequence[torch.Tensor], pointers: Sequence[int], counts: Counts) -> None:
    """Start a kernel on its device, which need not be the current one."""
    numbers = tuple(counts.values())
    programs = known.plan.programs if isinstance(known.plan, HeadPlan) else 1
    grid = -(-numbers[0] // known.plan.rows), programs, 1
    directly = known.compiled is not None and max(numbers) < _INT32
    # asked before the kernel writes: a word that has no meaning raises
    kept = not directly and not why_not_direct() and known.aligned and max(numbers) < _INT32
    args = [*(pointers if directly else tensors), *known.rest]
    for place, number in zip(known.places, numbers, strict=True):
        args[place] = number
    elsewhere = known.device.type == "cuda" and known.device.index != torch.cuda.current_device()
    with torch.cuda.device(known.device) if elsewhere else _NOWHERE:
        if directly:
            known.compiled[grid](*args)
            return
        # no fusion: a contracted x*x + y*y is not commutative, so its bits would depend on the layout
        limit = {} if known.plan.registers is None else {"maxnreg": known.plan.registers}
        compiled = known.kernel[grid](*args, num_warps=known.plan.warps, enable_fp_fusion=False, **limit)
    if kept:
        known.compiled = compiled


_NOWHERE = nullcontext()


@dataclass(slots=True)
class Launches:
    """The launches of calls that differ in pointers and counts alone: one for each plan, aligned and not.

    A plan serves one range of row counts: if two counts share a plan, so do all counts between them.
    """

    device: torch.device
    plan: Callable[[int], Plan]  # for a number of rows
    arguments: Callable[[Buffers, Plan], Arguments]
    anywhere: int | None = None  # the pointer whose alignment no kernel depends on
    known: list[Launch] = field(default_factory=list)

    def start(self, buffers: Buffers, counts: Counts) -> None:
        """Start the kernel for ``buffers``; the first of them stands in for those that are not there."""
        first = buffers[0]
        assert first is not None
        tensors = [first if each is None else each for each in buffers]
        pointers = [each.data_ptr() for each in tensors]
        union = 0
        for place, pointer in enumerate(pointers):
            if place != self.anywhere:
                union |= pointer
        aligned = union % ALIGNMENT == 0
        rows = next(iter(counts.values()))
        for each in self.known:
            if each.fewest <= rows <= each.most and each.aligned == aligned:
                launch(each, tensors, pointers, counts)
                return
        launch(self._learn(buffers, counts, rows, aligned=aligned), tensors, pointers, counts)

    def _learn(self, buffers: Buffers, counts: Counts, rows: int, *, aligned: bool) -> Launch:
        """Return a launch of the plan for ``rows``: a new one, or a known one that now serves them as well."""
        plan = self.plan(rows)
        for each in self.known:
            if each.plan == plan and each.aligned == aligned:
                each.fewest, each.most = min(each.fewest, rows), max(each.most, rows)
                return each
        kernel, args = self.arguments(buffers, plan)
        names = kernel.arg_names
        given = {**args, **counts}
        rest = tuple(given[name] for name in names[len(buffers) :])
        places = tuple(map(names.index, counts))
        self.known.append(Launch(kernel, rest, places, plan, self.device, aligned, rows, rows))
        return self.known[-1]


@cache
def why_not_direct() -> str:
    """Return why this process never starts a compiled kernel itself; nothing where it does. Read once."""
    asked = os.environ.get(ENVIRONMENT, "") or _WAYS[0]
    if asked not in _WAYS:
        raise InvalidCall(f"{ENVIRONMENT}={asked!r}, must be one of {', '.join(_WAYS)}")
    if interpreting():
        return "the interpreter compiles nothing"
    return "" if asked == "direct" else f"{ENVIRONMENT}={asked}"


def how(tensors: Sequence[torch.Tensor]) -> str:
    """Return in words how a call of ``tensors`` is launched, from the second such call on."""
    against = why_not_direct()
    if not against and any(each.data_ptr() % ALIGNMENT for each in tensors):
        against = f"some tensor begins at no multiple of {ALIGNMENT} bytes"
    return f"by Triton: {against}" if against else "directly"
