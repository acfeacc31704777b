"""The shortest way to launch a call like an earlier one: torch itself says, in C, whether its tensors are alike.

A key holds all that a decision depends on, and takes longer to make than a kernel to start. A shortcut belongs to
flags, and asks what compiled functions ask of their arguments: types, dtypes, device, sizes but one, strides,
whether a gradient is wanted, and what torch would dispatch them to, which tells negated views, function
transforms and modes apart. What no such question covers, it looks at itself: counts, alignment, memory that is
shared. A call that no shortcut fits goes the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from math import prod
from operator import itemgetter, mul
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import is_grad_enabled
from torch.autograd.graph import increment_version

from normkernels import launch
from normkernels.launch import ALIGNMENT

if TYPE_CHECKING:
    from normkernels.launch import Repeats

# A call's results; None where it is not like the one that the shortcut was made of. Any: as the operation has them
Again = Callable[..., Any]
Hold = Callable[..., None]

# The operation and its flags, and which tensors are there, or there twice; None of a call without shortcuts.
Like = tuple[Any, ...] | None

# Of one set of flags: widths of a model, with its ways to lie; the latest come first.
_MAX_ALIKE = 8
# Sets of flags.
_MAX_KNOWN = 1024
# Places of given outputs beside inputs, known to share nothing: a few for each layer of a model.
MAX_APART = 8192

# Forward-mode autograd's level is in the module, and changes there.
transforms: Any = torch.autograd.forward_ad
# Compiled functions depend on all of these, and there is no public question so short.
_guards: Any = getattr(torch._C._dynamo, "guards", None)  # noqa: SLF001
_TensorGuards: Any = getattr(_guards, "TensorGuards", None)


class Shortcut(NamedTuple):
    """What tells calls that are alike, what runs them, and the launches that it takes them from."""

    alike: Callable[..., bool]
    again: Again
    repeats: Repeats


_known: dict[Hashable, tuple[Shortcut, ...]] = {}
# The shortcuts of calls with the same flags: ``find(like, ())``.
find = _known.get
forget = _known.clear


def keep(
    like: Like,
    repeats: Repeats,
    given: Sequence[torch.Tensor],
    free: Sequence[int | None],
    make: Callable[[Callable[..., bool]], Again],
) -> None:
    """Keep what ``make`` makes of a question for tensors like those ``given``, unless there is one that fits.

    One of other ``repeats`` does not: a single row has launches of its own, and is alike to several. ``free`` has
    the dimension of each tensor whose size is a count. Before a last one that is, strides are free.
    """
    shortcuts = _known.get(like, ())
    if _TensorGuards is None or any(each.repeats is repeats and each.alike(*given) for each in shortcuts):
        return
    try:
        alike = _question(given, free)
    except (TypeError, RuntimeError):
        # a torch that is asked in another way
        return
    # a tensor that is there twice is not alike to itself
    if not alike(*given):
        return
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[like] = (Shortcut(alike, make(alike), repeats), *shortcuts[: _MAX_ALIKE - 1])


def _question(given: Sequence[torch.Tensor], free: Sequence[int | None]) -> Callable[..., bool]:
    """Return the question whether tensors are like ``given`` ones."""
    sizes: list[list[int | None]] = [list(each.shape) for each in given]
    strides: list[list[int | None]] = [list(each.stride()) for each in given]
    for size, stride, place in zip(sizes, strides, free, strict=True):
        if place is not None:
            size[place] = None
        if place == -1:
            stride[:] = [None] * len(stride)
    check: Callable[..., bool] = _TensorGuards(
        *given, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
    ).check
    return check


def contiguous(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of new memory whose sizes after the first are ``sizes``."""
    return tuple(accumulate(reversed(sizes), mul, initial=1))[::-1]


def empty_beside(x: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return what makes memory of sizes, strides and a dtype where ``x`` is, on the current device of its kind.

    What compiled functions call, for it takes half the time.
    """
    made: Callable[..., torch.Tensor] | None = getattr(_guards, f"_empty_strided_{x.device.type}", None)
    return made or (
        lambda sizes, strides, dtype: torch.empty_strided(sizes, strides, dtype=dtype, device=x.device)
    )


def fits(repeats: Repeats, x: torch.Tensor, beside: torch.Tensor | None, *, sums: bool | None) -> bool:
    """Whether a norm is launched directly, has several dimensions, and is not one of the sum of x and x."""
    return bool(repeats.ready) and x.dim() > 1 and not (sums and beside is x)


def any_wants_gradient(given: Sequence[torch.Tensor | None]) -> bool:
    """Whether somebody could ask for a gradient of a call, if gradients were enabled."""
    return any(each.requires_grad for each in given if each is not None)


# In what follows a tensor is looked at as few times as can be: each look takes as long as a few lines.


def keep_rows(
    like: Like,
    repeats: Repeats,
    x: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor | None,
    *,
    width: int,
    sums: bool | None,
) -> None:
    """Keep a shortcut for a norm with new outputs: of ``width`` columns a row, x and, unless it is x, ``beside``.

    ``sums`` says whether the sum of both is a second result; None: the kernel does not know of one.
    """
    if like is None or weight is None or not fits(repeats, x, beside, sums=sums):
        return
    lone = beside is None or beside is x
    given = [x, weight] if beside is None or beside is x else [x, weight, beside]
    wanted = any_wants_gradient(given)
    index, dtype, sizes = x.device.index, x.dtype, tuple(x.shape[1:])
    inner, strides, empty = prod(sizes), contiguous(sizes), empty_beside(x)
    per, fitting = inner // width, repeats.fitting

    def make(alike: Callable[..., bool]) -> Again:
        def again(x: torch.Tensor, beside: torch.Tensor, weight: torch.Tensor) -> object:
            if not (alike(x, weight) if lone else alike(x, weight, beside)):
                return None
            if transforms._current_level >= 0 or (wanted and is_grad_enabled()):  # noqa: SLF001
                return None
            count = x.shape[0]
            rows = count * per
            ready = fitting(rows)
            if ready is None or launch.current_device() != index:
                return None
            x_at, weight_at = x.data_ptr(), weight.data_ptr()
            if lone:
                beside_at = x_at
            elif beside.numel() != count * inner:
                return None
            else:
                beside_at = beside.data_ptr()
            if (x_at | weight_at | beside_at) % ALIGNMENT:
                return None
            shape = count, *sizes
            y = empty(shape, strides, dtype)
            y_at = total_at = y.data_ptr()
            total = None
            if sums:
                total = empty(shape, strides, dtype)
                total_at = total.data_ptr()
            if (y_at | total_at) % ALIGNMENT:
                return None
            if sums is None:
                ready.start((x_at, beside_at, weight_at, y_at), rows)
                return y
            ready.start((x_at, beside_at, weight_at, y_at, total_at if sums else x_at), rows)
            return (y, total) if sums else y

        return again

    keep(like, repeats, given, (0, None, 0)[: len(given)], make)


def keep_rows_into(
    like: Like,
    repeats: Repeats,
    x: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor | None,
    out: torch.Tensor | None,
    total: torch.Tensor | None,
    *,
    width: int,
    sums: bool | None,
    hold: Hold,
) -> None:
    """Keep a shortcut for a norm with given outputs; ``hold`` refuses those in memory that they may not share."""
    if like is None or weight is None or not fits(repeats, x, beside, sums=sums):
        return
    tensors = x, weight, beside, out, total
    # each once: its identity with others is among the flags
    order = sorted({id(each): at for at, each in reversed([*enumerate(tensors)]) if each is not None}.values())
    pick = itemgetter(*order)
    given: list[torch.Tensor] = [*pick(tensors)]
    wanted = any_wants_gradient(given)
    written = itemgetter(*(at for at in (3, 4) if tensors[at] is not None))
    index, dtype, sizes = x.device.index, x.dtype, tuple(x.shape[1:])
    inner, strides, empty = prod(sizes), contiguous(sizes), empty_beside(x)
    per, fitting = inner // width, repeats.fitting
    apart: set[tuple[int, ...]] = set()

    def make(alike: Callable[..., bool]) -> Again:
        def again(
            x: torch.Tensor,
            beside: torch.Tensor | None,
            weight: torch.Tensor,
            out: torch.Tensor | None,
            total: torch.Tensor | None,
        ) -> object:
            tensors = x, weight, beside, out, total
            if not alike(*pick(tensors)):
                return None
            if transforms._current_level >= 0 or (wanted and is_grad_enabled()):  # noqa: SLF001
                return None
            count = x.shape[0]
            rows, elements = count * per, count * inner
            ready = fitting(rows)
            if ready is None or launch.current_device() != index:
                return None
            x_at, weight_at = x.data_ptr(), weight.data_ptr()
            beside_at = out_at = total_at = x_at
            if beside is not None and beside is not x:
                if beside.numel() != elements:
                    return None
                beside_at = beside.data_ptr()
            if out is not None and out is not x:
                if out.numel() != elements:
                    return None
                out_at = out.data_ptr()
            if total is not None and total is not x:
                if total.numel() != elements:
                    return None
                total_at = total.data_ptr()
            if (x_at | weight_at | beside_at | out_at | total_at) % ALIGNMENT:
                return None
            places = rows, weight_at - x_at, beside_at - x_at, out_at - x_at, total_at - x_at
            if places not in apart:
                hold(like[0], x, weight, beside, out, total)
                if len(apart) >= MAX_APART:
                    apart.clear()
                apart.add(places)
            if out is None:
                out = empty((count, *sizes), strides, dtype)
                out_at = out.data_ptr()
            if sums and total is None:
                total = empty((count, *sizes), strides, dtype)
                total_at = total.data_ptr()
            if (out_at | total_at) % ALIGNMENT:
                return None
            increment_version(written(tensors))
            if sums is None:
                ready.start((x_at, beside_at, weight_at, out_at), rows)
                return out
            ready.start((x_at, beside_at, weight_at, out_at, total_at), rows)
            return (out, total) if sums else out

        return again

    keep(like, repeats, given, [None if at == 1 else 0 for at in order], make)
