"""Tensors of a case, inside guarded buffers. Deterministic: the same case gives the same bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from conformance.calls.memory import Owner, read
from conformance.cases.case import SHARED_PARTS, Case, Flag, Placement, TensorSpec
from conformance.cases.values import draw
from conformance.operations import Arguments

FAR = 2**26  # elements
SPARSE = 2**10  # times as long as its elements would be in a row


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """The arguments of one call, and the data needed to detect changes of any other memory.

    ``versions``: torch's count of changes of each tensor, before the call.
    """

    case: Case
    arguments: Arguments
    owners: tuple[tuple[str, Owner], ...]
    before: tuple[torch.Tensor, ...]
    versions: Mapping[str, int]

    def kept(self) -> list[torch.Tensor]:
        """Return for every buffer (elements, gaps and guards) whether it was left as it was."""
        return [owner.holds(before) for (_, owner), before in zip(self.owners, self.before, strict=True)]

    def touched(self) -> tuple[str, ...]:
        """Return the names of the arguments whose buffer was changed."""
        return tuple(name for (name, _), kept in zip(self.owners, read(self.kept()), strict=True) if not kept)


class LayoutLost(AssertionError):
    """Raised where the layout of a case did not reach the call: an error of the suite itself."""


def values_of(case: Case, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return the values of every tensor, contiguous, on a device. Every device gets the same."""
    drawn = {name: _drawn(case, name, spec, device) for name, spec in case.tensors if case.source(name) == name}
    return {name: drawn[case.source(name)] for name, _ in case.tensors}


def materialize(case: Case, values: dict[str, torch.Tensor], device: str, poison: int) -> Materials:
    """Place the values in the layouts of the case, each tensor in a buffer of its own or in the shared one.

    A tensor whose layout is ``same`` is the same object as the first one; its own values are not read.
    """
    owners: list[tuple[str, Owner]] = []
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[object, Owner] = {}
    for name, spec in case.tensors:
        if case.source(name) != name:
            tensors[name] = tensors[case.source(name)]
            continue
        place = spec.layout.place(spec.shape, SHARED_PARTS)
        key = buffer_of(spec)
        owner = shared.get(key)
        if owner is None:
            owner = _room(spec, place, device, poison)
            owners.append((name, owner))
            if key is not None:
                shared[key] = owner
        tensors[name] = _placed(owner, spec, values[name])
    arguments: Arguments = {**tensors, **{name: passed(name, value) for name, value in case.flags}}
    versions = {name: tensor._version for name, tensor in tensors.items()}  # noqa: SLF001 - torch's only word for it
    return Materials(case, arguments, tuple(owners), tuple(owner.content() for _, owner in owners), versions)


def _room(spec: TensorSpec, place: Placement, device: str, poison: int) -> Owner:
    """Return a buffer for the tensors of a placement.

    The buffer leaves out the memory between elements where that would be most of it.
    """
    size = getattr(torch, spec.dtype).itemsize
    if not spread(spec, place):
        return Owner.of(place.extent * size if _whole(spec) else 0, device, poison)
    offsets = torch.tensor(place.offset)
    for length, stride in zip(spec.shape, place.strides, strict=True):
        offsets = offsets[..., None] + torch.arange(length) * stride
    return Owner.spread(offsets * size, place.extent * size, device, poison)


def spread(spec: TensorSpec, place: Placement) -> bool:
    """Return whether a buffer would be gigabytes for very few elements."""
    return place.extent > FAR and place.extent > SPARSE * math.prod(spec.shape) > 0


def passed(name: str, value: Flag) -> Flag | torch.dtype:
    """Return a flag as it is passed: a case, being JSON, has names in place of dtypes."""
    return getattr(torch, str(value)) if name.endswith("dtype") else value


def buffer_of(spec: TensorSpec) -> tuple[object, ...] | None:
    """Return the key of the buffer that several tensors share; None for a tensor with a buffer of its own."""
    if spec.layout.kind == "shared":
        return "shared", spec.dtype, *spec.shape
    return ("slice", spec.dtype, spec.shape[0], spec.layout.width) if spec.layout.kind == "slice" else None


def _whole(spec: TensorSpec) -> bool:
    return all(spec.shape)


def _placed(owner: Owner, spec: TensorSpec, values: torch.Tensor) -> torch.Tensor:
    place = spec.layout.place(spec.shape, SHARED_PARTS)
    if not _whole(spec):
        return owner.raw[:0].view(values.dtype).as_strided(spec.shape, place.strides)
    tensor = owner.view(spec.shape, values.dtype, place)
    if tensor.stride() != place.strides:
        message = f"{spec}: drawn with strides {place.strides}, made with {tensor.stride()}"
        raise LayoutLost(message)
    _unexpanded(tensor, place.strides).copy_(_unexpanded(values, place.strides))
    return tensor


def _unexpanded(tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor with one of every group of elements that share memory."""
    for dim, stride in enumerate(strides):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _drawn(case: Case, name: str, spec: TensorSpec, device: str) -> torch.Tensor:
    # a seed of its own for every tensor, so that shrinking one leaves the others' values alone
    digest = hashlib.sha256(f"{case.seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    values = draw(spec.values, spec.shape, getattr(torch, spec.dtype), generator, device)
    strides = spec.layout.place(spec.shape).strides
    return _unexpanded(values, strides).expand(spec.shape).contiguous() if 0 in strides else values
