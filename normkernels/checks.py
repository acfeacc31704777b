"""Checks of arguments. Each returns, or raises ``InvalidCall`` with the given value and the requirement."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from numbers import Real

import torch
from torch.autograd import forward_ad

from normkernels.errors import InvalidCall

# Types of tensors whose memory contains their values as they are.
PLAIN = (torch.Tensor, torch.nn.Parameter)
LOW = (torch.bfloat16, torch.float16, torch.float32)
# Kernels take numbers as fp32.
_MAX = torch.finfo(torch.float32).max
# Steps after which the search for a shared byte gives up and says "may share".
_PATIENCE = 10_000

Tensors = Mapping[str, torch.Tensor]
# Sizes, strides in elements, bytes of an element.
Layout = tuple[tuple[int, ...], tuple[int, ...], int]


def choice(operation: str, name: str, value: object, allowed: Collection[object]) -> None:
    """Check that ``value`` is one of a fixed set; True is not 1 here."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise InvalidCall(f"{operation}: {name}={value!r}, must be one of {', '.join(map(repr, allowed))}")


def number(operation: str, name: str, value: object, least: float = -_MAX) -> float:
    """Return ``value`` as a float that is finite in float32."""
    found = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of an integer past float64
            found = float(value)
    if not least <= found <= _MAX:
        must = "a number that is finite in float32" if least else "a number, at least 0 and finite in float32"
        raise InvalidCall(f"{operation}: {name}={value!r}, must be {must}")
    return found


def is_count(value: object, least: int = 1) -> bool:
    """Return whether ``value`` is an integer, at least ``least``; True is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def tensors(operation: str, given: Mapping[str, object]) -> None:
    """Check that every argument is a strided tensor on one device, that of the first."""
    device, first = None, next(iter(given))
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidCall(f"{operation}: {name} is a {type(value).__name__}, must be a tensor")
        if value.layout is not torch.strided:
            raise InvalidCall(f"{operation}: {name} is {value.layout}, must be torch.strided")
        device = device or value.device
        if value.device != device:
            raise InvalidCall(f"{operation}: {name} is on {value.device}, must be on {first}'s device, {device}")


def dtype(operation: str, name: str, tensor: torch.Tensor, allowed: Collection[torch.dtype]) -> None:
    """Check a tensor's dtype."""
    if tensor.dtype not in allowed:
        names = ", ".join(dict.fromkeys(map(str, allowed)))
        raise InvalidCall(f"{operation}: {name} is {tensor.dtype}, must be one of {names}")


def shape(operation: str, name: str, tensor: torch.Tensor, wanted: tuple[int, ...], why: str) -> None:
    """Check a tensor's shape."""
    if tuple(tensor.shape) != wanted:
        raise InvalidCall(f"{operation}: {name} has shape {tuple(tensor.shape)}, must be {why}, {wanted}")


def outputs(
    operation: str, inputs: Tensors, given: Tensors, may_be: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Check that each given output has memory of its own, or that of a whole input that it ``may_be``.

    With a given output no argument may need a gradient.
    """
    taken = dict(inputs)
    for name, out in given.items():
        if needs := needs_gradient({**inputs, **given}):
            raise InvalidCall(f"{operation}: {name} is given, {needs} must not need a gradient then")
        own_memory(operation, name, out, taken, () if may_be is None else may_be[name])
        taken[name] = out


def own_memory(operation: str, name: str, out: torch.Tensor, taken: Tensors, may_be: Collection[str] = ()) -> None:
    """Check that ``out`` shares no memory, unless it is one of the tensors that it ``may_be``."""
    if overlaps_itself(out):
        raise InvalidCall(
            f"{operation}: {name} has strides {out.stride()}, no two of its elements may share memory"
        )
    for other, tensor in taken.items():
        if may_share(out, tensor) and not (other in may_be and same_view(out, tensor)):
            given = [each for each in may_be if each in taken]
            whole = f", or be {' or '.join(given)} as a whole" if given else ""
            raise InvalidCall(f"{operation}: {name} shares memory with {other}, must have its own{whole}")


def needs_gradient(given: Tensors) -> str | None:
    """Return the first argument that needs a gradient."""
    if not torch.is_grad_enabled():
        return None
    return next((name for name, tensor in given.items() if tensor.requires_grad), None)


def not_plain(given: Tensors) -> str | None:
    """Return the first argument whose memory does not contain its values as they are, with its kind."""
    for name, tensor in given.items():
        if type(tensor) not in PLAIN:
            return f"{name}, a {type(tensor).__name__}"
        if tensor.is_neg():
            return f"{name}, a negated view"
    return "a call under a function transform" if transformed() else None


# torch has no public function for it
_innermost_transform = torch._C._functorch.peek_interpreter_stack  # noqa: SLF001


def transformed() -> bool:
    """Return whether functorch or forward-mode autograd may hide more than values in a plain tensor."""
    return _innermost_transform() is not None or forward_mode()


def forward_mode() -> bool:
    """Return whether forward-mode autograd is on, for which torch has no public function."""
    return forward_ad._current_level >= 0  # noqa: SLF001


def present(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the tensors that are given."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Return whether two elements may share memory: some stride is within the extent of the smaller strides."""
    return not tensor.is_contiguous() and _overlaps(tensor.shape, tensor.stride())


@lru_cache(4096)
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
    """Return a tensor's address; 0 if it has no memory: meta, fake, functionalised, batched or distributed."""
    try:
        # a fake tensor warns when its address is read; its storage is on meta
        if type(tensor) not in PLAIN and tensor.untyped_storage().device.type == "meta":
            return 0
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def same_view(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors are the same elements in the same order."""
    return a is b or (
        a.data_ptr() == b.data_ptr()
        and a.dtype == b.dtype
        and a.shape == b.shape
        and all(size == 1 or s == t for size, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))
    )


def may_share(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether some byte belongs to both tensors; exact, unless the search becomes too long.

    A byte of ``a`` is its start plus a sum of index * stride, one of ``b`` likewise. Counting ``b``'s indices down
    makes every coefficient positive: the question is whether bounded counts of the steps add up to the distance.
    """
    if a.numel() == 0 or b.numel() == 0 or a.device != b.device:
        return False
    start, other = address(a), address(b)
    if not start or not other:
        return False
    if a.is_contiguous() and b.is_contiguous():
        return start < other + b.nbytes and other < start + a.nbytes
    here, there = (a.shape, a.stride(), a.element_size()), (b.shape, b.stride(), b.element_size())
    distance = other - start
    if distance >= _extent(*here) or distance <= -_extent(*there):
        return False
    return _meet(distance, here, there)


@lru_cache(4096)
def _meet(distance: int, here: Layout, there: Layout) -> bool:
    """Return whether two layouts share a byte; the second one begins ``distance`` bytes after the first."""
    unit = math.gcd(here[2], there[2], distance)  # a byte where elements do not lie on a common grid
    steps: Counter[int] = Counter()
    for shape, strides, element in (here, there):
        steps[1] += element // unit - 1
        for step, size in zip(strides, shape, strict=True):
            steps[step * element // unit] += size - 1
    return _adds_up((distance + _extent(*there)) // unit - 1, steps)


@lru_cache(4096)
def _extent(shape: tuple[int, ...], strides: tuple[int, ...], element: int) -> int:
    """Return the bytes from the first element to the end of the last."""
    return element * (1 + sum(step * (size - 1) for step, size in zip(strides, shape, strict=True)))


def _adds_up(distance: int, steps: Counter[int]) -> bool:
    """Return whether ``distance`` is a sum of the steps, each taken at most its count; True when in doubt."""
    ordered = sorted((step, count) for step, count in steps.items() if step and count)
    # of the i smallest steps: the most that they can cover, and what divides all of them
    reach = [0, *accumulate(step * count for step, count in ordered)]
    common = [0, *accumulate((step for step, _ in ordered), math.gcd)]
    patience = _PATIENCE
    open_ends = [(distance, len(ordered))]
    while open_ends:
        rest, left = open_ends.pop()
        if not 0 <= rest <= reach[left] or (left and rest % common[left]):
            continue
        patience -= 1
        if rest == 0 or patience < 0:
            return True
        step, count = ordered[left - 1]
        fewest = max(0, -(-(rest - reach[left - 1]) // step))
        # of this step so many that the smaller ones divide what is left
        every = max(1, common[left - 1] // common[left])
        fewest += (rest // common[left] * pow(step // common[left], -1, every) - fewest) % every
        most = min(count, rest // step)
        open_ends.extend((rest - taken * step, left - 1) for taken in range(fewest, most + 1, every))
    return False
