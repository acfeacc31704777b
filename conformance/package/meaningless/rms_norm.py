"""Calls of RMSNorm and Gemma's without a meaning, and what their errors say."""

from __future__ import annotations

import torch

from conformance.package.calls.rms_norm import added, call
from conformance.package.calls.tensors import DEVICE, Arguments, values
from conformance.package.meaningless.rows import HALF, Calls, of_rows, of_shape


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


OVERLAPS: Calls = {
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
    "out over itself, with a residual": (
        lambda: added(out=values("out", 1, 96).expand(3, 96)),
        r"out has strides \(0, 1\), no two",
    ),
    "residual_out over itself": (
        lambda: added(residual_out=values("out", 1, 96).expand(3, 96)),
        r"residual_out has strides \(0, 1\), no two",
    ),
}

BAD_CALLS: Calls = {
    **of_rows(call, 96),
    **of_shape(call, "residual", 96),
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
