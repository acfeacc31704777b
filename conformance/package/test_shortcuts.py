"""A shortcut is taken by calls like an earlier one, and by no other: those go the long way, as the first did.

No GPU is needed: see ``test_launch``, whose stand-in for one this is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import normkernels
from conformance.package.gated_calls import DEVICE
from conformance.package.test_launch import Gpu, gpu, rows_of
from normkernels import routes, shortcuts

__all__ = ["gpu"]  # a fixture

FP8 = torch.float8_e4m3fn


def rotation(tokens: int = 24) -> dict[str, Any]:
    """Arguments of a rotation, whose q and k are views of one buffer."""
    qkv, cache = torch.ones(tokens, 8 * 64, device=DEVICE), torch.ones(64, 32, device=DEVICE)
    q, k = qkv[:, :384].view(tokens, 6, 64), qkv[:, 384:].view(tokens, 2, 64)
    positions = torch.zeros(3, tokens, dtype=torch.int64, device=DEVICE)
    cos, sin = cache.chunk(2, -1)
    return {"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin, "sections": (8, 4, 4)}


def positions_elsewhere(tokens: int = 24) -> dict[str, Any]:
    """Arguments of a rotation of the last tokens of longer positions, eight bytes from where others begin."""
    longer = torch.zeros(3, 65, dtype=torch.int64, device=DEVICE)
    return rotation(tokens) | {"positions": longer[:, 1 : 1 + tokens]}


def gated(rows: int = 24) -> dict[str, Any]:
    """Arguments of a gated norm."""
    return rows_of(rows) | {"gate": torch.ones(rows, 128, device=DEVICE)}


def residual(rows: int = 24) -> dict[str, Any]:
    """Arguments of a norm of a sum."""
    return rows_of(rows) | {"residual": torch.ones(rows, 128, device=DEVICE)}


def in_place(rows: int = 24) -> dict[str, Any]:
    """Arguments of a norm of a sum, each written over what it is made of."""
    arguments = residual(rows)
    return arguments | {"out": arguments["x"], "residual_out": arguments["residual"]}


def three(rows: int = 24) -> dict[str, Any]:
    """Arguments of a norm with two leading sizes."""
    return rows_of(rows) | {"x": torch.ones(rows, 2, 128, device=DEVICE)}


def same_gate(rows: int = 24) -> dict[str, Any]:
    """Arguments of a norm gated by itself."""
    arguments = rows_of(rows)
    return arguments | {"gate": arguments["x"]}


CALLS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "rms_norm": ("rms_norm", rows_of),
    "of three dimensions": ("rms_norm", three),
    "residual": ("rms_norm", residual),
    "in place": ("rms_norm", in_place),
    "into others": ("rms_norm", lambda rows=24: residual(rows) | {"out": residual(rows)["x"]}),
    "sum into others": ("rms_norm", lambda rows=24: residual(rows) | {"residual_out": residual(rows)["x"]}),
    "gemma": ("gemma_rms_norm", residual),
    "gemma in place": ("gemma_rms_norm", in_place),
    "gated": ("rms_norm_gated", gated),
    "gated by itself": ("rms_norm_gated", same_gate),
    "no weight": ("rms_norm", lambda rows=24: rows_of(rows) | {"weight": None}),
    "fp8 of no weight": ("rms_norm_fp8", lambda rows=24: rows_of(rows) | {"weight": None, "fp8_dtype": FP8}),
    "gated into another": ("rms_norm_gated", lambda rows=24: gated(rows) | {"out": rows_of(rows)["x"]}),
    "fp8": ("rms_norm_fp8", lambda rows=24: residual(rows) | {"fp8_dtype": FP8, "also_unquantised": True}),
    "fp8 columns": ("rms_norm_fp8", lambda rows=24: three(rows) | {"fp8_dtype": FP8, "scale_layout": "column"}),
    "gated fp8": ("rms_norm_gated_fp8", lambda rows=24: gated(rows) | {"fp8_dtype": FP8, "quant_group": 32}),
    "mrope": ("mrope", rotation),
    "mrope_": ("mrope_", rotation),
    "mrope_ of positions elsewhere": ("mrope_", positions_elsewhere),
}


def call(operation: str, arguments: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Make a call; its results."""
    results = getattr(normkernels, operation)(**arguments)
    return results if isinstance(results, tuple) else (results,)


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the operation of each call that asks for its route."""
    seen: list[str] = []
    for name in ("key", "rotation_key"):
        whole = getattr(routes, name)

        def noted(operation: str, *args: Any, _whole: Any = whole) -> Any:
            seen.append(operation)
            return _whole(operation, *args)

        monkeypatch.setattr(routes, name, noted)
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_a_call_like_another_takes_the_shortcut(name: str, gpu: Gpu, long_ways: list[str]) -> None:
    """With as many rows, or fewer than some; what it returns, and is launched with, is what the long way has."""
    operation, arguments = CALLS[name]
    for rows in (30, 9):
        call(operation, arguments(rows))
    given = arguments()
    long_ways.clear()
    gpu.starts.clear()
    short = call(operation, given)
    assert [] == long_ways
    shortcuts.forget()
    long = call(operation, given)
    assert 1 == len(long_ways)

    first, second = gpu.starts
    assert first.directly
    assert second.directly
    assert (first.compiled, first.grid) == (second.compiled, second.grid)
    for one, other in zip(short, long, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert (one.device, one.requires_grad, type(one)) == (other.device, other.requires_grad, type(other))
    places = [{each.data_ptr(): f"result {at}" for at, each in enumerate(results)} for results in (short, long)]
    assert len(first.args) == len(second.args)
    assert [places[0].get(each, each) if type(each) is int else each for each in first.args] == [
        places[1].get(each, each) if type(each) is int else each for each in second.args
    ]


@pytest.mark.parametrize("name", ["in place", "into others", "sum into others", "gated into another", "mrope_"])
def test_what_is_written_gets_a_new_version(name: str, gpu: Gpu, long_ways: list[str]) -> None:
    """Once for each call, whichever way it goes."""
    operation, arguments = CALLS[name]
    given = arguments()
    written = [given[each] for each in ("out", "residual_out", "q", "k") if each in given]
    steps = []
    for _ in range(3):
        before = [each._version for each in written]
        call(operation, given)
        steps.append([each._version - was for each, was in zip(written, before, strict=True)])

    assert 1 == len(long_ways)
    assert steps[0] == steps[1] == steps[2]
    assert all(step > 0 for step in steps[0])


def fewer(tensor: torch.Tensor) -> torch.Tensor:
    """Return all rows but the last."""
    return tensor[:-1]


def shifted(arguments: dict[str, Any]) -> dict[str, Any]:
    """An output that begins in the second row of x."""
    room = torch.ones(25, 128, device=DEVICE)
    return {"x": room[:-1], "out": room[1:], "residual": arguments["residual"]}


# Calls that have no meaning, beside one that has: the operation, which arguments are others, and what is said.
BAD: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "fewer rows beside": ("residual", lambda a: {"residual": fewer(a["residual"])}, "residual has shape"),
    "fewer rows of a gate": ("gated", lambda a: {"gate": fewer(a["gate"])}, "gate has shape"),
    "fewer rows of an output": ("into others", lambda a: {"out": fewer(a["out"])}, "out has shape"),
    "fewer rows of a sum": ("sum into others", lambda a: {"residual_out": fewer(a["residual_out"])}, "has shape"),
    "fewer rows beside fp8": ("fp8", lambda a: {"residual": fewer(a["residual"])}, "residual has shape"),
    "fewer tokens": ("mrope", lambda a: {"k": fewer(a["k"])}, "k has shape"),
    "fewer positions": ("mrope", lambda a: {"positions": a["positions"][:, :-1]}, "positions has shape"),
    "a true eps": ("rms_norm", lambda _: {"eps": True}, "eps"),
    "a true size": ("gated fp8", lambda _: {"quant_group": True}, "quant_group"),
    "true sections": ("mrope", lambda _: {"sections": (True, 7, 8)}, "sections"),
    "other sections": ("mrope", lambda _: {"sections": [8, 4, 3]}, "sections"),
    "a list for a word": ("rms_norm", lambda _: {"rounding": ["fp32"]}, "rounding"),
    "no weight": ("gemma", lambda _: {"weight": None}, "weight"),
    "k in q": ("mrope_", lambda a: {"k": a["q"][:, :2]}, "k shares memory with q"),
    "an output in the weight": ("into others", lambda a: {"weight": a["out"][0]}, "out shares memory with weight"),
    "an output a row on": ("into others", shifted, "out shares memory with x"),
    "a sum in the output": ("in place", lambda a: {"residual_out": a["out"]}, "shares memory with"),
    "another device": ("rms_norm", lambda a: {"weight": a["weight"].to("meta")}, "device"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_refused_beside_a_good_one(name: str, gpu: Gpu) -> None:
    """With what the first call of all would say; the good one is launched as before."""
    kind, others, said = BAD[name]
    operation, arguments = CALLS[kind]
    given = arguments()
    for _ in range(2):
        call(operation, given)
    bad = given | others(given)
    with pytest.raises(normkernels.InvalidCall, match=said) as refused:
        call(operation, bad)
    routes.reread_environment()
    with pytest.raises(normkernels.InvalidCall) as first:
        call(operation, bad)

    assert str(first.value) == str(refused.value)
    assert [False, True] == [start.directly for start in gpu.starts]


# Flags of a good call, and of a bad one that are equal to them.
EQUAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "eps": ("rms_norm", {"eps": 1.0}, {"eps": True}),
    "eps of fp8": ("fp8", {"eps": 1.0}, {"eps": True}),
    "weight_offset": ("rms_norm", {"weight_offset": 1.0}, {"weight_offset": True}),
    "group_size": ("gated", {"group_size": 1}, {"group_size": True}),
    "quant_group": ("fp8", {"quant_group": 1}, {"quant_group": True}),
    "sections": ("mrope", {"sections": (1, 11, 4)}, {"sections": (True, 11, 4)}),
    "head_dim": ("mrope", {"head_dim": 64}, {"head_dim": 64.0}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_flags_that_are_equal_are_not_the_same(name: str, gpu: Gpu) -> None:
    """True is no number, and 64.0 no size."""
    kind, good, bad = EQUAL[name]
    operation, arguments = CALLS[kind]
    for _ in range(2):
        call(operation, arguments() | good)
    with pytest.raises(normkernels.InvalidCall):
        call(operation, arguments() | bad)

    assert [False, True] == [start.directly for start in gpu.starts]


def apart(rows: int = 24) -> dict[str, Any]:
    """Arguments of a norm of rows with gaps."""
    return rows_of(rows) | {"x": torch.ones(rows, 144, device=DEVICE)[:, :128]}


def flat_rotation(tokens: int = 24) -> dict[str, Any]:
    """Arguments of a rotation whose tokens are rows of heads."""
    given = rotation(tokens)
    rows = {name: given[name].as_strided((tokens, given[name].shape[1] * 64), (8 * 64, 1)) for name in ("q", "k")}
    return given | rows | {"head_dim": 64}


@pytest.mark.parametrize(
    ("operation", "arguments"), [("rms_norm", apart), ("mrope", flat_rotation), ("mrope_", flat_rotation)]
)
def test_one_row_after_several_takes_a_shortcut_of_its_own(
    operation: str, arguments: Callable[..., dict[str, Any]], gpu: Gpu, long_ways: list[str]
) -> None:
    """As decoding does after a prefill: it is like them in all but its launch. And they keep theirs."""
    for rows in (24, 24, 1):
        call(operation, arguments(rows))
    long_ways.clear()
    gpu.starts.clear()
    for rows in (1, 24, 1):
        call(operation, arguments(rows))

    assert [] == long_ways
    assert [True] * 3 == [start.directly for start in gpu.starts]


def test_a_weight_is_there_or_it_is_not(gpu: Gpu, long_ways: list[str]) -> None:
    """Two shortcuts with the same flags, for kernels of their own."""
    calls = [rows_of(), rows_of() | {"weight": None}]
    for arguments in calls * 2:
        call("rms_norm", arguments)
    first, second, *again = gpu.starts

    assert 2 == len(long_ways)
    assert [True, True] == [start.directly for start in again]
    assert [first.compiled, second.compiled] == [start.compiled for start in again]


def test_places_that_are_remembered_are_few(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many buffers there are to write into."""
    monkeypatch.setattr(shortcuts, "_MAX_APART", 3)
    room, given = torch.ones(20, 24, 128, device=DEVICE), rows_of()
    for out in (*room, *room):
        call("rms_norm", given | {"out": out})
    ((again,),) = shortcuts._known.values()

    assert 39 == sum(start.directly for start in gpu.starts)
    assert 1 <= len(again.held) <= 3


def test_other_sizes_take_the_long_way(gpu: Gpu, long_ways: list[str]) -> None:
    """Of the same strides: one column block of two."""
    given = three()
    for _ in range(2):
        call("rms_norm", given)
    call("rms_norm", given | {"x": given["x"][:, :1]})

    assert ["rms_norm"] * 2 == long_ways
    assert [False, True, False] == [start.directly for start in gpu.starts]


class Labelled(torch.Tensor):
    """A tensor of another type."""


def negated(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view whose memory holds the opposite of its values."""
    return torch._neg_view(tensor)


# Calls that go elsewhere than one with the same flags, sizes and strides, and need a look that no size tells.
ELSEWHERE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a subclass": lambda a: normkernels.rms_norm(**a | {"x": a["x"].as_subclass(Labelled)}),
    "a subclass beside": lambda a: normkernels.rms_norm(**a | {"residual": a["residual"].as_subclass(Labelled)}),
    "a negated view": lambda a: normkernels.rms_norm(**a | {"x": negated(a["x"])}),
    "a negated view beside": lambda a: normkernels.rms_norm(**a | {"residual": negated(a["residual"])}),
    "a gradient": lambda a: normkernels.rms_norm(**a | {"x": a["x"].clone().requires_grad_()}),
    "a gradient of the weight": lambda a: normkernels.rms_norm(**a | {"weight": torch.nn.Parameter(a["weight"])}),
    "under vmap": lambda a: torch.vmap(lambda x: normkernels.rms_norm(**a | {"x": x}))(torch.stack([a["x"]] * 2)),
    "beside vmap": lambda a: torch.vmap(lambda x: (x, normkernels.rms_norm(**a)))(torch.ones(2, device=DEVICE)),
    "beside jvp": lambda a: torch.func.jvp(
        lambda x: normkernels.rms_norm(**a | {"x": a["x"] * x})[0],
        (torch.ones((), device=DEVICE),),
        (torch.ones((), device=DEVICE),),
    ),
    "asked for": lambda a: normkernels.rms_norm(**a, path="native"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_call_that_goes_elsewhere_still_does(name: str, gpu: Gpu) -> None:
    """Nothing is launched for it."""
    given = residual()
    for _ in range(2):
        call("rms_norm", given)
    with torch.enable_grad():
        ELSEWHERE[name](given)

    assert [False, True] == [start.directly for start in gpu.starts]


def test_gradients_are_looked_for_in_each_call(gpu: Gpu) -> None:
    """A weight that has one is common where nobody asks for it, and only there."""
    given = rows_of() | {"weight": torch.nn.Parameter(torch.ones(128, device=DEVICE))}
    with torch.no_grad():
        for _ in range(2):
            call("rms_norm", given)
    assert [False, True] == [start.directly for start in gpu.starts]
    (y,) = call("rms_norm", given)

    assert y.requires_grad
    assert 2 == len(gpu.starts)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_dual_numbers_go_the_long_way(gpu: Gpu, long_ways: list[str]) -> None:
    """Forward-mode autograd may hide a tangent in any tensor, and nothing of a tensor tells."""
    given = residual()
    for _ in range(2):
        call("rms_norm", given)
    with torch.autograd.forward_ad.dual_level():
        x = given["x"]
        given["x"] = torch.autograd.forward_ad.make_dual(x, x)  # type: ignore[no-untyped-call]  # no types in torch
        call("rms_norm", given)

    assert ["rms_norm"] * 2 == long_ways
    assert 2 == len(gpu.starts)


def test_a_list_of_sections_is_read_in_each_call(gpu: Gpu, long_ways: list[str]) -> None:
    """It may have been changed in between."""
    given = rotation() | {"sections": [8, 4, 4]}
    for _ in range(2):
        call("mrope", given)
    assert 1 == len(long_ways)
    given["sections"][:2] = 4, 8
    call("mrope", given)

    assert [False, True, False] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("name", ["rms_norm", "residual", "in place", "fp8", "mrope"])
def test_another_current_device_takes_the_long_way(
    name: str, gpu: Gpu, long_ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is made on the current one."""
    operation, arguments = CALLS[name]
    for _ in range(2):
        call(operation, arguments())
    assert 1 == len(long_ways)
    gpu.device = 3
    monkeypatch.setattr(torch.cuda, "device", lambda _device: torch.no_grad())
    call(operation, arguments())

    assert 2 == len(long_ways)
    assert gpu.starts[-1].directly


@pytest.mark.parametrize("question", [None, dict], ids=["not there", "asked in another way"])
def test_without_the_question_calls_take_the_long_way(
    question: object, gpu: Gpu, long_ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no public part of torch."""
    monkeypatch.setattr(shortcuts, "_TensorGuards", question)
    for _ in range(3):
        call("rms_norm", rows_of())

    assert 3 == len(long_ways)
    assert [False, True, True] == [start.directly for start in gpu.starts]


def test_shortcuts_are_few(gpu: Gpu) -> None:
    """However many shapes there are."""
    for size in range(2, 40):
        call("rms_norm", three() | {"x": torch.ones(3, size, 128, device=DEVICE)})

    assert [8] == [len(each) for each in shortcuts._known.values()]
