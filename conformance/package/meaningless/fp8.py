"""Calls of the norms with fp8 values without a meaning: of which operations, and what their errors say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from conformance.package.calls.fp8 import OPERATIONS, call, full
from conformance.package.calls.tensors import DEVICE, Arguments, values

FP8, FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
NORM, GATED = OPERATIONS


def fp8(*shape: int, dtype: torch.dtype = FP8) -> torch.Tensor:
    """Return memory for values."""
    return values("out", *shape).to(dtype)


def changed(**changes: Any) -> Callable[[str], Arguments]:
    """Return a function that makes a call with ``changes``."""
    return lambda operation: call(operation, **changes)


def inside(name: str) -> Callable[[str], Arguments]:
    """Return a function that makes a call whose values share the bytes of the rows named."""

    def make(operation: str) -> Arguments:
        rows = values(name, 4, 24)
        return full(operation, 4, 24) | {name: rows, "out": rows.view(FP8)[:, :24]}

    return make


def in_the_weight(operation: str) -> Arguments:
    """Return a call whose values share the bytes of the weight."""
    weight = values("weight", 24)
    return full(operation, 4, 24) | {"weight": weight, "out": weight.view(FP8).view(4, 24)}


BAD_CALLS: dict[str, tuple[tuple[str, ...], Callable[[str], Arguments], str]] = {
    "x no tensor": (OPERATIONS, lambda op: call(op, x=[1.0]), "x is a list, must be a tensor"),
    "x fp8": (OPERATIONS, lambda op: call(op, x=fp8(3, 96)), "x is torch.float8_e4m3fn, must be"),
    "x scalar": (
        OPERATIONS,
        lambda op: call(op, x=torch.tensor(1.0, device=DEVICE)),
        r"x has shape \(\), must have a last dim",
    ),
    "weight": (OPERATIONS, lambda op: call(op, weight=values("w", 97)), r"weight has shape \(97,\), must be"),
    "no weight": (
        (GATED,),
        lambda op: call(op, weight=None),
        "weight is a NoneType, must be a tensor",
    ),
    "gate": (
        (GATED,),
        lambda op: call(op, gate=values("g", 96)),
        r"gate has shape \(96,\), must be the shape of x",
    ),
    "group_size": (
        (GATED,),
        lambda op: call(op, group_size=64),
        "group_size=64, must be None or a divisor of the 96",
    ),
    "activation": ((GATED,), lambda op: call(op, activation="gelu"), "activation='gelu', must be one of"),
    "order": ((GATED,), lambda op: call(op, norm_before_gate=1), "norm_before_gate=1, must be one of True, False"),
    "residual": (
        (NORM,),
        lambda op: call(op, residual=values("r", 3, 97)),
        r"residual has shape \(3, 97\), must be the shape of x",
    ),
    "offset": ((NORM,), lambda op: call(op, weight_offset=1e39), r"weight_offset=1e\+39, must be a number"),
    "eps": (OPERATIONS, lambda op: call(op, eps=-1.0), "eps=-1.0, must be a number, at least 0"),
    "rounding": (OPERATIONS, lambda op: call(op, rounding="no"), "rounding='no', must be one of"),
    "path": (OPERATIONS, lambda op: call(op, path="no"), "path='no', must be one of 'rows', 'native'"),
    **{
        f"quant_group {group!r}": (
            OPERATIONS,
            changed(quant_group=group),
            f"quant_group={group!r}, must be None or a number of columns, at least 1",
        )
        for group in (0, -128, 128.0, True, "128")
    },
    **{
        f"scale_layout {layout!r}": (
            OPERATIONS,
            changed(scale_layout=layout),
            f"scale_layout={layout!r}, must be one of 'row', 'column'",
        )
        for layout in ("rows", None, 0)
    },
    **{
        f"fp8_dtype {dtype!r}": (
            OPERATIONS,
            changed(fp8_dtype=dtype),
            f"fp8_dtype={dtype!r}, must be one of torch.float8_e4m3fn, torch.float8_e4m3fnuz",
        )
        for dtype in (torch.float8_e5m2, torch.float8_e5m2fnuz, torch.bfloat16, torch.int8, "float8_e4m3fn", None)
    },
    **{
        f"also_unquantised {flag!r}": (
            OPERATIONS,
            changed(also_unquantised=flag),
            f"also_unquantised={flag!r}, must be one of True, False",
        )
        for flag in (1, None, "yes")
    },
    "out no tensor": (OPERATIONS, lambda op: call(op, out=1), "out is a int, must be a tensor"),
    "out of x's dtype": (
        OPERATIONS,
        lambda op: call(op, out=values("o", 3, 96)),
        "out is torch.float32, must be one of torch.float8_e4m3fn",
    ),
    "out of the other type": (
        OPERATIONS,
        lambda op: call(op, out=fp8(3, 96), fp8_dtype=FNUZ),
        "out is torch.float8_e4m3fn, must be one of torch.float8_e4m3fnuz",
    ),
    "out of another shape": (OPERATIONS, lambda op: call(op, out=fp8(3, 97)), r"out has shape \(3, 97\), must be"),
    "out elsewhere": (
        OPERATIONS,
        lambda op: call(op, out=torch.empty(3, 96, dtype=FP8, device="meta")),
        "out is on meta, must be on x's device",
    ),
    "out over itself": (
        OPERATIONS,
        lambda op: call(op, out=fp8(1, 96).expand(3, 96)),
        r"out has strides \(0, 1\), no two",
    ),
    "out in x": (OPERATIONS, inside("x"), "out shares memory with x, must have its own$"),
    "out in the gate": ((GATED,), inside("gate"), "out shares memory with gate, must have its own$"),
    "out in the residual": ((NORM,), inside("residual"), "out shares memory with residual, must have its own$"),
    "out in the weight": (OPERATIONS, in_the_weight, "out shares memory with weight, must have its own$"),
    "out in the sum": (
        (NORM,),
        inside("residual_out"),
        "residual_out shares memory with out, must have its own, or be residual or x as a whole$",
    ),
    "residual_out beside x": (
        (NORM,),
        lambda op: full(op, 2, 96, x=(memory := values("x", 3, 96))[:2], residual_out=memory[1:]),
        "residual_out shares memory with x, must have its own, or be residual or x as a whole",
    ),
    "residual_out alone": (
        (NORM,),
        lambda op: call(op, residual_out=values("o", 3, 96)),
        "residual_out is given, residual must be given then",
    ),
}
