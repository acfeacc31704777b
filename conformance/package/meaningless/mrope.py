"""Calls of MRoPE without a meaning, in either form or in place alone, and what their errors say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from conformance.package.calls.mrope import call, flat, positions
from conformance.package.calls.tensors import DEVICE, Arguments, values

HALF, DOUBLE, FP8 = torch.float16, torch.float64, torch.float8_e4m3fn
CACHE = (51, 16)


def tables(*shape: int, dtype: torch.dtype = torch.float32) -> Arguments:
    """Return cos and sin of another shape or dtype."""
    return {name: values(name, *shape, dtype=dtype) for name in ("cos", "sin")}


def at(position: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return positions that include the given one."""
    given = positions(5, dtype)
    given[2, 3] = position
    return given


BAD_CALLS: dict[str, tuple[Callable[[], Arguments], str]] = {
    "q no tensor": (lambda: call(q=[1.0]), "q is a list, must be a tensor"),
    "q sparse": (
        lambda: call(q=values("q", 5, 6, 64).to_sparse()),
        "q is torch.sparse_coo, must be torch.strided",
    ),
    "q of one dimension": (
        lambda: call(q=values("q", 5)),
        r"q has shape \(5,\), must be \(tokens, heads, head_dim\), or \(tokens, heads \* head_dim\) with head_dim",
    ),
    "q of four dimensions": (lambda: call(q=values("q", 1, 5, 6, 64)), r"q has shape \(1, 5, 6, 64\), must be"),
    "q integer": (
        lambda: call(q=torch.ones(5, 6, 64, dtype=torch.int32, device=DEVICE)),
        "q is torch.int32, must be one of",
    ),
    "q fp8": (lambda: call(q=values("q", 5, 6, 64).to(FP8)), "q is torch.float8_e4m3fn, must be one of"),
    "k none": (lambda: call(k=None), "k is a NoneType, must be a tensor"),
    "k double": (lambda: call(k=values("k", 5, 2, 64, dtype=DOUBLE)), "k is torch.float64, must be one of"),
    "k elsewhere": (
        lambda: call(k=torch.empty(5, 2, 64, device="meta")),
        "k is on meta, must be on q's device, ",
    ),
    "k of other tokens": (
        lambda: call(k=values("k", 4, 2, 64)),
        r"k has shape \(4, 2, 64\), must be as q \(5, heads, 64\)",
    ),
    "k that broadcasts": (lambda: call(k=values("k", 1, 2, 64)), r"k has shape \(1, 2, 64\), must be as q"),
    "k of other columns": (lambda: call(k=values("k", 5, 2, 32)), r"k has shape \(5, 2, 32\), must be as q"),
    "k flat beside q": (lambda: call(k=values("k", 5, 128), head_dim=64), r"k has shape \(5, 128\), must be"),
    "flat k of half a head": (
        lambda: flat(call()) | {"k": values("k", 5, 96)},
        r"k has shape \(5, 96\), must be as q \(5, heads \* 64\)",
    ),
    "flat without head_dim": (
        lambda: flat(call()) | {"head_dim": None},
        "head_dim=None, must be a divisor of the",
    ),
    "head_dim of no divisor": (
        lambda: flat(call()) | {"head_dim": 65},
        "head_dim=65, must be a divisor of the 384 columns of q",
    ),
    "head_dim zero": (lambda: flat(call()) | {"head_dim": 0}, "head_dim=0, must be a divisor"),
    "head_dim negative": (lambda: flat(call()) | {"head_dim": -64}, "head_dim=-64, must be a divisor"),
    "head_dim fractional": (lambda: flat(call()) | {"head_dim": 64.0}, "head_dim=64.0, must be a divisor"),
    "head_dim boolean": (lambda: flat(call()) | {"head_dim": True}, "head_dim=True, must be a divisor"),
    "head_dim fractional, beside heads": (lambda: call(head_dim=64.0), "head_dim=64.0, must be None or the 64"),
    "another head_dim": (lambda: call(head_dim=32), "head_dim=32, must be None or the 64 columns of q"),
    "head_dim text": (lambda: call(head_dim="64"), "head_dim='64', must be None or the 64 columns of q"),
    "positions a list": (lambda: call(positions=[0] * 5), "positions is a list, must be a tensor"),
    "positions float": (
        lambda: call(positions=positions(5).float()),
        "positions is torch.float32, must be one of",
    ),
    "positions of a byte": (
        lambda: call(positions=positions(5).to(torch.uint8)),
        "positions is torch.uint8, must be one of torch.int32, torch.int64",
    ),
    "positions of other tokens": (
        lambda: call(positions=positions(6)),
        r"positions has shape \(3, 6\), must be \(3, 5\) or \(5,\)",
    ),
    "positions of two axes": (lambda: call(positions=positions(5)[:2]), r"positions has shape \(2, 5\), must be"),
    "positions turned": (lambda: call(positions=positions(5).t()), r"positions has shape \(5, 3\), must be"),
    "positions of one token": (lambda: call(positions=positions(1)[0]), r"positions has shape \(1,\), must be"),
    "positions of three dimensions": (lambda: call(positions=positions(5)[None]), "positions has shape"),
    "a position": (lambda: call(positions=positions(5)[0, 0]), r"positions has shape \(\), must be"),
    "cos a number": (lambda: call(cos=1.0), "cos is a float, must be a tensor"),
    "cos half beside float": (lambda: call(**tables(*CACHE, dtype=HALF)), "cos is torch.float16, must be one of"),
    "sin double": (lambda: call(sin=values("sin", *CACHE, dtype=DOUBLE)), "sin is torch.float64, must be one of"),
    "cos of one dimension": (
        lambda: call(**tables(16)),
        r"cos has shape \(16,\), must be \(max_positions, rotary",
    ),
    "cos of four dimensions": (lambda: call(**tables(51, 1, 1, 16)), r"cos has shape \(51, 1, 1, 16\), must be"),
    "cos too wide": (lambda: call(**tables(51, 33)), r"cos has shape \(51, 33\), .* a rotary_dim of at most 64"),
    "sin of other rows": (
        lambda: call(sin=values("sin", 50, 16)),
        r"sin has shape \(50, 16\), must be the shape of cos, \(51, 16\)",
    ),
    "sin of other columns": (lambda: call(sin=values("sin", 51, 15)), r"sin has shape \(51, 15\), must be the"),
    "sections of another sum": (
        lambda: call(sections=(6, 5, 4)),
        r"sections=\(6, 5, 4\), must be three integers whose sum is the 16 columns of cos",
    ),
    "two sections": (lambda: call(sections=(8, 8)), r"sections=\(8, 8\), must be three"),
    "four sections": (lambda: call(sections=(4, 4, 4, 4)), r"sections=\(4, 4, 4, 4\), must be three"),
    "a negative section": (lambda: call(sections=(17, -1, 0)), r"sections=\(17, -1, 0\), must be three"),
    "a fractional section": (lambda: call(sections=(6.0, 5, 5)), r"sections=\(6.0, 5, 5\), must be three"),
    "a boolean section": (lambda: call(sections=(15, True, 0)), r"sections=\(15, True, 0\), must be three"),
    "no sections": (lambda: call(sections=None), "sections=None, must be three"),
    "interleaved a number": (lambda: call(interleaved=1), "interleaved=1, must be one of True, False"),
}
# Positions that are checked only where reading them needs no wait for a device.
OUTSIDE: dict[str, tuple[Callable[[], Arguments], str]] = {
    "a position below": (
        lambda: call(positions=at(-1)),
        "positions has -1, must be at least 0 and less than the 51 rows of cos",
    ),
    "a position past the end": (lambda: call(positions=at(51)), "positions has 51, must be at least 0"),
    "a narrow position past the end": (lambda: call(positions=at(2**31 - 1, torch.int32)), "positions has 2147"),
    "a wide position past the end": (lambda: call(positions=at(2**32)), "positions has 4294967296, must"),
    "a position on one axis": (lambda: call(positions=at(51)[2]), "positions has 51, must be"),
    "a position in no cache": (lambda: call(**tables(0, 16)), "positions has .*, must be .* the 0 rows of cos"),
}


def overlapping(name: str) -> Arguments:
    """Return a call whose q shares memory with the argument named."""
    memory = values("q", 6, 6, 64)
    q, k = memory[:5], call()["k"]
    if name == "k":
        k = memory[:5, 4:6]
    elif name == "k, one token on":
        k = memory[1:]
    elif name == "k, from its last column on":
        k = memory.view(-1)[q.numel() - 1 :][: 5 * 64].view(5, 1, 64)
    elif name == "k, to its first column":
        k = memory.view(-1)[: 5 * 64].view(5, 1, 64)
        q = memory.view(-1)[k.numel() - 1 :][: 5 * 5 * 64].view(5, 5, 64)
    elif name == "k, through it":
        q, k = memory[:5, :, :32], memory[:5, ::2, 16:48]
        return call(5, (6, 2), 32) | {"q": q, "k": k}
    elif name == "cos":
        return call(q=q, cos=memory.view(-1)[: 51 * 16].view(CACHE))
    elif name == "sin":
        return call(k=k, q=q, sin=memory.view(-1)[100 : 100 + 51 * 16].view(CACHE))
    elif name == "positions":
        at = memory.view(torch.int32).view(-1)[:5]
        memory.zero_()
        return call(q=q, positions=at)
    return call(q=q, k=k)


# Calls that have a meaning unless q and k are written.
IN_PLACE: dict[str, tuple[Callable[[], Arguments], str]] = {
    **{
        name: (partial(overlapping, name), "k shares memory with q, must have its own")
        for name in (
            "k",
            "k, one token on",
            "k, from its last column on",
            "k, to its first column",
            "k, through it",
        )
    },
    **{
        name: (partial(overlapping, name), f"q shares memory with {name}, must have its own")
        for name in ("cos", "sin", "positions")
    },
    "k is q": (lambda: call(k=(q := values("q", 5, 6, 64)), q=q), "k shares memory with q"),
    "q over itself": (
        lambda: call(q=values("q", 1, 6, 64).expand(5, 6, 64)),
        r"q has strides \(0, 64, 1\), no two of its elements may share memory",
    ),
    "k over itself": (
        lambda: call(k=values("k", 5, 1, 64).expand(5, 2, 64)),
        r"k has strides \(64, 0, 1\), no two of its",
    ),
    "q with a gradient": (
        lambda: call(q=values("q", 5, 6, 64).requires_grad_()),
        "q and k are written, q must not need a gradient then",
    ),
    "cos with a gradient": (
        lambda: call(cos=values("cos", *CACHE).requires_grad_()),
        "q and k are written, cos must not need a gradient then",
    ),
}
