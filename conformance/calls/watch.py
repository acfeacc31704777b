"""Recorder of the effects of a call: uninitialised memory, hidden copies, kernel launches.

A dispatch mode around the call sees every tensor operation without changing how torch behaves. Memory that is
allocated without being filled comes from guarded, poisoned buffers, so that an unwritten element and a store past
the end are both seen.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.calls.memory import Owner
from conformance.cases.case import Placement

Untyped = Any  # any argument or result of an operator or a kernel

# operators that allocate memory without filling it
EMPTY = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.empty_permuted.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    }
)
LARGE = 64 * 2**20  # bytes of one allocation; all smaller ones are kept until the call ends
_COPIES = frozenset(
    {
        torch.ops.aten.clone.default,
        torch.ops.aten.copy_.default,
        torch.ops.aten._to_copy.default,  # noqa: SLF001 - the operator's name
    }
)


@dataclass(slots=True)
class Record:
    """The recorded effects of one call."""

    launches: list[str] = field(default_factory=list)  # names of Triton kernels, in order
    variants: set[str] = field(default_factory=set)  # descriptions of what Triton compiles these launches for
    programs: int = 0  # number of programs of the launches that Triton's interpreter runs
    copies: list[str] = field(default_factory=list)  # tensor copies, as "clone (4, 128)"
    tuned: dict[str, str] = field(default_factory=dict)  # configurations of tuned kernels, by name
    owners: list[Owner] = field(default_factory=list)  # owners of memory allocated without being filled
    intact: list[torch.Tensor] = field(default_factory=list)  # whether the guards of those let go were unchanged


# Whether interpreted kernels run their programs from the last to the first. A GPU promises no order.
BACKWARDS: ContextVar[bool] = ContextVar("backwards", default=False)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, record: Record, device: str, poison: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.device = device
        self.poison = poison
        self.large: list[tuple[weakref.ref[torch.Tensor], Owner]] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let functions be compiled; otherwise ``torch.compile`` runs them eagerly, or refuses them."""
        return True

    # the signature is torch's
    def __torch_dispatch__(
        self,
        func: Untyped,
        types: Untyped,
        args: Untyped = (),
        kwargs: Untyped = None,
    ) -> Untyped:
        result = func(*args, **(kwargs or {}))
        if func in EMPTY and result.device.type == torch.device(self.device).type:
            return self._guarded(result)
        if func in _COPIES:
            self.record.copies.append(f"{func.overloadpacket.__name__} {tuple(result.shape)}")
        return result

    def _guarded(self, made: torch.Tensor) -> torch.Tensor:
        if made.numel() == 0 or made.layout != torch.strided:
            return made
        self._let_go()
        strides = made.stride()
        extent = 1 + sum((size - 1) * stride for size, stride in zip(made.shape, strides, strict=True))
        owner = Owner.of(extent * made.dtype.itemsize, self.device, self.poison)
        self.record.owners.append(owner)
        place = Placement(strides, 0, extent)
        # not a view in autograd's eyes: the code under test asked for a tensor of its own
        given = owner.view(tuple(made.shape), made.dtype, place).detach()
        if owner.length >= LARGE:
            self.large.append((weakref.ref(given), owner))
        return given

    def _let_go(self) -> None:
        """Check large memory that the call has dropped, and drop it as well: a loop may take it many times."""
        dropped = [owner for given, owner in self.large if given() is None]
        if not dropped or (self.device != "cpu" and torch.cuda.is_current_stream_capturing()):
            return
        self.large = [(given, owner) for given, owner in self.large if owner not in dropped]
        self.record.owners = [owner for owner in self.record.owners if owner not in dropped]
        self.record.intact += [owner.guards_intact(self.poison) for owner in dropped]


def warm_up() -> None:
    """Import the modules that torch's dispatch modes need (seconds), so that children forked later have them."""
    with watched("cpu", 0):
        torch.empty(1)


@contextlib.contextmanager
def watched(device: str, poison: int, *, backwards: bool = False) -> Iterator[Record]:
    """Record the effects of the code inside; uninitialised memory is filled with ``poison``.

    ``backwards``: Triton's interpreter runs the programs of a launch from the last to the first.
    """
    record = Record()
    order = BACKWARDS.set(backwards)
    try:
        with _recorded_launches(record), _Watch(record, device, poison):
            yield record
    finally:
        BACKWARDS.reset(order)


# Variant name of each compiled kernel, from its first launch: one variant, with or without Triton's ``run``.
_SAID: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
# Per thread: whether Triton's ``run`` is launching, which ends in the compiled kernel.
_TRITON = threading.local()


@contextlib.contextmanager
def _recorded_launches(record: Record) -> Iterator[None]:
    """Record the name of every Triton kernel that runs; Triton calls no launch hooks in the interpreter.

    Launches of compiled kernels that bypass Triton's ``run`` are recorded as well.
    """
    recorders = _recorders()
    shipped = {kind: vars(kind)["run"] for kind in recorders}
    for kind, run in shipped.items():
        kind.run = recorders[kind](run, record)
    try:
        yield
    finally:
        for kind, run in shipped.items():
            kind.run = run


def _recording(run: Callable[..., Any], record: Record) -> Callable[..., Untyped]:
    def recorded(kernel: Untyped, *args: Untyped, **kwargs: Untyped) -> Untyped:
        if kwargs.get("warmup"):
            return run(kernel, *args, **kwargs)
        record.launches.append(getattr(kernel.fn, "__name__", str(kernel.fn)))
        said = variant(kernel, args, kwargs)
        outer, _TRITON.launching = getattr(_TRITON, "launching", False), True
        try:
            compiled = run(kernel, *args, **kwargs)
        finally:
            _TRITON.launching = outer
        if compiled is None:
            record.programs += _programs(kernel, args, kwargs)
        # the interpreter compiles nothing
        record.variants.add(said if compiled is None else _SAID.setdefault(compiled, said))
        return compiled

    return recorded


def _tuned(run: Callable[..., Any], record: Record) -> Callable[..., Untyped]:
    """Return an autotuner's ``run`` that records which configuration it takes."""

    def recorded(tuner: Untyped, *args: Untyped, **kwargs: Untyped) -> Untyped:
        result = run(tuner, *args, **kwargs)
        record.tuned[tuner.base_fn.__name__] = str(tuner.best_config)
        return result

    return recorded


def _programs(kernel: Untyped, args: Untyped, kwargs: Mapping[str, Untyped]) -> int:
    """Return the number of programs of a launch; a grid may be a function of the arguments."""
    grid = kwargs.get("grid", ())
    if callable(grid):
        given = {name: default for name, (default, _) in _parameters(kernel.fn).items()}
        grid = grid({**given, **dict(zip(given, args, strict=False)), **kwargs})
    return math.prod(int(size) for size in (grid if isinstance(grid, tuple | list) else (grid,)))


def _compiled(shipped: property, record: Record) -> property:
    """Return the attribute ``run`` of compiled kernels as a property that records each access as a launch."""

    def recorded(compiled: Untyped) -> Untyped:
        if not getattr(_TRITON, "launching", False):
            record.launches.append(compiled.name)
            record.variants.add(_SAID.setdefault(compiled, f"{compiled.name} {compiled.hash}"))
        return shipped.__get__(compiled)

    return property(recorded)


# options of a launch that do not change the compiled code
_OF_THE_LAUNCH = frozenset({"grid", "warmup", "stream"})


def variant(kernel: Untyped, args: Untyped, kwargs: Mapping[str, Untyped]) -> str:
    """Return the variant that Triton's documented rules compile for a launch of ``kernel``, in words.

    The interpreter compiles nothing. Constexprs and options count by value; numbers by type, and whether they are
    1 or a multiple of 16; tensors by dtype and 16-byte alignment. A kernel may do without either.
    """
    settings = getattr(kernel, "kwargs", None) or vars(kernel)
    plain, unaligned = (
        tuple(settings.get(name) or ()) for name in ("do_not_specialize", "do_not_specialize_on_alignment")
    )
    given = {**dict(zip(_parameters(kernel.fn), args, strict=False)), **kwargs}
    said = [getattr(kernel.fn, "__name__", str(kernel.fn))]
    for name, default, special, aligned in _specialised(kernel.fn, plain, unaligned):
        value = given.pop(name, default)
        said.append(f"{name}={value}" if special is None else f"{name}:{_kind(value, special, aligned)}")
    options = sorted((name, str(value)) for name, value in given.items() if name not in _OF_THE_LAUNCH)
    return " ".join([*said, *(f"{name}={value}" for name, value in options)])


@functools.cache
def _specialised(
    function: Callable[..., Untyped], plain: tuple[str | int, ...], unaligned: tuple[str | int, ...]
) -> tuple[tuple[str, Untyped, bool | None, bool], ...]:
    """Return the name and default of every parameter, and whether its value and its alignment are specialised on.

    Of a constexpr all of the value is: the first is None.
    """
    found = []
    for place, (name, (default, constexpr)) in enumerate(_parameters(function).items()):
        special = not {name, place} & {*plain}
        aligned = special and not {name, place} & {*unaligned}
        found.append((name, default, None if constexpr else special, aligned))
    return tuple(found)


@functools.cache
def _parameters(function: Callable[..., Untyped]) -> dict[str, tuple[Untyped, bool]]:
    """Return the default of every parameter of a kernel, and whether it is a constexpr."""
    described = inspect.signature(function).parameters.items()
    return {name: (given.default, "constexpr" in str(given.annotation)) for name, given in described}


def _kind(value: Untyped, special: bool, aligned: bool) -> str:  # noqa: FBT001 - of a table
    """Return the property of one argument that a kernel is compiled for."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = "i32" if -(2**31) <= value < 2**31 else "i64"
        if not special:
            return size
        return "1" if value == 1 else f"{size}{'/16' if aligned and value % 16 == 0 else ''}"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{'/16' if aligned and value.data_ptr() % 16 == 0 else ''}"
    return "float" if isinstance(value, float) else str(value)


def _recorders() -> dict[Any, Callable[[Any, Record], Any]]:
    """Return what records the ``run`` of each of Triton's classes."""
    if "triton" not in sys.modules:
        return {}
    # Triton is untyped; imported only where an implementation has imported it
    from triton.compiler import CompiledKernel
    from triton.runtime import autotuner, interpreter, jit

    return {
        jit.JITFunction: _recording,
        interpreter.InterpretedFunction: _recording,
        autotuner.Autotuner: _tuned,
        CompiledKernel: _compiled,
    }
