"""Calls of gated RMSNorm without a meaning, and what their errors say."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from conformance.package.calls.rms_norm_gated import call
from conformance.package.calls.tensors import DEVICE, Arguments, values

HALF, DOUBLE = torch.float16, torch.float64


def shifted() -> Arguments:
    """Return a call whose out is x, one element on."""
    memory = values("x", 3 * 128 + 1)
    return call(x=memory[:-1].view(3, 128), out=memory[1:].view(3, 128))


def crossing() -> Arguments:
    """Return a call whose out is a strided view across x."""
    memory = values("x", 6, 256)
    return call(x=memory[:3, :128], out=memory[::2, 64:192])


BAD_CALLS: dict[str, tuple[Callable[[], Arguments], str]] = {
    "x no tensor": (lambda: call(x=[1.0]), "x is a list, must be a tensor"),
    "gate no tensor": (lambda: call(gate=1.0), "gate is a float, must be a tensor"),
    "weight none": (lambda: call(weight=None), "weight is a NoneType, must be a tensor"),
    "x sparse": (
        lambda: call(x=values("x", 3, 128).to_sparse()),
        "x is torch.sparse_coo, must be torch.strided",
    ),
    "x scalar": (
        lambda: call(x=torch.tensor(1.0, device=DEVICE)),
        r"x has shape \(\), must have a last dimension",
    ),
    "x integer": (
        lambda: call(x=torch.ones(3, 128, dtype=torch.int32, device=DEVICE)),
        "x is torch.int32, must be one of",
    ),
    "x fp8": (
        lambda: call(x=values("x", 3, 128).to(torch.float8_e4m3fn)),
        "x is torch.float8_e4m3fn, must be",
    ),
    "x complex": (lambda: call(x=values("x", 3, 128).to(torch.complex64)), "x is torch.complex64, must be"),
    "gate double": (
        lambda: call(gate=values("gate", 3, 128, dtype=DOUBLE)),
        "gate is torch.float64, must be",
    ),
    "weight half beside float": (
        lambda: call(weight=values("weight", 128, dtype=HALF)),
        "weight is torch.float16, must be one of torch.float32",
    ),
    "weight wide": (
        lambda: call(weight=values("w", 129)),
        r"weight has shape \(129,\), must be the last dim.*\(128,\)",
    ),
    "weight of rank 2": (lambda: call(weight=values("w", 1, 128)), r"weight has shape \(1, 128\), must be"),
    "gate of other rows": (
        lambda: call(gate=values("g", 4, 128)),
        r"gate has shape \(4, 128\), must be.*\(3, 128\)",
    ),
    "gate that broadcasts": (lambda: call(gate=values("g", 1, 128)), r"gate has shape \(1, 128\), must be"),
    "gate of rank 3": (lambda: call(gate=values("g", 1, 3, 128)), r"gate has shape \(1, 3, 128\), must be"),
    "gate elsewhere": (
        lambda: call(gate=torch.empty(3, 128, device="meta")),
        "gate is on meta, must be on x's device",
    ),
    "weight elsewhere": (lambda: call(weight=torch.empty(128, device="meta")), "weight is on meta, must be"),
    "eps negative": (
        lambda: call(eps=-1e-6),
        "eps=-1e-06, must be a number, at least 0 and finite in float32",
    ),
    "eps nan": (lambda: call(eps=math.nan), "eps=nan, must be"),
    "eps infinite": (lambda: call(eps=math.inf), "eps=inf, must be"),
    "eps past float32": (lambda: call(eps=1e39), r"eps=1e\+39, must be"),
    "eps boolean": (lambda: call(eps=True), "eps=True, must be"),
    "eps text": (lambda: call(eps="1e-6"), "eps='1e-6', must be"),
    "group zero": (lambda: call(group_size=0), "group_size=0, must be None or a divisor of the 128 columns"),
    "group negative": (lambda: call(group_size=-64), "group_size=-64, must be"),
    "group that does not divide": (lambda: call(group_size=48), "group_size=48, must be"),
    "group too wide": (lambda: call(group_size=256), "group_size=256, must be"),
    "group boolean": (lambda: call(group_size=True), "group_size=True, must be"),
    "group fractional": (lambda: call(group_size=64.0), "group_size=64.0, must be"),
    "order as text": (
        lambda: call(norm_before_gate="yes"),
        "norm_before_gate='yes', must be one of True, False",
    ),
    "order as a number": (lambda: call(norm_before_gate=1), "norm_before_gate=1, must be"),
    "activation": (
        lambda: call(activation="gelu"),
        "activation='gelu', must be one of 'silu', 'swish', 'sigmoid'",
    ),
    "activation none": (lambda: call(activation=None), "activation=None, must be"),
    "activation unhashable": (lambda: call(activation=["silu"]), r"activation=\['silu'\], must be"),
    "rounding": (lambda: call(rounding="eager"), "rounding='eager', must be one of 'fp32', 'hf'"),
    "path": (lambda: call(path="cuda"), "path='cuda', must be one of 'rows', 'native'"),
    "out no tensor": (lambda: call(out=1), "out is a int, must be a tensor"),
    "out of another dtype": (
        lambda: call(out=values("o", 3, 128, dtype=HALF)),
        "out is torch.float16, must be",
    ),
    "out of another shape": (
        lambda: call(out=values("o", 128)),
        r"out has shape \(128,\), must be the shape of x",
    ),
    "out over itself": (
        lambda: call(out=values("o", 1, 128).expand(3, 128)),
        r"out has strides \(0, 1\), no two",
    ),
    "out beside x": (shifted, "out shares memory with x, must have its own, or be x or gate as a whole"),
    "out across x": (crossing, "out shares memory with x, must have its own"),
    "out in the weight": (
        lambda: call(1, 128, out=(memory := values("o", 1, 128)), weight=memory[0]),
        "out shares memory with weight, must have its own",
    ),
    "out with a gradient": (
        lambda: call(out=values("o", 3, 128), weight=values("weight", 128).requires_grad_()),
        "out is given, weight must not need a gradient then",
    ),
}
