"""The one place that launches a kernel: through Triton, or directly, with what Triton's launch of it has left.

Triton binds, specialises and looks up at each launch; a direct one fills pointers and counts into what the first
has come to. ``NORMKERNELS_LAUNCH`` says which: ``direct``, or ``triton`` instead. A direct launch that something
stands against goes through Triton.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from normkernels.beneath import Beneath, beneath
from normkernels.call import has_triton, interpreting
from normkernels.errors import InvalidCall
from normkernels.kernels import plans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normkernels.kernels.plans import Plan

ENVIRONMENT = "NORMKERNELS_LAUNCH"
_WAYS = ("triton", "direct")
# ``CompiledKernel.run`` and ``function`` were read in each, and take the same arguments.
_VERSIONS = ("3.6", "3.7", "3.8", "3.9")
# Triton passes larger integers as another type, that is, to another kernel.
_INT32 = 2**31
# bytes: kernels are compiled for pointers that are, or are not, multiples of them
ALIGNMENT = 16
# More plans than any table has for one kind of call.
_MAX_READY = 16

# As Triton asks torch; torch without CUDA has neither.
current_device: Any = getattr(torch._C, "_cuda_getDevice", None)  # noqa: SLF001
_current_stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # noqa: SLF001


class Against(Enum):
    """What a direct launch needs and a process lacks."""

    NOT_ASKED = f"runs unless {ENVIRONMENT} says otherwise"
    INTERPRETED = "needs kernels that Triton compiles"
    VERSION = f"needs Triton {', '.join(_VERSIONS)}"
    NOT_NVIDIA = "needs CUDA"
    HOOKS = "calls no launch hooks"
    KNOBS = "runs what was compiled before"
    UNCOMMON = "keeps plain calls: fp8 values go to memory of its own"
    ALIGNMENT = f"needs tensors at multiples of {ALIGNMENT} bytes"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason against launching directly."""

    reason: Against
    got: str

    def __str__(self) -> str:
        """Say what is needed, then what was given."""
        return f"{self.reason.name}: {self.reason.value}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Launched:
    """A kernel that Triton has launched, and all that it was given."""

    kernel: Any  # Triton's function; triton has no types
    compiled: Any  # for the GPU and these arguments
    grid: tuple[int, ...]
    args: Mapping[str, Any]
    plan: Plan
    device: torch.device


# Any: triton has no types, and a kernel takes tensors, numbers and dtypes
def launch(
    kernel: Any,  # noqa: ANN401
    grid: tuple[int, ...],
    args: Mapping[str, Any],
    plan: Plan,
    device: torch.device,
) -> Launched:
    """Run ``kernel`` over ``grid`` on ``device``, which need not be the current one, through Triton."""
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        # no fusion: a contracted x*x + y*y is not commutative, so its bits would depend on the layout
        compiled = kernel[grid](**args, num_warps=plan.warps, enable_fp_fusion=False)
    return Launched(kernel, compiled, grid, args, plan, device)


@dataclass(slots=True)
class Ready:
    """A launch that lacks its pointers and counts, of any number of rows that its plan is known to serve."""

    kernel: Any
    compiled: Any
    plan: Plan
    device: torch.device
    programs: int  # for each tile of rows
    rest: tuple[Any, ...]  # the arguments after the pointers, in the kernel's order; None for counts
    place: int  # of the row count among all arguments
    places: tuple[int, ...]  # of the other counts
    fewest: int
    most: int
    beneath: Beneath | None

    def start(self, pointers: Sequence[int], rows: int, counts: Sequence[int] = ()) -> bool:
        """Launch on the current device, the other ``counts`` beside the rows; False where Triton has to.

        ``pointers`` are those of the kernel, in its order, and aligned.
        """
        args = [*pointers, *self.rest]
        args[self.place] = rows
        if rows >= _INT32:
            return False
        if counts:
            for place, count in zip(self.places, counts, strict=True):
                if count >= _INT32:
                    return False
                args[place] = count
        compiled, beneath = self.compiled, self.beneath
        # the attribute, each time: who counts launches replaces it
        run = compiled.run
        grid, stream = -(-rows // self.plan.rows), _current_stream(self.device.index)
        if beneath is None or run is not beneath.launcher:
            front = stream, compiled.function, compiled.packed_metadata, None, None, None
            run(grid, self.programs, 1, *front, *args)
        elif beneath.packs:
            beneath.launch(grid, self.programs, 1, stream, *beneath.front, args)
        else:
            beneath.launch(grid, self.programs, 1, stream, *beneath.front, *args)
        return True


@dataclass(slots=True)
class Repeats:
    """The launches of calls that differ in pointers and counts alone.

    A plan serves one range of row counts: what two counts share, all between them do.
    """

    table: plans.PlanTable | None  # that all are of; None: nothing is kept
    ready: list[Ready] = field(default_factory=list)
    anywhere: int | None = None  # the pointer that no kernel counts on being aligned

    def fitting(self, rows: int) -> Ready | None:
        """Return what such a call of ``rows`` has launched before; None where none has, or Triton has to."""
        for ready in self.ready:
            if ready.fewest <= rows <= ready.most:
                fits = plans.TABLE is self.table and _passing() is None and not ready.kernel.pre_run_hooks
                return ready if fits else None
        return None

    def again(self, tensors: Sequence[torch.Tensor | None], counts: Sequence[int]) -> bool:
        """Launch what such a call has launched before; False, and nothing is done, where none has.

        ``tensors`` are the kernel's pointers, in its order; the first stands in for those that are not there.
        """
        ready = self.fitting(counts[0])
        if ready is None:
            return False
        pointers = _pointers(tensors)
        if self._misaligned(pointers):
            return False
        if current_device() != ready.device.index:
            with torch.cuda.device(ready.device):
                return ready.start(pointers, counts[0], counts[1:])
        return ready.start(pointers, counts[0], counts[1:])

    def learn(
        self,
        launched: Launched,
        tensors: Sequence[torch.Tensor | None],
        names: Sequence[str],
        counts: Sequence[int],
    ) -> None:
        """Keep a launch for calls to come; the ``counts`` are what it was given as ``names``."""
        if plans.TABLE is not self.table or _passing() is not None:
            return
        places = tuple(launched.kernel.arg_names.index(name) for name in names)
        given = [launched.args[name] for name in launched.kernel.arg_names]
        pointers = _pointers(tensors)
        assert pointers == [each.data_ptr() for each in given[: len(pointers)]]
        assert list(counts) == [given[place] for place in places]
        numbers = [each for each in given[len(pointers) :] if type(each) is int]
        if self._misaligned(pointers) or any(number >= _INT32 for number in numbers):
            return
        for place in places:
            given[place] = None
        rest, rows = tuple(given[len(pointers) :]), counts[0]
        for ready in self.ready:
            if ready.plan == launched.plan and ready.compiled is launched.compiled:
                assert ready.rest == rest, "calls of one route have the same arguments"
                ready.fewest, ready.most = min(ready.fewest, rows), max(ready.most, rows)
                return
        if len(self.ready) < _MAX_READY:
            programs = launched.grid[1] if len(launched.grid) > 1 else 1
            of = (launched.kernel, launched.compiled, launched.plan, launched.device)
            self.ready.append(
                Ready(*of, programs, rest, places[0], places[1:], rows, rows, beneath(launched.compiled))
            )

    def _misaligned(self, pointers: Sequence[int]) -> bool:
        return any(pointer % ALIGNMENT for place, pointer in enumerate(pointers) if place != self.anywhere)


def _pointers(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    """Return the pointers that a kernel takes; the first stands in for those that are not there."""
    return [(tensors[0] if each is None else each).data_ptr() for each in tensors]  # type: ignore[union-attr]  # the first is there


# Of a process or a call that is launched through Triton.
NEVER = Repeats(None)


def how(tensors: Sequence[torch.Tensor], *, known: bool) -> str:
    """Return how a call of ``tensors`` is launched, from the second such call on, and why not directly."""
    against = standing() or _passing()
    if against is None and not known:
        against = Obstacle(Against.UNCOMMON, "an out")
    if against is None and any(each.data_ptr() % ALIGNMENT for each in tensors):
        against = Obstacle(Against.ALIGNMENT, "one elsewhere")
    return "directly" if against is None else f"by Triton, not directly: {against}"


@cache
def standing() -> Obstacle | None:
    """Return what stands against launching directly for as long as the process lives; asked once."""
    asked = os.environ.get(ENVIRONMENT, "") or "direct"
    if asked not in _WAYS:
        raise InvalidCall(f"{ENVIRONMENT}={asked!r}, must be one of {', '.join(_WAYS)}")
    if asked != "direct":
        return Obstacle(Against.NOT_ASKED, asked)
    if interpreting() or not has_triton():
        return Obstacle(Against.INTERPRETED, "the interpreter" if has_triton() else "no Triton")
    if torch.version.cuda is None:
        return Obstacle(Against.NOT_NVIDIA, f"torch {torch.__version__}")
    import triton

    if ".".join(triton.__version__.split(".")[:2]) not in _VERSIONS:
        return Obstacle(Against.VERSION, triton.__version__)
    return None


def _passing() -> Obstacle | None:
    """Return what somebody has set in Triton that only Triton's own launch heeds."""
    runtime, compilation = _knobs()
    try:
        # chains of hooks are there, and empty; asked in each call, and all that is asked in most
        hooked = runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls
    except AttributeError:
        # others are no chains, or None
        hooks = runtime.launch_enter_hook, runtime.launch_exit_hook
        hooked = any(hook is not None and getattr(hook, "calls", True) for hook in hooks)
    if hooked:
        return Obstacle(Against.HOOKS, "some in triton.knobs.runtime")
    if runtime.debug or compilation.instrumentation_mode or runtime.add_stages_inspection_hook is not None:
        return Obstacle(Against.KNOBS, "a knob that compiles others: debug, instrumentation or stages")
    return None


# Any: triton has no types
@cache
def _knobs() -> tuple[Any, Any]:
    from triton import knobs

    return knobs.runtime, knobs.compilation


def reread_environment() -> None:
    """Forget what the environment said."""
    standing.cache_clear()
