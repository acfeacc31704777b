"""What shapes and strides say about memory: leading sizes that collapse, views that overlap."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from normkernels.plans import MAX_LEADING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Types of tensors that mean what their memory holds.
PLAIN = (torch.Tensor, torch.nn.Parameter)

# Steps after which the search for a shared byte gives up and says "may share".
_PATIENCE = 10_000
# Answers kept: calls in place ask the same of every layer.
_REMEMBERED = 4096

# Sizes, strides in elements, bytes of an element.
Place = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Leading:
    """The sizes before the last, and each tensor's strides over them."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


def leading(tensors: Sequence[torch.Tensor], width: int) -> Leading:
    """Collapse all sizes before the last ``width`` columns, jointly over ``tensors`` of one shape.

    Several groups of ``width`` columns, the last of which may be shorter, count as a size of their own.
    Sizes collapse by their strides alone, also a size of one: else a batch of one would need a kernel of
    its own.
    """
    *sizes, n = tensors[0].shape
    strides = [list(tensor.stride()[:-1]) for tensor in tensors]
    if n > width:
        sizes.append(-(-n // width))
        for tensor, steps in zip(tensors, strides, strict=True):
            steps.append(width * tensor.stride(-1))
    axes = list(zip(sizes, zip(*strides, strict=True), strict=True))
    collapsed = _collapse(axes)
    if len(collapsed) > MAX_LEADING:
        collapsed = _collapse([axis for axis in axes if axis[0] != 1])
    if not collapsed:
        collapsed = [(1, (width,) * len(tensors))]
    return Leading(
        tuple(size for size, _ in collapsed),
        tuple(zip(*(steps for _, steps in collapsed), strict=True)),
    )


def _collapse(axes: Sequence[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    """Merge neighbours among (size, strides) wherever every tensor walks both with one stride."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for size, steps in axes:
        if merged and merged[-1][1] == tuple(size * step for step in steps):
            size *= merged.pop()[0]  # noqa: PLW2901
        merged.append((size, steps))
    return merged


def fresh(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether strides are those of new memory, also along sizes of one, where a contiguous tensor's may differ."""
    if len(shape) == 2:
        return stride[1] == 1 and stride[0] == shape[1]
    step = 1
    for size, each in zip(reversed(shape), reversed(stride), strict=True):
        if each != step:
            return False
        step *= size
    return True


def by_heads(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return ``(tokens, heads * head_dim)`` as ``(tokens, heads, head_dim)``, and that as it is; never a copy."""
    return tensor if tensor.dim() == 3 else tensor.view(tensor.shape[0], tensor.shape[1] // head_dim, head_dim)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements may share memory: some stride is within the extent of the smaller ones."""
    return _overlaps(tensor.shape, tensor.stride())


@lru_cache(_REMEMBERED)
def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        return False
    reach = 0
    for step, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if step <= reach:
                return True
            reach += step * (size - 1)
    return False


def address(tensor: torch.Tensor) -> int:
    """Return where a tensor's memory is; 0 of one without: meta, fake, functionalised, batched or distributed."""
    try:
        # a fake tensor warns when it is asked, and its storage is on meta
        if type(tensor) not in PLAIN and tensor.untyped_storage().device.type == "meta":
            return 0
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def same_view(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same elements at the same places."""
    return (
        a.data_ptr() == b.data_ptr()
        and a.dtype == b.dtype
        and a.shape == b.shape
        and all(size == 1 or s == t for size, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))
    )


def may_share(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether some byte belongs to both tensors; exact, unless the search becomes too long.

    A byte of ``a`` is its start plus a sum of index * stride, one of ``b`` likewise. Counting ``b``'s
    indices down makes every coefficient positive: the question is whether bounded counts of known
    steps add up to the distance.
    """
    if a.numel() == 0 or b.numel() == 0 or a.device != b.device:
        return False
    start, other = address(a), address(b)
    if not start or not other:
        return False
    here, there = (a.shape, a.stride(), a.element_size()), (b.shape, b.stride(), b.element_size())
    distance = other - start
    # most pairs: one ends before the other begins
    if distance >= _extent(*here) or distance <= -_extent(*there):
        return False
    return _meet(distance, here, there)


@lru_cache(_REMEMBERED)
def _meet(distance: int, here: Place, there: Place) -> bool:
    """Whether elements meet that lie ``here`` and, ``distance`` bytes on, ``there``."""
    steps: Counter[int] = Counter()
    for shape, strides, element in (here, there):
        steps[1] += element - 1
        for step, size in zip(strides, shape, strict=True):
            steps[step * element] += size - 1
    return _adds_up(distance + _extent(*there) - 1, steps)


@lru_cache(_REMEMBERED)
def _extent(shape: tuple[int, ...], strides: tuple[int, ...], element: int) -> int:
    """Return the bytes from the first element to the end of the last."""
    return element * (1 + sum(step * (size - 1) for step, size in zip(strides, shape, strict=True)))


def _adds_up(distance: int, steps: Counter[int]) -> bool:
    """Whether ``distance`` is a sum of the steps, each taken at most its count; True when in doubt."""
    ordered = sorted((step, count) for step, count in steps.items() if step and count)
    # reach[i]: what the i smallest steps can cover
    reach = [0, *accumulate(step * count for step, count in ordered)]
    patience = _PATIENCE
    open_ends = [(distance, len(ordered))]
    while open_ends:
        rest, left = open_ends.pop()
        if not 0 <= rest <= reach[left]:
            continue
        patience -= 1
        if rest == 0 or patience < 0:
            return True
        step, count = ordered[left - 1]
        fewest = max(0, -(-(rest - reach[left - 1]) // step))
        most = min(count, rest // step)
        open_ends.extend((rest - taken * step, left - 1) for taken in range(fewest, most + 1))
    return False
