"""The shortest way to launch a call like an earlier one, in C from the look at its tensors to its results.

A key holds all that a decision depends on, and takes longer to make than a kernel to start. A shortcut belongs to
flags, and asks what compiled functions ask of their arguments: types, dtypes, device, sizes but one, strides,
whether a gradient is wanted, and what torch would dispatch them to, which tells negated views, function
transforms and modes apart. What no such question covers, it looks at itself: counts, alignment, memory that is
shared. A call that no shortcut fits goes the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import accumulate
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from normkernels import direct, launch
from normkernels.describe_mrope import hold_in_place, hold_positions

if TYPE_CHECKING:
    from normkernels.fp8 import Quantisation
    from normkernels.launch import Repeats

# A shortcut, in C: a call's results, or None where it is not like the one that this was made of.
Again = Any
Hold = Callable[..., None]

# The operation and its flags, and which tensors are there, or there twice; None of a call without shortcuts.
Like = tuple[Any, ...] | None

# Of one set of flags: widths of a model, with its ways to lie; the latest come first.
_MAX_ALIKE = 8
# Sets of flags.
_MAX_KNOWN = 1024
# Places of given outputs beside inputs, known to share nothing: a few for each layer of a model.
_MAX_APART = 8192

_THREE = [int] * 3

# Forward-mode autograd's level is in the module, and changes there.
_autograd: Any = torch.autograd.forward_ad
# Half of what the public one takes, which looks whether it is given one tensor.
_increment: Any = getattr(torch._C, "_increment_version", torch.autograd.graph.increment_version)  # noqa: SLF001
# Compiled functions depend on all of these, and there is no public question so short.
_guards: Any = getattr(torch._C._dynamo, "guards", None)  # noqa: SLF001
_TensorGuards: Any = getattr(_guards, "TensorGuards", None)


class New(NamedTuple):
    """Memory that a call makes beside its first tensor, whose first size is its own."""

    sizes: tuple[int, ...]  # without the first
    strides: tuple[int, ...]
    dtype: torch.dtype
    last: int = 0  # one more stride, for each of the first size; 0: there is none


class Count(NamedTuple):
    """A number that a kernel is told: the first size times a factor, or a stride of a tensor."""

    slot: int  # -1: of the first size
    dimension: int
    factor: int


class Form(NamedTuple):
    """What calls that are alike have in common, but what torch says of their tensors.

    Slots are the arguments of a call; places are slots, then what it makes. A size that is ``free`` is a count,
    and the first tensor's first size; before a last one strides are free as well.
    """

    slots: Sequence[torch.Tensor | None]
    free: Sequence[int | None]  # of each slot
    counts: Sequence[Count]
    made: Sequence[New]
    pointers: Sequence[int]  # places, in the kernel's order
    results: Sequence[int]  # places
    written: Sequence[int] = ()  # slots
    look: Hold | None = None  # called with all slots, in each call
    hold: Hold | None = None  # called with all slots, once for each of where they lie


_known: dict[Hashable, tuple[Again, ...]] = {}
# The shortcuts of calls with the same flags: ``find(like, ())``.
find = _known.get
forget = _known.clear


def _keep(like: Like, repeats: Repeats, form: Form, *, lone: bool) -> None:
    """Keep a shortcut for calls of a form, unless there is one that fits; ``lone`` results are no tuple.

    One of other ``repeats`` does not fit: a single row has launches of its own, and is alike to several.
    """
    same = _same(form.slots)
    asked = [slot for slot, first in enumerate(same) if slot == first]
    given = [each for each in map(form.slots.__getitem__, asked) if each is not None]
    shortcuts = _known.get(like, ())
    if _TensorGuards is None or any(each.starts is repeats.starts and each.alike(*given) for each in shortcuts):
        return
    try:
        alike = _question(given, [form.free[slot] for slot in asked])
    except (TypeError, RuntimeError):
        # a torch that is asked in another way
        return
    if not alike(*given):
        return
    first = given[0]
    again = direct.built().Shortcut(
        alike=alike,
        settings=repeats.settings(),
        autograd=_autograd,
        gradient=torch.is_grad_enabled if any(each.requires_grad for each in given) else None,
        device_of=launch.current_device,
        device=first.device.index,
        starts=repeats.starts,
        empty=_empty_beside(first),
        look=form.look,
        hold=form.hold,
        held=set(),
        held_most=_MAX_APART,
        increment=_increment,
        same=same,
        sized=tuple(
            (slot, _elements(form.slots[slot], form.free[slot])) for slot in asked if form.free[slot] is not None
        ),
        counts=tuple(form.counts),
        made=tuple(form.made),
        pointers=tuple(form.pointers),
        anywhere=-1 if repeats.anywhere is None else repeats.anywhere,
        results=tuple(form.results),
        lone=lone,
        written=tuple(form.written),
    )
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[like] = (again, *shortcuts[: _MAX_ALIKE - 1])


def _same(slots: Sequence[torch.Tensor | None]) -> tuple[int, ...]:
    """Return for each slot the first that holds the same tensor, itself if none does; -1: it holds none."""
    firsts = {id(each): slot for slot, each in reversed([*enumerate(slots)]) if each is not None}
    return tuple(-1 if each is None else firsts[id(each)] for each in slots)


def _elements(tensor: torch.Tensor | None, free: int | None) -> int:
    """Return how many elements a tensor has for each of its size that is free."""
    assert tensor is not None
    assert free is not None
    return prod(tensor.shape) // tensor.shape[free]


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


def _contiguous(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of new memory whose sizes after the first are ``sizes``."""
    return tuple(accumulate(reversed(sizes), mul, initial=1))[::-1]


def _empty_beside(x: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return what makes memory of sizes, strides and a dtype where ``x`` is, on the current device of its kind.

    What compiled functions call, for it takes half the time.
    """
    made: Callable[..., torch.Tensor] | None = getattr(_guards, f"_empty_strided_{x.device.type}", None)
    return made or (
        lambda sizes, strides, dtype: torch.empty_strided(sizes, strides, dtype=dtype, device=x.device)
    )


def _like(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> New:
    """Return memory of the sizes of a tensor."""
    sizes = tuple(tensor.shape[1:])
    return New(sizes, _contiguous(sizes), dtype or tensor.dtype)


def keep_norm(
    like: Like,
    repeats: Repeats,
    x: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor | None,
    given: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    *,
    width: int,
    sums: bool | None,
    hold: Hold,
) -> None:
    """Keep a shortcut for a norm of ``width`` columns a row; ``given`` are y and the sum of x and ``beside``.

    ``sums`` says whether that sum is a second result; None: the kernel does not know of one. ``hold`` refuses
    given outputs in memory that they may not share.
    """
    if like is None or not repeats.starts or x.dim() < 2 or (sums and beside is x):
        return
    outputs = given != (None, None)
    slots = [x, beside, weight, *(given if outputs else ())]
    made: list[New] = []
    places = []
    for slot, each in enumerate(given if sums else given[:1], start=3):
        if each is None:
            made.append(_like(x))
        places.append(len(slots) + len(made) - 1 if each is None else slot)
    _keep(
        like,
        repeats,
        Form(
            slots,
            (0, 0, None, 0, 0),
            [Count(-1, 0, prod(x.shape[1:]) // width)],
            made,
            (0, 1, 2, *places, *((0,) if sums is False else ())),
            places,
            [place for place in places if place < len(slots)],
            hold=partial(hold, like[0]) if outputs else None,
        ),
        lone=not sums,
    )


def keep_norm_fp8(
    like: Like,
    repeats: Repeats,
    x: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor | None,
    *,
    how: Quantisation,
    spans: int,
    unquantised: bool,
    sums: bool | None,
) -> None:
    """Keep a shortcut for a norm with fp8 values and new outputs: its kernel counts ``spans`` for each row."""
    if like is None or not repeats.starts or x.dim() < 2 or (sums and beside is x):
        return
    sizes, rows = tuple(x.shape[1:]), prod(x.shape[1:-1])
    of_scales, columns = (*sizes[:-1], -(-sizes[-1] // how.group)), how.layout == "column"
    scales = New(of_scales, _contiguous(of_scales), torch.float32)
    if columns:
        scales = New(of_scales, _contiguous(sizes[:-1]), torch.float32, last=rows)
    made = [_like(x, how.dtype), scales, *[_like(x)] * (unquantised + bool(sums))]
    results = range(3, 3 + len(made))
    y = 5 if unquantised else 0
    total = () if sums is None else (results[-1] if sums else 0,)
    counts = [Count(-1, 0, rows * spans), *[Count(-1, 0, rows)] * columns]
    form = Form((x, beside, weight), (0, 0, None), counts, made, (0, 1, 2, 3, 4, y, *total), results)
    _keep(like, repeats, form, lone=False)


def like_rotation(operation: str, sections: Sequence[int], head_dim: int | None, interleaved: bool) -> Like:  # noqa: FBT001  # one call's cost
    """Return what rotations with the same flags have in common; None: their sections are no three integers."""
    if type(sections) in (tuple, list) and [*map(type, sections)] == _THREE:
        return operation, *sections, head_dim, interleaved
    return None


def keep_rotation(
    like: Like,
    repeats: Repeats,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    in_place: bool,
) -> None:
    """Keep a shortcut for a rotation."""
    q, k, positions = tensors[:3]
    if like is None or not repeats.starts or not q.numel() or not k.numel():
        return
    # those on a GPU cannot be looked at
    visible = positions.device.type == "cpu"
    outputs = (0, 1) if in_place else (5, 6)
    form = Form(
        tensors,
        (0, 0, -1, None, None),
        [Count(-1, 0, 1), Count(2, 0, 1), Count(2, -1, 1)],
        () if in_place else (_like(q), _like(k)),
        (0, 1, 2, 3, 4, *outputs),
        outputs,
        outputs if in_place else (),
        look=(lambda *slots: hold_positions(like[0], slots[2], slots[3])) if visible else None,
        hold=hold_in_place if in_place else None,
    )
    _keep(like, repeats, form, lone=False)
