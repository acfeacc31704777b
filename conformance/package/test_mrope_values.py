"""MRoPE: every form is right on both paths, in place or not, with bits that depend on nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch

from conformance.package.calls.mrope import (
    MAX_POSITIONS,
    assert_right,
    bits,
    call,
    explain,
    flat,
    positions,
    run,
    views_of_one_buffer,
)
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values
from normkernels import plans
from normkernels.call import Device
from normkernels.launch import Launches
from normkernels.operations import mrope
from normkernels.operations.operation import OPERATIONS, reread_environment
from normkernels.plans import Plan

PATHS = ["heads", "native"]
LOW, HALF, FULL, DOUBLE = torch.bfloat16, torch.float16, torch.float32, torch.float64

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
    "views of one buffer": views_of_one_buffer,
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
# Conditions of the change this project starts from: positions on three axes, interleaved, heads of 256
# columns with 64 of them rotated, three dimensions. Each is changed alone, from the call that had them all.
CONDITIONS: dict[str, Callable[[torch.dtype], Arguments]] = {
    "all that was asked": lambda dtype: call(5, (6, 2), 256, 32, dtype),
    "one axis": lambda dtype: call(5, (6, 2), 256, 32, dtype, positions=positions(5)[2]),
    "not interleaved": lambda dtype: call(5, (6, 2), 256, 32, dtype, interleaved=False),
    "another head": lambda dtype: call(5, (6, 2), 128, 32, dtype),
    "other rotated columns": lambda dtype: call(5, (6, 2), 256, 64, dtype),
    "two dimensions": lambda dtype: flat(call(5, (6, 2), 256, 32, dtype)),
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


@pytest.mark.parametrize("dtype", [LOW, HALF, FULL], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_original_condition_is_right(condition: str, path: str, dtype: torch.dtype) -> None:
    """Each condition runs on the kernel by default, and is right there and on its former fallback."""
    arguments = CONDITIONS[condition](dtype)

    assert "heads" == explain(arguments).path
    assert_right(arguments, run(arguments | {"path": path}))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("layout", "rank"), [*((layout, 3) for layout in HEADS), *((layout, 2) for layout in FLATTENED)]
)
def test_every_layout_of_q_and_k(layout: str, rank: int, path: str) -> None:
    """The bits are those of contiguous tensors, also in place, where the gaps are not written."""
    plain = call(dtype=LOW)
    arguments = own(plain, HEADS[layout])
    if rank == 2:
        plain, arguments = flat(plain), flat(arguments)
    storages = {name: bits(whole(arguments[name])).clone() for name in ("q", "k")}
    wanted = run(plain | {"path": path})
    results = run(arguments | {"path": path})

    assert_right(plain, wanted)
    assert all(map(torch.equal, wanted, results))
    assert all(torch.equal(was, bits(whole(arguments[name]))) for name, was in storages.items())
    assert all(result.is_contiguous() for result in results)
    results = run(arguments | {"path": path}, "mrope_")
    assert (results[0] is arguments["q"], results[1] is arguments["k"]) == (True, True)
    assert all(map(torch.equal, wanted, results))
    for name, was in storages.items():
        # restore the rotated part: then all memory is unchanged
        arguments[name].copy_(plain[name])
        if layout != "views of one buffer" or name == "k":
            assert torch.equal(was, bits(whole(arguments[name])))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor's memory."""
    return tensor.new_empty(0).set_(tensor.untyped_storage())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("layout", POSITIONS)
def test_every_layout_of_positions(layout: str, interleaved: bool, path: str) -> None:  # noqa: FBT001
    """Positions may have any strides, either integer width, and three axes or one."""
    at = POSITIONS[layout](positions(5))
    arguments = call(positions=at, interleaved=interleaved, path=path)

    assert_right(arguments, run(arguments))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", CACHES)
def test_every_layout_of_the_cache(layout: str, path: str) -> None:
    """The cache may have vLLM's layout, ATOM's, or any other strides."""
    plain = call(dtype=LOW, path=path)
    cos, sin = CACHES[layout](plain["cos"], plain["sin"])
    arguments = plain | {"cos": cos, "sin": sin}

    assert_right(arguments, run(arguments))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtypes", list(product([LOW, HALF, FULL], repeat=2)), ids=str)
def test_every_dtype(dtypes: tuple[torch.dtype, torch.dtype], path: str) -> None:
    """Tensors q and k each have their own dtype; cos and sin each have q's dtype or fp32."""
    dtype, other = dtypes
    for cos, sin in product({dtype, FULL}, repeat=2):
        arguments = call(dtype=dtype, k=values("k", 5, 2, 64, dtype=other), path=path)
        arguments |= {"cos": arguments["cos"].to(cos), "sin": arguments["sin"].to(sin)}
        assert_right(arguments, run(arguments))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape: str, interleaved: bool, path: str) -> None:  # noqa: FBT001
    """Heads, columns and halves may fit no block, may be many, or may be none."""
    heads, head_dim, half = SHAPES[shape]
    third = half // 3
    arguments = call(3, heads, head_dim, half, sections=(half - 2 * third, third, third))
    arguments |= {"interleaved": interleaved, "path": path}
    again = own(arguments, laid_out(torch.clone))
    results = run(arguments)

    assert_right(arguments, results)
    assert all(map(torch.equal, results, run(again, "mrope_")))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    "sections", [(16, 0, 0), (0, 16, 0), (0, 0, 16), (4, 9, 3), (1, 1, 14), (6, 5, 5)], ids=str
)
def test_any_three_sections(sections: tuple[int, int, int], interleaved: bool, path: str) -> None:  # noqa: FBT001
    """A section may be zero, or longer than interleaving has frequencies for; a list works like a tuple."""
    arguments = call(sections=sections, interleaved=interleaved, path=path)
    results = run(arguments | {"sections": list(sections)})

    assert_right(arguments, results)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_rotated_keeps_its_bits(path: str) -> None:
    """NaN payloads, infinities and signs of zero are copied; a NaN among the rotated stays in its pair."""
    arguments = call(dtype=LOW, path=path)
    kept = torch.tensor([0x7F81, 0xFFC3, 0x7F80, 0xFF80, 0x8000, 0x0001], device=DEVICE, dtype=torch.int32)
    for name in ("q", "k"):
        arguments[name].view(torch.int16)[..., 40:46] = kept.to(torch.int16)
    results = run(arguments)

    assert_right(arguments, results)
    arguments["q"][2, 1, 5] = torch.nan
    found = run(arguments)[0][..., :32].isnan().nonzero().tolist()
    assert [[2, 1, 5], [2, 1, 21]] == found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(0, (6, 2), 64), (0, (0, 0), 64), (5, (0, 0), 64), (5, (3, 2), 0)], ids=str)
def test_empty_tensors_give_empty_results(shape: tuple[int, tuple[int, int], int], path: str) -> None:
    """Calls without tokens, heads or columns give empty results, in both ranks."""
    tokens, heads, head_dim = shape
    arguments = call(tokens, heads, head_dim, min(head_dim // 4, 16), path=path)
    for each in (arguments, flat(arguments)) if head_dim else (arguments,):
        wanted = [tuple(each[name].shape) for name in ("q", "k")]
        assert wanted == [tuple(result.shape) for result in run(each)]
        assert run(each, "mrope_")[0] is each["q"]


def test_an_empty_cache_serves_no_token() -> None:
    """A call without tokens accepts an empty cache."""
    arguments = call(0, cos=values("cos", 0, 16), sin=values("sin", 0, 16))

    assert (0, 6, 64) == run(arguments)[0].shape


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("path", PATHS)
def test_positions_outside_the_cache_make_nan(path: str, axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotated part of such a token is NaN, on any axis; its rest and all other tokens are unaffected.

    The CPU refuses such a call; without the refusal the test sees a GPU's result.
    """
    monkeypatch.setattr(mrope.Mrope, "check_values", lambda *_: None)
    outside = {1: -1, 3: MAX_POSITIONS, 4: 2**40, 6: -(2**63)}
    plain = call(8, path=path)
    inside = [token for token in range(8) if token not in outside]
    for shift in range(axes):
        at = plain["positions"].clone()
        for token, position in outside.items():
            at[(token + shift) % 3, token] = position
        if axes == 1:
            at = at[0].clone()
            at[list(outside)] = torch.tensor(list(outside.values()), device=DEVICE)
        q, k = run(plain | {"positions": at})
        arguments = {name: plain[name][inside] for name in ("q", "k")} | {"positions": at[..., inside]}

        assert all(x[list(outside), :, :32].isnan().all() for x in (q, k))
        assert torch.equal(plain["q"][..., 32:], q[..., 32:])
        assert_right(plain | arguments, (q[inside], k[inside]))
    # a cache without rows has no position inside
    empty = plain | {"cos": values("cos", 0, 16), "sin": values("sin", 0, 16)}
    assert run(empty)[0][..., :32].isnan().all()


@pytest.mark.parametrize("heads", [(6, 2), (1, 1), (20, 3)], ids=str)
def test_bits_do_not_depend_on_batch_or_plan(
    heads: tuple[int, int], launched: list[plans.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token has the same bits alone, in a batch, and with any plan table."""
    batch = call(70, heads)
    alone = {name: batch[name][17:18] for name in ("q", "k")} | {"positions": batch["positions"][:, 17:18]}
    wanted = run(batch)

    assert_right(batch, wanted)
    assert all(map(torch.equal, (each[17:18] for each in wanted), run(batch | alone)))
    device = Device.of(batch["q"])
    for scale in (10**4, 1):
        table = dataclasses.replace(device.table, scale=scale, max_programs=8)
        other = dataclasses.replace(device, table=table)
        monkeypatch.setattr(Device, "of", lambda _tensor, other=other: other)
        reread_environment()
        assert all(map(torch.equal, wanted, run(batch)))
        assert explain(batch).plan == launched[-1]
    assert len({launched[0], *launched[-2:]}) > 1


def _planned(plan: Plan, _tokens: int) -> Plan:
    return plan


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("ahead", [32, 1024])
def test_bits_do_not_depend_on_how_heads_are_shared(
    ahead: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any split of heads among programs, with all or some loaded ahead, gives the same bits, text or not."""
    monkeypatch.setattr(mrope, "AHEAD_BYTES", ahead)
    batch = call(5, (19, 3), 64, 32, HALF)
    batch["positions"][:, ::3] = batch["positions"][:1, ::3]
    wanted = run(batch | {"path": "native"})
    given = [batch[name] for name in ("positions", "cos", "sin")]
    flags = {"sections": batch["sections"], "head_dim": 64, "interleaved": True}
    copied, over = OPERATIONS["mrope"], OPERATIONS["mrope_"]

    assert_right(batch, wanted)
    for programs in (1, 12):
        plan = Plan("shared", tokens, 0, warps=1, heads=2, programs=programs)
        q, k = batch["q"], batch["k"]
        outs = torch.full_like(q, torch.nan), torch.full_like(k, torch.nan)
        in_place = q.clone(), k.clone()
        for operation, results, sources in ((copied, outs, (q, k)), (over, in_place, in_place)):
            buffers = [*sources, *given, *results]
            _, args = operation.arguments(flags, buffers, plan)
            arguments = partial(operation.arguments, flags)
            launches = Launches(q.device, partial(_planned, plan), arguments)
            launches.start(buffers, operation.counts(buffers, flags))
            assert all(map(torch.equal, wanted, results))
            assert programs > 1 or (args["Q_BLOCKS"] > args["AHEAD"]) == (ahead == 32)


def test_native_is_what_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """``path="native"`` runs the native form."""
    marks = (torch.full((1,), 7.0), torch.full((1,), 8.0))
    monkeypatch.setattr(mrope, "native", lambda *_args, **_flags: marks)

    assert run(call(path="native"))[0] is marks[0]
    assert run(call(path="heads"))[0] is not marks[0]


@pytest.mark.parametrize("path", PATHS)
def test_autograd_sees_what_was_written_in_place(path: str) -> None:
    """A backward that needs overwritten values raises instead of using the new ones."""
    arguments = call(path=path)
    scale = values("scale", 64).requires_grad_()
    loss = (arguments["q"] * scale).sum() + (arguments["k"] * scale).sum()
    run(arguments, "mrope_")

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tensors_of_inference_mode_are_rotated_in_place() -> None:
    """Tensors of inference mode have no version counter."""
    with torch.inference_mode():
        arguments = call()
        wanted = run(arguments)
        assert all(map(torch.equal, wanted, run(arguments, "mrope_")))


def test_float64_is_rotated_in_float64() -> None:
    """Narrower tensors may be in the same call."""
    arguments = call(dtype=DOUBLE)
    arguments |= {"sin": arguments["sin"].float()}
    assert_right(arguments, run(arguments))


def test_gradients_are_those_of_the_formula() -> None:
    """The native path gives the gradients of q, k, cos and sin."""
    plain = call(3, (2, 1), 8, 3, DOUBLE, sections=(1, 1, 1))
    # a cache of few rows: each of its elements costs a call
    plain |= {"positions": plain["positions"] % 6, "cos": plain["cos"][:6], "sin": plain["sin"][:6]}
    names = ("q", "k", "cos", "sin")

    def both(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return run(plain | dict(zip(names, given, strict=True)))

    assert torch.autograd.gradcheck(both, [plain[name].requires_grad_() for name in names])
