"""Mutants of keys that are marked as equivalent on a CPU keep apart what the keys keep apart.

A key of None, or one that fewer calls share, only has a call checked again: results and messages are the same,
and a host's time is all that changes. The package's tests count which calls are checked again.
"""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from conformance.prove.copies import ROOT, mutants
from conformance.prove.equivalent import equivalent, marks
from conformance.prove.mutants import Mutant

FUNCTIONS = {"rows.py": "RowNorm.key", "mrope.py": "Mrope.key"}
DTYPES = (torch.bfloat16, torch.float32)
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (4,),
    (1, 1),
    (1, 4),
    (4, 1),
    (2, 4),
    (3, 4),
    (0, 4),
    (4, 0),
    (2, 1),
    (3, 1),
)
SHAPES += ((1, 2, 4), (2, 1, 4), (2, 3, 4), (3, 2, 4), (1, 3, 4), (2, 3, 1), (4, 2, 3), (1, 1, 4))


class Another(torch.Tensor):
    """A tensor that may compute otherwise."""


@dataclass(frozen=True)
class Raised:
    """An exception of a key."""

    how: str


@dataclass(frozen=True)
class Call:
    """Arguments, and the mode in which they are given."""

    tensors: tuple[Any, ...]
    flags: tuple[Any, ...]
    mode: str = "usual"


def placed(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield tensors of one shape in several places of memory."""
    yield torch.empty(shape, dtype=dtype)
    yield torch.empty(shape, dtype=dtype, requires_grad=True)
    if shape:
        yield torch.empty((*shape[:-1], shape[-1] + 3), dtype=dtype)[..., : shape[-1]]
        yield torch.empty((*shape, 2), dtype=dtype)[..., 0]
        yield torch.empty(2000, dtype=dtype).as_strided(shape, tuple(range(3, 3 + len(shape))))
    if len(shape) > 1:
        yield torch.empty(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1])
        yield torch.empty((1, *shape[1:]), dtype=dtype).expand(shape)


def sliced() -> Iterator[torch.Tensor]:
    """Yield parts of one tensor, which all have its strides."""
    whole = torch.empty(4, 3, 8)
    for sizes in itertools.product((1, 2, 4), (1, 2, 3), (1, 4, 8)):
        yield whole[: sizes[0], : sizes[1], : sizes[2]]
        yield whole[: sizes[0], 0, : sizes[2]]


# what no kernel takes as it is
ODD: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda tensor: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()),
    torch._neg_view,
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.as_subclass(Another),
    torch.Tensor.to_sparse,
)


def odd(plain: tuple[Any, ...]) -> Iterator[Call]:
    """Yield calls of which one tensor is odd, or all are."""
    for kind in ODD:
        yield Call(tuple(None if each is None else kind(each) for each in plain), ())
        for place, each in enumerate(plain):
            if each is not None:
                yield Call((*plain[:place], kind(each), *plain[place + 1 :]), ())


def modes(tensors: tuple[Any, ...], flags: tuple[Any, ...]) -> Iterator[Call]:
    """Yield a call in every mode."""
    for mode in ("usual", "no_grad", "forward"):
        yield Call(tensors, flags, mode)


def norms() -> Iterator[Call]:
    """Yield calls of a norm of rows: x, weight, residual, out and residual_out."""
    flags = (0.0, 1e-6, None, "fp32")
    for shape in SHAPES:
        places, weight = list(placed(shape, DTYPES[0])), torch.empty(shape[-1:], dtype=DTYPES[0])
        for x, other in itertools.product(places, [None, *places]):
            yield Call((x, weight, other, None, None), flags)
            yield Call((x, None, None, other, None), flags)
            yield Call((x, weight, x, other, x), flags)
    for x in sliced():
        for vector in (None, torch.empty(4), torch.empty(8)):
            yield Call((x, vector, None, None, None), flags)
            yield Call((x, vector, x, None, None), flags)
            yield Call((x, vector, torch.empty(x.shape), None, x), flags)
    plain = (torch.empty(2, 4), torch.empty(4), torch.empty(2, 4), None, None)
    others = [torch.empty(shape) for shape in ((), (1,), (3,), (4, 1), (1, 4), (3, 4), (2, 3))]
    for place, given in itertools.product(
        range(5), [None, *others, *placed((2, 4), DTYPES[1]), *placed((4,), DTYPES[0])]
    ):
        yield from modes((*plain[:place], given, *plain[place + 1 :]), flags)
    for call in odd(plain):
        yield from modes(call.tensors, flags)
    kinds = ((0, 1e-6, None, "fp32"), (False, 1e-6, None, "fp32"), (0.0, 1e-5, None, "fp32"), (0.0, 1, None, "hf"))
    yield from (Call(plain, each) for each in kinds)


def rotations() -> Iterator[Call]:
    """Yield calls of a rotation: q, k, positions, cos and sin."""
    flags = ([1, 1, 2], None, True, None)
    tables = (torch.empty(16, 4), torch.empty(16, 4))

    def positions(tokens: int) -> torch.Tensor:
        return torch.zeros((3, tokens), dtype=torch.int64)

    heads = [(tokens, *rest) for tokens in (1, 2, 3, 4) for rest in ((1, 8), (2, 8), (3, 8), (4, 8), (8, 4))]
    for of_q, of_k in itertools.product(heads, heads):
        if of_q[0] in (of_k[0], 3):
            for tokens in sorted({of_q[0], of_k[0], 3}):
                yield Call((torch.empty(of_q), torch.empty(of_k), positions(tokens), *tables), flags)
    for shape in ((1, 8), (1, 16), (2, 8), (2, 16), (4, 8), (3, 8), (8, 8), (2, 3, 8), (1, 2, 8), (3, 3, 8)):
        for q, k in itertools.product(placed(shape, DTYPES[0]), placed(shape, DTYPES[0])):
            yield Call((q, k, positions(shape[0]), *tables), (flags[0], 8, *flags[2:]))
    for q, k in itertools.product(sliced(), sliced()):
        if len(q) == len(k):
            yield Call((q, k, positions(len(q)), *tables), flags)
    for sizes in ((), (3,), (3, 8), (3, 2, 8), (3, 2, 2, 8), (3, 1, 2, 1, 8)):
        for axes in ((), (3,), (1, 3), (3, 3), (3, 1, 3)):
            both = torch.empty(sizes)
            yield Call((both, both, torch.zeros(axes, dtype=torch.int64), *tables), flags)
    plain = (torch.empty(3, 2, 8), torch.empty(3, 1, 8), positions(3), *tables)
    others: list[torch.Tensor | None] = [None]
    others += [
        torch.empty(shape) for shape in ((), (3,), (3, 8), (3, 2, 8), (3, 2, 2, 8), (2, 2, 8), (16, 4), (16, 3))
    ]
    for of_positions in ((), (3,), (2,), (1, 3), (2, 3), (3, 3), (4, 3), (3, 2), (3, 1, 3), (1,)):
        others += [torch.zeros(of_positions, dtype=dtype) for dtype in (torch.int32, torch.int64)]
    others += [*placed((16, 4), DTYPES[1]), *placed((3, 2, 8), DTYPES[1])]
    for place in range(5):
        for given in others:
            yield from modes((*plain[:place], given, *plain[place + 1 :]), flags)
    for call in odd(plain):
        yield from modes(call.tensors, flags)
    for said in ([1, 1, 2], (1, 1, 2), [1, 2, 1], (True, 1, 2), [1, 1], 4, None):
        for rest in (
            (None, True, None),
            (8, True, None),
            (None, 1, None),
            (None, False, None),
            (None, True, "native"),
        ):
            yield Call(plain, (said, *rest))


CALLS = {"rows.py": tuple(norms()), "mrope.py": tuple(rotations())}


@cache
def every(file: str) -> dict[str, Mutant]:
    """Return the mutants of a file's key, by id."""
    return {m.id: m for m in mutants((f"operations/{file}",)) if m.function == FUNCTIONS[file]}


def made(file: str, mutant: Mutant | None = None) -> Callable[..., Hashable]:
    """Return the key function of a file, mutated or not."""
    name, source = (
        f"normkernels.operations.{file[:-3]}",
        (ROOT / f"normkernels/operations/{file}").read_text("utf-8"),
    )
    if mutant is not None:
        source = source[: mutant.start] + mutant.text + source[mutant.end :]
    module = types.ModuleType(name)
    exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102 - a mutant of our own source
    kind: Any = getattr(module, FUNCTIONS[file].partition(".")[0])
    key: Callable[..., Hashable] = kind.key
    return key


def keys(key: Callable[..., Hashable], calls: Iterable[Call]) -> Iterator[Hashable]:
    """Yield the key of every call; what was raised, where there is none. What cannot be hashed is not cached."""
    named = types.SimpleNamespace(name="an operation")
    modes = {"usual": contextlib.nullcontext, "no_grad": torch.no_grad, "forward": forward_ad.dual_level}
    for call in calls:
        with modes[call.mode]():
            try:
                found = key(named, call.tensors, call.flags)
                hash(found)
            except Exception as error:  # noqa: BLE001 - a mutant may raise anything
                found = None if "unhashable" in str(error) else Raised(repr(error))
        yield found


@cache
def right(file: str) -> list[Hashable]:
    """Return the keys that the calls of a file have."""
    return list(keys(made(file), CALLS[file]))


def merges(file: str, mutant: Mutant | None = None) -> str:
    """Return in words which calls a mutant's key does not keep apart although the original does, or nothing."""
    alike: dict[Hashable, Hashable] = {}
    pairs = zip(right(file), keys(made(file, mutant), CALLS[file]), strict=True)
    for number, (before, after) in enumerate(pairs):
        if (isinstance(after, Raised) and after != before) or (after is not None and before is None):
            return f"call {number}: {before} becomes {after}"
        if after is not None and alike.setdefault(after, before) != before:
            return f"call {number} has a key of others: {after}"
    return ""


@pytest.mark.parametrize("file", FUNCTIONS)
def test_marked_mutants_keep_calls_apart(file: str) -> None:
    """Exactly those mutants are marked whose calls with one key have one key in the original as well."""
    known = equivalent(every(file).values(), "cpu", marks())
    finer = {name for name, mutant in every(file).items() if not merges(file, mutant)}

    assert finer == known


@pytest.mark.parametrize("file", FUNCTIONS)
def test_the_keys_themselves_keep_calls_apart(file: str) -> None:
    """The key as it is merges nothing, and tells most of these calls apart."""
    assert "" == merges(file)
    assert len(set(right(file))) > 400
