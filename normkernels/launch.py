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

from normkernels import direct, plans
from normkernels.call import has_triton, interpreting
from normkernels.errors import InvalidCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normkernels.plans import Plan

ENVIRONMENT = "NORMKERNELS_LAUNCH"
_WAYS = ("triton", "direct")
# Each was read: what a compiled kernel says of itself, how parameters are packed, and what ``run`` takes.
_VERSIONS = ("3.6", "3.7", "3.8", "3.9")
# Triton passes larger integers as another type, that is, to another kernel.
_INT32 = 2**31
# bytes: kernels are compiled for pointers that are, or are not, multiples of them
ALIGNMENT = 16
# threads
_WARP = 32
# More plans than any table has for one kind of call.
_MAX_READY = 16

# As Triton asks torch; torch without CUDA has neither.
current_device: Any = getattr(torch._C, "_cuda_getDevice", None)  # noqa: SLF001
_current_stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # noqa: SLF001


# An attribute, its owner first, and what it must be; False: anything false. Any: triton has no types
Setting = tuple[Any, str, Any]


class Against(Enum):
    """What a direct launch needs and a process lacks."""

    NOT_ASKED = f"runs unless {ENVIRONMENT} says otherwise"
    INTERPRETED = "needs kernels that Triton compiles"
    VERSION = f"needs Triton {', '.join(_VERSIONS)}"
    NOT_NVIDIA = "needs CUDA"
    COMPILER = "needs what Triton needs, a C compiler and CUDA's driver"
    HOOKS = "calls no launch hooks"
    KNOBS = "runs what was compiled before, without debugging, stages or instrumentation"
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
        limit = {} if plan.registers is None else {"maxnreg": plan.registers}
        compiled = kernel[grid](**args, num_warps=plan.warps, enable_fp_fusion=False, **limit)
    return Launched(kernel, compiled, grid, args, plan, device)


@dataclass(slots=True)
class Ready:
    """A kernel that Triton has launched, for calls that differ from that launch in pointers and counts."""

    compiled: Any
    plan: Plan
    device: torch.device
    programs: int  # for each tile of rows
    rest: tuple[Any, ...]  # the arguments after the pointers, in the kernel's order; None for counts
    places: tuple[int, ...]  # of the counts, rows first, among all arguments

    # Any: whatever somebody has put in its place
    def start(self, launcher: Any, pointers: Sequence[int], counts: Sequence[int]) -> bool:  # noqa: ANN401
        """Launch on the current device by what stands in for Triton's launcher."""
        args = [*pointers, *self.rest]
        for place, count in zip(self.places, counts, strict=True):
            args[place] = count
        front = _current_stream(self.device.index), self.compiled.function, self.compiled.packed_metadata
        launcher(-(-counts[0] // self.plan.rows), self.programs, 1, *front, None, None, None, *args)
        return True

    # Any: a type in C
    def in_c(self, names: Sequence[str], given: Sequence[Any], n_pointers: int) -> Any | None:  # noqa: ANN401
        """Return what launches the same without Python, in any number of rows of this plan; None: nothing can."""
        if not direct.is_plain(self.compiled):
            return None
        found = direct.parameters(self.compiled, names, given)
        if found is None:
            return None
        values, at = found
        return direct.built().Start(
            launch=direct.launch_function(),
            function=self.compiled.function,
            threads=self.plan.warps * _WARP,
            shared=self.compiled.metadata.shared,
            programs=self.programs,
            tile=self.plan.rows,
            values=values,
            pointers=n_pointers,
            counts=tuple(at[place] for place in self.places),
            compiled=self.compiled,
            launcher=direct.launcher(self.compiled),
            instead=self.start,
            stream_of=_current_stream,
            device=self.device.index,
        )


@dataclass(slots=True)
class Repeats:
    """The launches of calls that differ in pointers and counts alone.

    A plan serves one range of row counts: what two counts share, all between them do.
    """

    table: plans.PlanTable | None  # that all are of; None: nothing is kept
    anywhere: int | None = None  # the pointer that no kernel counts on being aligned
    kernel: Any = None  # that all are launches of
    device: torch.device | None = None  # that all are on
    ready: list[Ready] = field(default_factory=list)
    starts: list[Any] = field(default_factory=list)  # of each in C, with the row counts that it is known to serve

    def settings(self) -> tuple[Setting, ...]:
        """Return what must be as it is now for one of these launches."""
        own = (plans, "TABLE", self.table), (self.kernel, "pre_run_hooks", False)
        return *own, *(each for each, _ in _settings())

    def again(self, tensors: Sequence[torch.Tensor | None], counts: Sequence[int]) -> bool:
        """Launch what such a call has launched before; False, and nothing is done, where none has.

        ``tensors`` are the kernel's pointers, in its order; the first stands in for those that are not there.
        """
        start = next((each for each in self.starts if each.fewest <= counts[0] <= each.most), None)
        if start is None or not all(map(_is_plain, self.settings())):
            return False
        pointers = _pointers(tensors)
        if self._misaligned(pointers):
            return False
        assert self.device is not None
        elsewhere = current_device() != self.device.index
        with torch.cuda.device(self.device) if elsewhere else nullcontext():
            done: bool = start.start(pointers, tuple(counts))
        return done

    def learn(
        self,
        launched: Launched,
        tensors: Sequence[torch.Tensor | None],
        names: Sequence[str],
        counts: Sequence[int],
    ) -> None:
        """Keep a launch for calls to come; the ``counts`` are what it was given as ``names``."""
        if plans.TABLE is not self.table or _passing() is not None or missing() is not None:
            return
        places = tuple(launched.kernel.arg_names.index(name) for name in names)
        given = [launched.args[name] for name in launched.kernel.arg_names]
        pointers = _pointers(tensors)
        assert pointers == tuple(each.data_ptr() for each in given[: len(pointers)])
        assert list(counts) == [given[place] for place in places]
        numbers = [each for each in given[len(pointers) :] if type(each) is int]
        if self._misaligned(pointers) or any(number >= _INT32 for number in numbers):
            return
        rest = given[len(pointers) :]
        for place in places:
            rest[place - len(pointers)] = None
        rows = counts[0]
        for ready, start in zip(self.ready, self.starts, strict=True):
            if ready.plan == launched.plan and ready.compiled is launched.compiled:
                assert ready.rest == tuple(rest), "calls of one route have the same arguments"
                start.fewest, start.most = min(start.fewest, rows), max(start.most, rows)
                return
        if len(self.ready) >= _MAX_READY:
            return
        programs = launched.grid[1] if len(launched.grid) > 1 else 1
        ready = Ready(launched.compiled, launched.plan, launched.device, programs, tuple(rest), places)
        start = ready.in_c(launched.kernel.arg_names, given, len(pointers))
        if start is not None:
            start.fewest = start.most = rows
            self.kernel, self.device = launched.kernel, launched.device
            self.ready.append(ready)
            self.starts.append(start)

    def _misaligned(self, pointers: Sequence[int]) -> bool:
        return any(pointer % ALIGNMENT for place, pointer in enumerate(pointers) if place != self.anywhere)


def _pointers(tensors: Sequence[torch.Tensor | None]) -> tuple[int, ...]:
    """Return the pointers that a kernel takes; the first stands in for those that are not there."""
    return tuple((tensors[0] if each is None else each).data_ptr() for each in tensors)  # type: ignore[union-attr]  # the first is there


# Of a process or a call that is launched through Triton.
NEVER = Repeats(None)


def how(tensors: Sequence[torch.Tensor], *, known: bool) -> str:
    """Return how a call of ``tensors`` is launched, from the second such call on, and why not directly."""
    against = standing() or _passing() or missing()
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


def missing() -> Obstacle | None:
    """Return what stands against building what launches directly; it is built by the first who asks."""
    try:
        direct.built()
        direct.launch_function()
    except direct.NotBuilt as why:
        return Obstacle(Against.COMPILER, str(why))
    return None


def _passing() -> Obstacle | None:
    """Return what somebody has set in Triton that only Triton's own launch heeds."""
    for setting, reason in _settings():
        if not _is_plain(setting):
            return Obstacle(reason, f"{setting[1]} set in triton.knobs")
    return None


def _is_plain(setting: Setting) -> bool:
    """Whether an attribute is the object that it is to be; where that is False, anything false."""
    owner, name, plain = setting
    value = getattr(owner, name)
    return value is plain or (plain is False and not value)


@cache
def _settings() -> tuple[tuple[Setting, Against], ...]:
    """Return what somebody may set in Triton, as it is where nobody has, and what then stands against."""
    from triton.knobs import compilation, runtime

    hooks: list[Setting] = []
    for name in ("launch_enter_hook", "launch_exit_hook"):
        chain = getattr(runtime, name)
        # chains of hooks are there, and empty; others are hooks
        if hasattr(chain, "calls"):
            hooks += [(runtime, name, chain), (chain, "calls", False)]
        else:
            hooks.append((runtime, name, None))
    compiled: list[Setting] = [
        (runtime, "debug", False),
        (runtime, "add_stages_inspection_hook", None),
        (compilation, "instrumentation_mode", False),
    ]
    return *((each, Against.HOOKS) for each in hooks), *((each, Against.KNOBS) for each in compiled)


def reread_environment() -> None:
    """Forget what the environment said."""
    standing.cache_clear()
