"""Rotations are right in every layout and size of their tensors, in place or not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from conformance.package.calls import mrope
from conformance.package.calls.mrope import positions
from conformance.package.calls.tensors import DEVICE, Arguments, strided
from conformance.selftest.every import every
from normkernels import plans

HEAD_PATHS = ("heads", "native")
LOW = torch.bfloat16

Change = Callable[[Arguments], Arguments]


def laid_out(layout: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Return a function that gives q and k a layout."""
    return lambda arguments: arguments | {name: layout(arguments[name]) for name in ("q", "k")}


def step(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values in every second column."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1).flatten(-2)[..., ::2]


def one_on(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values, one element further on in memory."""
    memory = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype, device=DEVICE)
    return memory[1:].view(tensor.shape).copy_(tensor)


def halves(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same values as the halves of one cache."""
    first, second = torch.cat([cos, sin], -1).chunk(2, -1)
    return first, second


HEADS: dict[str, Change] = {
    "contiguous": laid_out(torch.clone),
    "views of one buffer": mrope.views_of_one_buffer,
    "gaps": laid_out(strided),
    "columns apart": laid_out(step),
    "heads first": laid_out(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
    "columns first": laid_out(lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0)),
    "one element on": laid_out(one_on),
    "q and k unlike": lambda arguments: arguments | {"q": strided(arguments["q"]), "k": step(arguments["k"])},
}


# Layouts in which two dimensions are a view of three.
FLATTENED = ("contiguous", "views of one buffer", "columns apart", "one element on")


POSITIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sliced": lambda at: torch.cat([at, at + 10**9], -1)[:, : at.shape[1]],
    "transposed": lambda at: at.t().contiguous().t(),
    "every second": lambda at: torch.stack([at, at + 10**9], -1).flatten(1)[:, ::2],
    "expanded axes": lambda at: at[:1].expand(3, -1),
    "text among others": lambda at: torch.where(torch.arange(at.shape[1], device=DEVICE) % 2 == 0, at[:1], at),
    "two axes as one": lambda at: at[torch.tensor([0, 0, 2], device=DEVICE)],
    "two other axes as one": lambda at: at[torch.tensor([0, 1, 0], device=DEVICE)],
    "expanded tokens": lambda at: at[:, :1].expand(-1, at.shape[1]),
    "int32": lambda at: at.int(),
    "one axis": lambda at: at[1],
    "one axis, int32 and transposed": lambda at: at.int().t().contiguous()[:, 1],
}


CACHES: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "two halves of one": halves,
    "of four dimensions": lambda cos, sin: (cos[:, None, None].flatten(1), sin[:, None, None].flatten(1)),
    "unlike": lambda cos, sin: (strided(cos), step(sin)),
    "rows apart": lambda cos, sin: (torch.cat([cos, cos])[::2].copy_(cos), sin),
    "one row": lambda cos, sin: (cos[:1].expand(cos.shape), sin),
    "columns first": lambda cos, sin: (cos.t().contiguous().t(), sin.t().contiguous().t()),
}


SHAPES = {
    "whole heads": ((28, 4), 128, 64),
    "one head each": ((1, 1), 64, 32),
    "more heads of k": ((2, 5), 64, 16),
    "heads past a block": ((17, 33), 8, 3),
    "no heads of k": ((3, 0), 64, 16),
    "no heads of q": ((0, 3), 64, 16),
    "odd columns": ((3, 2), 97, 13),
    "one column left": ((3, 2), 33, 16),
    "two columns": ((3, 2), 2, 1),
    "nothing rotated": ((3, 2), 64, 0),
    "widest": ((2, 1), plans.MAX_HEAD_DIM, 512),
}


def own(arguments: Arguments, change: Change) -> Arguments:
    """Return the call with q and k in fresh memory of the layout."""
    return change(arguments | {name: arguments[name].clone() for name in ("q", "k")})


@every("path", HEAD_PATHS)
@every(("layout", "rank"), [*((layout, 3) for layout in HEADS), *((layout, 2) for layout in FLATTENED)])
def test_every_layout_of_q_and_k(layout: str, rank: int, path: str) -> None:
    """The bits are those of contiguous tensors, also in place, where the gaps are not written."""
    plain = mrope.call(dtype=LOW)
    arguments = own(plain, HEADS[layout])
    if rank == 2:
        plain, arguments = mrope.flat(plain), mrope.flat(arguments)
    storages = {name: mrope.bits(whole(arguments[name])).clone() for name in ("q", "k")}
    wanted = mrope.run(plain | {"path": path})
    results = mrope.run(arguments | {"path": path})

    mrope.assert_right(plain, wanted)
    assert all(map(torch.equal, wanted, results))
    assert all(torch.equal(was, mrope.bits(whole(arguments[name]))) for name, was in storages.items())
    assert all(result.is_contiguous() for result in results)
    results = mrope.run(arguments | {"path": path}, "mrope_")
    assert (results[0] is arguments["q"], results[1] is arguments["k"]) == (True, True)
    assert all(map(torch.equal, wanted, results))
    for name, was in storages.items():
        # restore the rotated part: then all memory is unchanged
        arguments[name].copy_(plain[name])
        if layout != "views of one buffer" or name == "k":
            assert torch.equal(was, mrope.bits(whole(arguments[name])))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor's memory."""
    return tensor.new_empty(0).set_(tensor.untyped_storage())


@every("path", HEAD_PATHS)
@every("interleaved", [True, False])
@every("layout", POSITIONS)
def test_every_layout_of_positions(layout: str, interleaved: bool, path: str) -> None:  # noqa: FBT001
    """Positions may have any strides, either integer width, and three axes or one."""
    at = POSITIONS[layout](positions(5))
    arguments = mrope.call(positions=at, interleaved=interleaved, path=path)

    mrope.assert_right(arguments, mrope.run(arguments))


@every("path", HEAD_PATHS)
@every("layout", CACHES)
def test_every_layout_of_the_cache(layout: str, path: str) -> None:
    """The cache may have vLLM's layout, ATOM's, or any other strides."""
    plain = mrope.call(dtype=LOW, path=path)
    cos, sin = CACHES[layout](plain["cos"], plain["sin"])
    arguments = plain | {"cos": cos, "sin": sin}

    mrope.assert_right(arguments, mrope.run(arguments))


@every("path", HEAD_PATHS)
@every("interleaved", [True, False])
@every("shape", SHAPES)
def test_every_shape(shape: str, interleaved: bool, path: str) -> None:  # noqa: FBT001
    """Heads, columns and halves may fit no block, may be many, or may be none."""
    heads, head_dim, half = SHAPES[shape]
    third = half // 3
    arguments = mrope.call(3, heads, head_dim, half, sections=(half - 2 * third, third, third))
    arguments |= {"interleaved": interleaved, "path": path}
    again = own(arguments, laid_out(torch.clone))
    results = mrope.run(arguments)

    mrope.assert_right(arguments, results)
    assert all(map(torch.equal, results, mrope.run(again, "mrope_")))
