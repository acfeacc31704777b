"""The only place that starts a kernel.

The first call with a key is launched through Triton, which binds, specialises and compiles. The kernel is cached:
later calls with the same key pass pointers and counts alone. They start the compiled kernel as Triton's own launch
and PyTorch's Inductor do (``compiled.run``), or run ``kernel[grid]`` with the cached arguments where that is not
possible. ``NORMKERNELS_LAUNCH`` is ``direct``, the default, or ``triton``: every launch goes through Triton.
Launch hooks are called; other changes of ``triton.knobs`` have no effect on a kernel that is compiled.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import or_
from typing import Any

import torch

from normkernels.call import interpreting
from normkernels.errors import InvalidCall
from normkernels.plans import Plan

ENVIRONMENT = "NORMKERNELS_LAUNCH"
_WAYS = ("direct", "triton")
# bytes: a kernel is compiled for pointers that are multiples of this number, or for any pointers
ALIGNMENT = 16
# Triton passes larger integers as another type, that is, to another kernel.
_INT32 = 2**31

# Kernels take pointers, then counts, then all other arguments.
# Tensors in the order of the kernel's pointers. Any: a tensor, or None if there is none.
Buffers = Sequence[Any]
# Numbers that differ between calls with one key, the kernel's rows first.
Counts = tuple[int, ...]
# A kernel and all of its arguments by name. Any: triton has no types.
Arguments = tuple[Any, Mapping[str, Any]]


@dataclass(slots=True)
class Launch:
    """A kernel and all of its arguments but pointers and counts."""

    kernel: Any  # Triton's function; triton has no types
    rest: tuple[Any, ...]  # the arguments after the counts
    plan: Plan
    index: int | None  # of the device; None: the CPU
    aligned: bool  # whether every pointer is a multiple of ALIGNMENT
    fewest: int  # rows of a call that this launch has served
    most: int
    compiled: Any = None  # the result of the first launch through Triton; None: every launch goes through it


def launch(cached: Launch, buffers: Buffers, pointers: Sequence[int], counts: Counts) -> None:
    """Start a kernel on its device, which need not be the current one."""
    index = cached.index
    # with one GPU there is no other to be current, and asking for the current one takes longer
    if _gpus() > 1 and index is not None and index != torch.cuda.current_device():
        with torch.cuda.device(index):
            launch(cached, buffers, pointers, counts)
        return
    compiled = cached.compiled
    if compiled is None or max(counts) >= _INT32:
        _launch_through_triton(cached, buffers, counts)
        return
    plan, (stream_of, knobs) = cached.plan, _triton()
    programs = -(-counts[0] // plan.rows)
    enter, leave = knobs.launch_enter_hook, knobs.launch_exit_hook
    # chains of hooks, which may be empty, functions or None
    if getattr(enter, "calls", enter) or getattr(leave, "calls", leave):
        compiled[programs, plan.programs, 1](*pointers, *counts, *cached.rest)
        return
    stream, function, packed = stream_of(index), compiled.function, compiled.packed_metadata
    # no metadata and no hooks, which take as long as the launch
    compiled.run(
        programs, plan.programs, 1, stream, function, packed, None, None, None, *pointers, *counts, *cached.rest
    )


def _launch_through_triton(cached: Launch, buffers: Buffers, counts: Counts) -> None:
    """Start a kernel as a user of Triton does, and cache the compiled kernel if it may be started directly."""
    # before the kernel writes, because an unknown word in the environment raises
    direct = not why_not_direct() and cached.aligned and max(counts) < _INT32
    args = *(buffers[0] if each is None else each for each in buffers), *counts, *cached.rest
    # no fusion: a contracted x*x + y*y is not commutative, so its bits would depend on the layout
    limit = {} if cached.plan.registers is None else {"maxnreg": cached.plan.registers}
    grid = -(-counts[0] // cached.plan.rows), cached.plan.programs, 1
    compiled = cached.kernel[grid](*args, num_warps=cached.plan.warps, enable_fp_fusion=False, **limit)
    if direct:
        cached.compiled = compiled


@cache
def _gpus() -> int:
    """Return the number of GPUs of this process."""
    return torch.cuda.device_count()


@cache
def _triton() -> tuple[Any, Any]:
    """Return Triton's function that says the current stream of a device, and its knobs of launches."""
    from triton import knobs
    from triton.runtime import driver

    return driver.active.get_current_stream, knobs.runtime


@dataclass(slots=True)
class Launches:
    """The launches of calls with one key: one for each plan, for aligned pointers and for others.

    A plan serves one range of row counts: if two counts share a plan, so do all counts between them.
    """

    device: torch.device
    plan: Callable[[int], Plan]  # for a number of rows
    arguments: Callable[[Buffers, Plan], Arguments]
    anywhere: int | None = None  # the pointer whose alignment no kernel depends on
    cached: list[Launch] = field(default_factory=list)

    def start(self, buffers: Buffers, counts: Counts) -> None:
        """Start the kernel for ``buffers``; the first buffer stands in for missing ones."""
        first = buffers[0].data_ptr()
        pointers = [first if each is None else each.data_ptr() for each in buffers]
        bits = 0
        for pointer in pointers:
            bits |= pointer
        if bits % ALIGNMENT and self.anywhere is not None:
            bits = reduce(or_, (pointer for place, pointer in enumerate(pointers) if place != self.anywhere))
        aligned, rows = bits % ALIGNMENT == 0, counts[0]
        for each in self.cached:
            if each.fewest <= rows <= each.most and each.aligned is aligned:
                break
        else:
            each = self._cache(buffers, counts, aligned=aligned)
        launch(each, buffers, pointers, counts)

    def _cache(self, buffers: Buffers, counts: Counts, *, aligned: bool) -> Launch:
        """Return a launch of the plan for so many rows: a new one, or a cached one whose range of rows grows."""
        rows = counts[0]
        plan = self.plan(rows)
        for each in self.cached:
            if each.plan == plan and each.aligned == aligned:
                each.fewest, each.most = min(each.fewest, rows), max(each.most, rows)
                return each
        kernel, args = self.arguments(buffers, plan)
        rest = tuple(args[name] for name in kernel.arg_names[len(buffers) + len(counts) :])
        self.cached.append(Launch(kernel, rest, plan, self.device.index, aligned, rows, rows))
        return self.cached[-1]


@cache
def why_not_direct() -> str:
    """Return the reason against direct launches in this process, or nothing. The environment is read once."""
    asked = os.environ.get(ENVIRONMENT, "") or _WAYS[0]
    if asked not in _WAYS:
        raise InvalidCall(f"{ENVIRONMENT}={asked!r}, must be one of {', '.join(_WAYS)}")
    if interpreting():
        return "the interpreter compiles nothing"
    return "" if asked == "direct" else f"{ENVIRONMENT}={asked}"


def how(tensors: Sequence[torch.Tensor]) -> str:
    """Return the way in which calls of ``tensors`` are launched, from the second call on, in words."""
    against = why_not_direct()
    if not against and any(each.data_ptr() % ALIGNMENT for each in tensors):
        against = f"some tensor begins at no multiple of {ALIGNMENT} bytes"
    return f"by Triton: {against}" if against else "directly"
