"""What happens during a call: uninitialised memory, hidden copies, kernel launches.

A dispatch mode around the call sees every tensor operation without changing how torch behaves. Memory that is
allocated without being filled comes from guarded, poisoned buffers, so that an element nobody wrote and a store
past the end are both seen.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.case import Placement
from conformance.memory import Owner

Untyped = Any  # whatever an operator or a kernel takes and gives

_EMPTY = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.empty_permuted.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    }
)
_COPIES = frozenset(
    {
        torch.ops.aten.clone.default,
        torch.ops.aten.copy_.default,
        torch.ops.aten._to_copy.default,  # noqa: SLF001 - the operator's name
    }
)


@dataclass(slots=True)
class Record:
    """What one call did."""

    launches: list[str] = field(default_factory=list)  # names of Triton kernels, in order
    copies: list[str] = field(default_factory=list)  # tensor copies, as "clone (4, 128)"
    owners: list[Owner] = field(default_factory=list)  # of memory allocated without being filled


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, record: Record, device: str, poison: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.device = device
        self.poison = poison

    # the signature is torch's
    def __torch_dispatch__(
        self,
        func: Untyped,
        types: Untyped,
        args: Untyped = (),
        kwargs: Untyped = None,
    ) -> Untyped:
        result = func(*args, **(kwargs or {}))
        if func in _EMPTY and result.device.type == torch.device(self.device).type:
            return self._guarded(result)
        if func in _COPIES:
            self.record.copies.append(f"{func.overloadpacket.__name__} {tuple(result.shape)}")
        return result

    def _guarded(self, made: torch.Tensor) -> torch.Tensor:
        if made.numel() == 0 or made.layout != torch.strided:
            return made
        strides = made.stride()
        extent = 1 + sum((size - 1) * stride for size, stride in zip(made.shape, strides, strict=True))
        owner = Owner.of(extent * made.dtype.itemsize, self.device, self.poison)
        self.record.owners.append(owner)
        place = Placement(strides, 0, extent)
        # not a view in autograd's eyes: the code under test asked for a tensor of its own
        return owner.view(tuple(made.shape), made.dtype, place).detach()


def warm_up() -> None:
    """Import what torch's dispatch modes need (seconds), so that children forked afterwards have it."""
    with watched("cpu", 0):
        torch.empty(1)


@contextlib.contextmanager
def watched(device: str, poison: int) -> Iterator[Record]:
    """Record what happens inside; uninitialised memory is filled with ``poison``."""
    record = Record()
    with _recorded_launches(record), _Watch(record, device, poison):
        yield record


@contextlib.contextmanager
def _recorded_launches(record: Record) -> Iterator[None]:
    """Note the name of every Triton kernel that runs; its own launch hooks stay silent in the interpreter."""
    classes = _kernel_classes()
    shipped = [vars(kind)["run"] for kind in classes]
    for kind, run in zip(classes, shipped, strict=True):
        kind.run = _recording(run, record)
    try:
        yield
    finally:
        for kind, run in zip(classes, shipped, strict=True):
            kind.run = run


def _recording(run: Callable[..., Any], record: Record) -> Callable[..., Untyped]:
    def recorded(kernel: Untyped, *args: Untyped, **kwargs: Untyped) -> Untyped:
        if not kwargs.get("warmup"):
            record.launches.append(getattr(kernel.fn, "__name__", str(kernel.fn)))
        return run(kernel, *args, **kwargs)

    return recorded


def _kernel_classes() -> list[Any]:
    if "triton" not in sys.modules:
        return []
    # Triton is untyped; imported only where an implementation has imported it
    from triton.runtime import interpreter, jit

    return [jit.JITFunction, interpreter.InterpretedFunction]
