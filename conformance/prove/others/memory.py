"""Memory of the models' calls: ordinary, as in a pool that other tensors used before, without guards or faults.

Memory beside a tensor, in its gaps, and that a call allocates without filling it, holds ordinary numbers: the same
for every call, so that reading them shows, and shows the same each time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.calls.watch import EMPTY
from conformance.cases.case import Placement, TensorSpec

BESIDE = 2**16  # elements on each side of a tensor
USED = 2**20  # elements before the numbers of used memory repeat


def placed(spec: TensorSpec, values: torch.Tensor) -> torch.Tensor:
    """Return a tensor with these values, in the layout of its spec."""
    place = spec.layout.place(spec.shape)
    return _in_the_pool(spec.shape, place, values.dtype).copy_(values)


@contextlib.contextmanager
def pooled(fill: float | None) -> Iterator[None]:
    """Take memory that is allocated inside from the pool: ordinary numbers, or ``fill`` where it is given."""
    with _Pool(fill):
        yield


class _Pool(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, fill: float | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fill = fill

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let functions be compiled, as in a run of the suite."""
        return True

    # the signature is torch's
    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        made = func(*args, **(kwargs or {}))
        if func not in EMPTY or not made.numel() or made.layout != torch.strided:
            return made
        extent = 1 + sum((n - 1) * step for n, step in zip(made.shape, made.stride(), strict=True))
        tensor = _in_the_pool(tuple(made.shape), Placement(made.stride(), 0, extent), made.dtype)
        return tensor if self.fill is None or not made.is_floating_point() else tensor.fill_(self.fill)


def _in_the_pool(shape: tuple[int, ...], place: Placement, dtype: torch.dtype) -> torch.Tensor:
    size = place.extent + 2 * BESIDE
    used = _used(dtype)
    memory = torch.cat([used] * -(-size // USED))[:size] if size > USED else used[:size].clone()
    # not a view in autograd's eyes: the code under test asked for a tensor of its own
    return memory.as_strided(shape, place.strides, BESIDE + place.offset).detach()


@functools.cache
def _used(dtype: torch.dtype) -> torch.Tensor:
    if not dtype.is_floating_point:
        return torch.zeros(USED, dtype=dtype)
    return torch.randn(USED, generator=torch.Generator().manual_seed(0)).to(dtype)
