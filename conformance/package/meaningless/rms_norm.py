"""Calls of RMSNorm and Gemma's without a meaning, and what their errors say."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from conformance.package.calls.rms_norm import added, call
from conformance.package.calls.tensors import DEVICE, Arguments, values

HALF, DOUBLE = torch.float16, torch.float64


def beside(name: str, output: str) -> Arguments:
    """Return a call whose output is the input named, one element further on."""
    memory = values(name, 3 * 96 + 1)
    return added() | {name: memory[:-1].view(3, 96), output: memory[1:].view(3, 96)}


def across(name: str, output: str) -> Arguments:
    """Return a call whose output is a strided view across the input named."""
    memory = values(name, 6, 256)
    return added() | {name: memory[:3, :96], output: memory[::2, 48:144]}


def transposed(name: str, output: str) -> Arguments:
    """Return a call whose output is the whole input named, in another order."""
    square = values(name, 96, 96)
    return added(96, 96) | {name: square, output: square.mT}


def nested(output: str) -> Arguments:
    """Return a call whose output is the residual, whose memory x shares in part."""
    memory = values("x", 4, 96)
    return added(x=memory[:3], residual=memory[1:]) | {output: memory[1:]}


def in_the_weight(output: str) -> Arguments:
    """Return a call whose output is the weight."""
    memory = values("weight", 1, 96)
    return added(1, 96, weight=memory[0]) | {output: memory}


def shared(name: str, part: slice) -> Arguments:
    """Return a call whose outputs share memory: all of an input, and a part of it or all."""
    memory = values(name, 4, 96)
    return added() | {name: memory[:3], "out": memory[:3], "residual_out": memory[part]}


OVERLAPS: dict[str, tuple[Callable[[], Arguments], str]] = {
    "out beside x": (
        lambda: beside("x", "out"),
        "out shares memory with x, must have its own, or be x or residual as a whole",
    ),
    "out beside the residual": (lambda: beside("residual", "out"), "out shares memory with residual, must"),
    "out across x": (lambda: across("x", "out"), "out shares memory with x, must have"),
    "out x transposed": (lambda: transposed("x", "out"), "out shares memory with x, must have"),
    "residual_out beside x": (
        lambda: beside("x", "residual_out"),
        "residual_out shares memory with x, must have its own, or be residual or x as a whole",
    ),
    "residual_out beside the residual": (
        lambda: beside("residual", "residual_out"),
        "residual_out shares memory with residual, must have",
    ),
    "residual_out across the residual": (
        lambda: across("residual", "residual_out"),
        "residual_out shares memory with residual, must have",
    ),
    "residual_out the residual transposed": (
        lambda: transposed("residual", "residual_out"),
        "residual_out shares memory with residual, must have",
    ),
    "out the residual, part of x": (lambda: nested("out"), "out shares memory with x, must have"),
    "residual_out the residual, part of x": (
        lambda: nested("residual_out"),
        "residual_out shares memory with x, must have",
    ),
    "out the weight": (lambda: in_the_weight("out"), "out shares memory with weight, must have its own"),
    "residual_out the weight": (
        lambda: in_the_weight("residual_out"),
        "residual_out shares memory with weight, must have its own",
    ),
    "both outputs x": (lambda: shared("x", slice(3)), "residual_out shares memory with out, must have"),
    "both outputs the residual": (
        lambda: shared("residual", slice(3)),
        "residual_out shares memory with out, must have",
    ),
    "one output in two": (
        lambda: added(out=(memory := values("out", 4, 96))[:3], residual_out=memory[1:]),
        "residual_out shares memory with out, must have its own, or be residual or x as a whole",
    ),
    "out a residual of another dtype": (
        lambda: added(
            dtype=HALF,
            residual=(memory := torch.full((3, 96), 1.5, dtype=torch.bfloat16, device=DEVICE)),
            out=memory.view(HALF),
        ),
        "out shares memory with residual, must have",
    ),
    "out over itself": (
        lambda: added(out=values("out", 1, 96).expand(3, 96)),
        r"out has strides \(0, 1\), no two",
    ),
    "residual_out over itself": (
        lambda: added(residual_out=values("out", 1, 96).expand(3, 96)),
        r"residual_out has strides \(0, 1\), no two",
    ),
}

BAD_CALLS: dict[str, tuple[Callable[[], Arguments], str]] = {
    "x no tensor": (lambda: call(x=[1.0]), "x is a list, must be a tensor"),
    "x sparse": (lambda: call(x=values("x", 3, 96).to_sparse()), "x is torch.sparse_coo, must be torch.strided"),
    "x scalar": (
        lambda: call(x=torch.tensor(1.0, device=DEVICE)),
        r"x has shape \(\), must have a last dimension",
    ),
    "x integer": (
        lambda: call(x=torch.ones(3, 96, dtype=torch.int32, device=DEVICE)),
        "x is torch.int32, must be one of",
    ),
    "x fp8": (
        lambda: call(x=values("x", 3, 96).to(torch.float8_e4m3fn)),
        "x is torch.float8_e4m3fn, must be",
    ),
    "weight no tensor": (lambda: call(weight=1.0), "weight is a float, must be a tensor"),
    "weight half beside float": (
        lambda: call(weight=values("weight", 96, dtype=HALF)),
        "weight is torch.float16, must be one of torch.float32",
    ),
    "weight wide": (
        lambda: call(weight=values("w", 97)),
        r"weight has shape \(97,\), must be the last dim.*\(96,\)",
    ),
    "weight of one": (lambda: call(weight=values("w", 1)), r"weight has shape \(1,\), must be"),
    "weight of rank 2": (lambda: call(weight=values("w", 1, 96)), r"weight has shape \(1, 96\), must be"),
    "weight elsewhere": (lambda: call(weight=torch.empty(96, device="meta")), "weight is on meta, must be"),
    "residual no tensor": (lambda: call(residual=1.0), "residual is a float, must be a tensor"),
    "residual integer": (
        lambda: call(residual=torch.ones(3, 96, dtype=torch.int32, device=DEVICE)),
        "residual is torch.int32, must be one of",
    ),
    "residual double": (
        lambda: call(residual=values("residual", 3, 96, dtype=DOUBLE)),
        "residual is torch.float64, must be one of",
    ),
    "residual of other rows": (
        lambda: call(residual=values("r", 4, 96)),
        r"residual has shape \(4, 96\), must be the shape of x, \(3, 96\)",
    ),
    "residual that broadcasts": (
        lambda: call(residual=values("r", 1, 96)),
        r"residual has shape \(1, 96\), must be",
    ),
    "residual of rank 3": (
        lambda: call(residual=values("r", 1, 3, 96)),
        r"residual has shape \(1, 3, 96\), must be",
    ),
    "residual elsewhere": (
        lambda: call(residual=torch.empty(3, 96, device="meta")),
        "residual is on meta, must be on x's device",
    ),
    "eps negative": (lambda: call(eps=-1e-6), "eps=-1e-06, must be a number, at least 0 and finite in float32"),
    "eps nan": (lambda: call(eps=math.nan), "eps=nan, must be"),
    "eps infinite": (lambda: call(eps=math.inf), "eps=inf, must be"),
    "eps boolean": (lambda: call(eps=True), "eps=True, must be"),
    "eps text": (lambda: call(eps="1e-6"), "eps='1e-6', must be"),
    "rounding": (lambda: call(rounding="eager"), "rounding='eager', must be one of 'fp32', 'hf'"),
    "path": (lambda: call(path="cuda"), "path='cuda', must be one of 'rows', 'native'"),
    "out no tensor": (lambda: call(out=1), "out is a int, must be a tensor"),
    "out of another dtype": (lambda: call(out=values("o", 3, 96, dtype=HALF)), "out is torch.float16, must be"),
    "out of another shape": (
        lambda: call(out=values("o", 96)),
        r"out has shape \(96,\), must be the shape of x",
    ),
    "out with a gradient": (
        lambda: call(out=values("o", 3, 96), weight=values("weight", 96).requires_grad_()),
        "out is given, weight must not need a gradient then",
    ),
    "residual_out without a residual": (
        lambda: call(residual_out=values("o", 3, 96)),
        "residual_out is given, residual must be given then",
    ),
    "residual_out no tensor": (lambda: added(residual_out=1), "residual_out is a int, must be a tensor"),
    "residual_out in the residual's dtype": (
        lambda: added(dtype=HALF, residual=(r := values("residual", 3, 96)), residual_out=r),
        "residual_out is torch.float32, must be one of torch.float16",
    ),
    "residual_out of another shape": (
        lambda: added(residual_out=values("o", 3, 97)),
        r"residual_out has shape \(3, 97\), must be the shape of x",
    ),
    "residual_out with a gradient": (
        lambda: added(residual_out=values("o", 3, 96), weight=values("weight", 96).requires_grad_()),
        "residual_out is given, weight must not need a gradient then",
    ),
    **OVERLAPS,
}
