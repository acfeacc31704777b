"""Calls share a key exactly if one decision and one set of kernel arguments serve them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import normkernels
from conformance.package.calls.tensors import DEVICE, Arguments
from normkernels import InvalidCall
from normkernels.operations import mrope as of_mrope
from normkernels.operations import rows
from normkernels.operations.operation import OPERATIONS, _cache, run

LOW, FULL = torch.bfloat16, torch.float32
N = 64
FP8 = torch.float8_e4m3fn
NORMS = [name for name in OPERATIONS if "mrope" not in name]
ROTATIONS = ["mrope", "mrope_"]

# Every flag of some operation: a usual value, and other values. True is not 1 here, nor 1 the number 1.0.
FLAGS: dict[str, tuple[object, ...]] = {
    "eps": (1e-6, 1e-5, 1, 1.0, True, Fraction(1), np.float64(1e-6)),
    "weight_offset": (0.0, 0, False, 1.0, 1, True),
    "rounding": ("fp32", "hf"),
    "path": (None, "rows", "heads", "native"),
    "group_size": (None, 32, 64, 32.0, 1, True),
    "norm_before_gate": (True, False, 1, 0),
    "activation": ("silu", "swish", "sigmoid"),
    "quant_group": (32, None, 64, 32.0, 1, True),
    "scale_layout": ("row", "column"),
    "fp8_dtype": (FP8, torch.float8_e4m3fnuz),
    "also_unquantised": (False, True, 0, 1),
    "sections": ((6, 5, 5), (5, 6, 5), (16, 0, 0)),
    "head_dim": (None, 32, 32.0),
    "interleaved": (True, False, 1, 0),
}


def tensors_of(name: str, *leading: int) -> Arguments:
    """Return the tensors of a call with all optional ones, contiguous and in separate memory."""
    if name in ROTATIONS:
        q, k = (torch.ones(leading[0], heads, 32, device=DEVICE) for heads in (4, 2))
        positions = torch.zeros(3, leading[0], dtype=torch.int64, device=DEVICE)
        return {"q": q, "k": k, "positions": positions} | {
            each: torch.ones(9, 16, device=DEVICE) for each in ("cos", "sin")
        }
    given: Arguments = {"weight": torch.ones(N, device=DEVICE)}
    for each in OPERATIONS[name].tensors:
        dtype = FP8 if each == "out" and "fp8" in name else FULL
        given.setdefault(each, torch.ones(*leading, N, device=DEVICE).to(dtype))
    return given


def flags_of(name: str) -> Arguments:
    """Return the usual flags of an operation."""
    return {flag: FLAGS[flag][0] for flag in OPERATIONS[name].flags}


def key(name: str, given: Arguments) -> Hashable:
    """Return the key of a call by name."""
    operation = OPERATIONS[name]
    return operation.key(
        tuple(given[each] for each in operation.tensors), tuple(given[each] for each in operation.flags)
    )


def call(name: str, *leading: int, **changes: object) -> Arguments:
    """Return all arguments of a call."""
    return tensors_of(name, *(leading or (6,))) | flags_of(name) | changes


def apart(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a tensor like the given one with twice the distance between elements of one axis."""
    shape = list(tensor.shape)
    shape[axis] *= 2
    room = torch.ones(shape, device=DEVICE).to(tensor.dtype)
    return room[
        tuple(slice(None, None, 2) if axis % len(shape) == at else slice(None) for at in range(len(shape)))
    ]


# Other forms of a tensor in the same place.
OTHER_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bfloat16": lambda tensor: tensor.to(LOW),
    "float64": lambda tensor: tensor.double(),
    "float16": lambda tensor: tensor.half(),
    "columns apart": lambda tensor: apart(tensor, -1),
    "rows apart": lambda tensor: apart(tensor, 0),
}
# Other forms of positions, whose strides each launch receives.
OTHER_POSITIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int32": lambda tensor: tensor.int(),
    "one axis": lambda tensor: tensor[0],
}


def others(name: str) -> dict[str, Arguments]:
    """Return calls that each differ from a common one in one property."""
    usual = call(name)
    made = {
        f"{flag}={value!r}": usual | {flag: value} for flag in OPERATIONS[name].flags for value in FLAGS[flag][1:]
    }
    for each in OPERATIONS[name].tensors:
        tensor = usual[each]
        changed = OTHER_POSITIONS if each == "positions" else OTHER_TENSORS
        for what, change in changed.items():
            # a vector has no rows apart from its columns
            if tensor.dim() > 1 or what != "rows apart":
                made[f"{each}: {what}"] = usual | {each: change(tensor)}
        if name in NORMS and each != "x":
            made[f"no {each}"] = usual | {each: None}
    tensors = {each: usual[each] for each in OPERATIONS[name].tensors}
    needing = next(each for each in tensors if tensors[each].dtype == FULL)
    made["a gradient"] = usual | {needing: usual[needing].clone().requires_grad_()}
    made["another device"] = usual | {each: tensor.to("meta") for each, tensor in tensors.items()}
    if name in NORMS:
        made["three dimensions"] = call(name, 2, 3)
        made["no leading size"] = usual | {
            each: tensor if each == "weight" else tensor[0] for each, tensor in tensors.items()
        }
        made["fewer columns"] = usual | {
            each: tensor[..., : N // 2].contiguous() for each, tensor in tensors.items()
        }
        made["all rows apart"] = usual | {
            each: tensor if each == "weight" else apart(tensor, 0) for each, tensor in tensors.items()
        }
    else:
        made["flat"] = usual | {"q": usual["q"].flatten(1), "k": usual["k"].flatten(1)}
        made["fewer heads"] = usual | {"k": usual["k"][:, :1].contiguous()}
        made["fewer rows of the cache"] = usual | {"cos": usual["cos"][:8], "sin": usual["sin"][:8]}
    return made


@pytest.mark.parametrize("name", OPERATIONS)
def test_calls_that_differ_have_keys_of_their_own(name: str) -> None:
    """Calls differ in a flag or its type, a tensor's dtype, strides, presence, device, rank, size or gradient."""
    keys = {what: key(name, given) for what, given in {"usual": call(name), **others(name)}.items()}

    assert None not in keys.values()
    for (what, one), (other, another) in itertools.combinations(keys.items(), 2):
        assert one != another, f"{what} and {other}"


def test_operations_have_keys_of_their_own() -> None:
    """Two operations with the same arguments have different keys."""
    tensors = tuple(tensors_of("rms_norm", 6)[each] for each in OPERATIONS["rms_norm"].tensors)
    keys = {OPERATIONS[name].key(tensors, (1e-6, None, "fp32")) for name in ("rms_norm", "gemma_rms_norm")}
    rotations = {key(name, call(name)) for name in ROTATIONS}

    assert 2 == len(keys) == len(rotations)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_key_serves_contiguous_calls_of_other_leading_sizes(name: str, rank: int) -> None:
    """Calls of one rank and width share a key, with sizes of one and zero in every place."""
    sizes = list(itertools.product((1, 2, 5, 16, 0), repeat=rank))
    keys = {key(name, call(name, *leading)) for leading in sizes}

    assert 1 == len(keys)
    assert None not in keys


@pytest.mark.parametrize("name", NORMS)
def test_a_stride_along_one_decides_which_sizes_are_walked_as_one(name: str) -> None:
    """A batch of one has the kernel of other batches, and not that of a new tensor."""
    usual = call(name, 1, 3)
    x = torch.ones(7, 3, N, device=DEVICE)[::7]
    odd = usual | {"x": x.as_strided(x.shape, (5, N, 1))}

    assert odd["x"].is_contiguous()
    assert key(name, usual) != key(name, odd)
    # nor has one of nothing, of which any strides are contiguous
    nothing, none = call(name, 0, 3), torch.ones(0, 3, N, device=DEVICE).as_strided((0, 3, N), (5, N, 2))
    assert key(name, nothing) != key(name, nothing | {"x": none})
    beside = "gate" if "gated" in name else "residual"
    gaps = {beside: apart(usual[beside], -1)}
    assert key(name, usual | gaps) != key(name, odd | gaps)


@pytest.mark.parametrize("name", NORMS)
def test_one_key_serves_any_number_of_rows_that_are_apart(name: str) -> None:
    """Only a single row, which has no gaps, has another key; sizes other than the outermost count."""
    rows = [call(name, count, 3) for count in (2, 5, 16)]
    for given in rows:
        given["x"] = apart(given["x"], -1)
    room = torch.ones(5, 9, N, device=DEVICE)
    inner = [call(name, 5, size, x=room[:, :size]) for size in (1, 3, 4)]
    keys = {key(name, given) for given in rows}

    assert 1 == len(keys)
    assert key(name, call(name, 1, 3, x=room[:1, :3])) not in {key(name, call(name, 5, 3, x=room[:, :3])), *keys}
    # of the same strides
    assert len(inner) == len({key(name, given) for given in inner} - keys - {None})


@pytest.mark.parametrize("name", ROTATIONS)
def test_one_key_serves_any_number_of_tokens(name: str) -> None:
    """The layout of the positions does not matter."""
    longer = torch.zeros(3, 40, dtype=torch.int64, device=DEVICE)
    keys = {key(name, call(name, tokens)) for tokens in (0, 1, 2, 5, 16)}
    keys |= {key(name, call(name, 5, positions=longer[:, ::8])), key(name, call(name, 8, positions=longer[:, :8]))}
    of_one_axis = {key(name, call(name, tokens, positions=longer[0, :tokens])) for tokens in (2, 3, 5)}

    assert 1 == len(keys) == len(of_one_axis)
    assert keys != of_one_axis
    assert None not in keys


@pytest.mark.parametrize("name", ROTATIONS)
def test_heads_of_the_same_strides_are_counted(name: str) -> None:
    """Heads of a wider buffer have its strides, and keys of their own; so has one flat token, unlike more."""
    room = torch.ones(5, 8, 32, device=DEVICE)
    keys = [key(name, call(name, 5, **{each: room[:, :heads]})) for each in ("q", "k") for heads in (4, 6)]
    flat = [call(name, tokens) for tokens in (1, 2, 5)]
    one, *more = (
        key(name, given | {"q": room.flatten(1)[:tokens, :128], "k": given["k"].flatten(1), "head_dim": 32})
        for given, tokens in zip(flat, (1, 2, 5), strict=True)
    )

    assert len(keys) == len({*keys} - {None})
    assert 1 == len({*more})
    assert one not in {None, *more}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gradient_that_nobody_records_is_none(name: str) -> None:
    """Under no_grad a tensor that requires a gradient has the usual key."""
    usual = call(name)
    plain = key(name, usual)
    for each in OPERATIONS[name].tensors:
        if usual[each].dtype == FULL:
            needs = usual | {each: usual[each].clone().requires_grad_()}
            assert plain != key(name, needs)
            with torch.no_grad():
                assert plain == key(name, needs)


class Subclass(torch.Tensor):
    """A tensor that may mean something else."""


# Tensors that a key describes too little.
UNTOLD: dict[str, Callable[[torch.Tensor], object]] = {
    "a subclass": lambda tensor: tensor.as_subclass(Subclass),
    "a negated view": torch._neg_view,
    "a sparse tensor": lambda tensor: tensor.to_sparse(),
    "a list": lambda tensor: tensor.tolist(),
}


@pytest.mark.parametrize("what", UNTOLD)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_a_key_cannot_tell_has_none(name: str, what: str) -> None:
    """Such a tensor removes the key in any argument."""
    usual = call(name)
    for each in OPERATIONS[name].tensors:
        if usual[each].dtype == FULL:
            assert None is key(name, usual | {each: UNTOLD[what](usual[each])})


@pytest.mark.parametrize("name", OPERATIONS)
def test_tensors_on_two_devices_have_no_key(name: str) -> None:
    """A call with tensors on two devices is not valid."""
    usual = call(name)
    for each in OPERATIONS[name].tensors:
        assert None is key(name, usual | {each: usual[each].to("meta")})


class OnTheFirst(torch.Tensor):
    """A tensor that says it is on the first GPU."""

    def get_device(self) -> int:
        """Return the GPU's number."""
        return 0


class OnTheSecond(OnTheFirst):
    """A tensor that says it is on the second GPU."""

    def get_device(self) -> int:
        """Return the GPU's number."""
        return 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_tensors_on_two_gpus_have_no_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers differ, and nothing else that a key looks at; on one GPU they have a key."""
    for module in (of_mrope, rows):
        monkeypatch.setattr(module, "PLAIN", (OnTheFirst, OnTheSecond))
    first, *others = OPERATIONS[name].tensors
    usual = call(name)
    usual |= {each: usual[each].as_subclass(OnTheFirst) for each in (first, *others) if usual[each] is not None}

    assert None is not key(name, usual)
    for each in others:
        if usual[each] is not None:
            assert None is key(name, usual | {each: usual[each].as_subclass(OnTheSecond)})


# torch's own, where forward-mode autograd begins
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", OPERATIONS)
def test_calls_under_a_transform_have_no_key(name: str) -> None:
    """Under a transform a plain tensor may hide more than its key shows."""
    usual = call(name)
    seen: list[Hashable] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(key(name, usual))
        return x

    with torch.autograd.forward_ad.dual_level():
        look(usual[OPERATIONS[name].tensors[0]])
    torch.vmap(look)(torch.ones(2))
    torch.func.functionalize(look)(torch.ones(2))

    assert [None] * 3 == seen
    assert None is not key(name, usual)


@pytest.mark.parametrize("flag", ["rounding", "path", "eps"])
def test_a_flag_that_has_no_hash_is_refused_as_any_other(flag: str) -> None:
    """The message is that of the argument check."""
    given: Arguments = {"x": torch.ones(6, N, device=DEVICE), "weight": None, "eps": 1e-6} | {flag: ["no"]}

    with pytest.raises(InvalidCall, match=f"{flag}=\\['no'\\]|{flag}=\"\\['no'\\]\""):
        normkernels.rms_norm(**given)
    assert {} == _cache


def without_outputs(name: str, given: Arguments) -> Arguments:
    """Return a call whose results are in fresh memory."""
    return given | dict.fromkeys({"out", "residual_out"} & set(given))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_cached_call_is_as_good_as_its_first(name: str) -> None:
    """Every call of the table has the same bits, or the same refusal, after all others as it has alone."""

    def outcome(given: Arguments) -> Any:
        operation = OPERATIONS[name]
        copies = {n: each.clone() if isinstance(each, torch.Tensor) else each for n, each in given.items()}
        try:
            results = run(
                name,
                tuple(copies[each] for each in operation.tensors),
                tuple(copies[each] for each in operation.flags),
            )
        except ValueError as refused:
            return str(refused)
        made = results if isinstance(results, tuple) else (results,)
        return [each if each.device.type == "meta" else each.detach().double().cpu() for each in made]

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, str) or isinstance(other, str):
            return bool(one == other)
        return len(one) == len(other) and all(
            (a.shape, a.dtype) == (b.shape, b.dtype) and (a.device.type == "meta" or torch.equal(a, b))
            for a, b in zip(one, other, strict=True)
        )

    calls = {what: without_outputs(name, given) for what, given in others(name).items()}
    alone = {}
    for what, given in calls.items():
        _cache.clear()
        alone[what] = outcome(given)
    _cache.clear()
    outcome(without_outputs(name, call(name)))
    for _ in range(2):
        for what, given in calls.items():
            assert same(alone[what], outcome(given)), what
