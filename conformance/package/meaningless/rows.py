"""Calls without a meaning that operations of rows share, and what their errors say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch

from conformance.package.calls.tensors import DEVICE, Arguments, values

HALF, DOUBLE = torch.float16, torch.float64
Calls = dict[str, tuple[Callable[[], Arguments], str]]  # by name: how a call is made, and the message of its error


def changed(call: Callable[..., Arguments], table: Mapping[str, tuple[Arguments, str]]) -> Calls:
    """Return the calls of a table of changes and messages."""
    return {name: (partial(call, **changes), message) for name, (changes, message) in table.items()}


def of_rows(call: Callable[..., Arguments], n: int) -> Calls:
    """Return calls of three rows of ``n`` columns that are wrong in x, the weight, out or a flag of any norm."""
    x, out, needing = values("x", 3, n), values("o", 3, n), values("weight", n).requires_grad_()
    table: dict[str, tuple[Arguments, str]] = {
        "x no tensor": ({"x": [1.0]}, "x is a list, must be a tensor"),
        "x sparse": ({"x": x.to_sparse()}, "x is torch.sparse_coo, must be torch.strided"),
        "x scalar": ({"x": torch.tensor(1.0, device=DEVICE)}, r"x has shape \(\), must have a last dimension"),
        "x integer": ({"x": x.int()}, "x is torch.int32, must be one of"),
        "x fp8": ({"x": x.to(torch.float8_e4m3fn)}, "x is torch.float8_e4m3fn, must be"),
        "x complex": ({"x": x.to(torch.complex64)}, "x is torch.complex64, must be"),
        "weight no tensor": ({"weight": 1.0}, "weight is a float, must be a tensor"),
        "weight half beside float": (
            {"weight": values("weight", n, dtype=HALF)},
            "weight is torch.float16, must be one of torch.float32",
        ),
        "weight wide": (
            {"weight": values("w", n + 1)},
            rf"weight has shape \({n + 1},\), must be the last dim.*\({n},\)",
        ),
        "weight of one": ({"weight": values("w", 1)}, r"weight has shape \(1,\), must be"),
        "weight of rank 2": ({"weight": values("w", 1, n)}, rf"weight has shape \(1, {n}\), must be"),
        "weight elsewhere": ({"weight": torch.empty(n, device="meta")}, "weight is on meta, must be"),
        "eps negative": ({"eps": -1e-6}, "eps=-1e-06, must be a number, at least 0 and finite in float32"),
        "eps nan": ({"eps": math.nan}, "eps=nan, must be"),
        "eps infinite": ({"eps": math.inf}, "eps=inf, must be"),
        "eps past float64": ({"eps": 10**400}, "eps=10+, must be"),
        "eps past float32": ({"eps": 1e39}, r"eps=1e\+39, must be"),
        "eps boolean": ({"eps": True}, "eps=True, must be"),
        "eps text": ({"eps": "1e-6"}, "eps='1e-6', must be"),
        "rounding": ({"rounding": "eager"}, "rounding='eager', must be one of 'fp32', 'hf'"),
        "path": ({"path": "cuda"}, "path='cuda', must be one of 'rows', 'native'"),
        "out no tensor": ({"out": 1}, "out is a int, must be a tensor"),
        "out of another dtype": ({"out": values("o", 3, n, dtype=HALF)}, "out is torch.float16, must be"),
        "out of another shape": (
            {"out": values("o", n)},
            rf"out has shape \({n},\), must be the shape of x",
        ),
        "out over itself": ({"out": values("o", 1, n).expand(3, n)}, r"out has strides \(0, 1\), no two"),
        "out with a gradient": (
            {"out": out, "weight": needing},
            "out is given, weight must not need a gradient then",
        ),
    }
    return changed(call, table)


def of_shape(call: Callable[..., Arguments], name: str, n: int) -> Calls:
    """Return calls of three rows of ``n`` columns whose tensor named, which must have the shape of x, is wrong."""
    table: dict[str, tuple[Arguments, str]] = {
        "no tensor": ({name: 1.0}, f"{name} is a float, must be a tensor"),
        "integer": ({name: values(name, 3, n).int()}, f"{name} is torch.int32, must be one of"),
        "double": ({name: values(name, 3, n, dtype=DOUBLE)}, f"{name} is torch.float64, must be one of"),
        "of other rows": (
            {name: values("r", 4, n)},
            rf"{name} has shape \(4, {n}\), must be the shape of x, \(3, {n}\)",
        ),
        "that broadcasts": ({name: values("r", 1, n)}, rf"{name} has shape \(1, {n}\), must be"),
        "of rank 3": ({name: values("r", 1, 3, n)}, rf"{name} has shape \(1, 3, {n}\), must be"),
        "elsewhere": ({name: torch.empty(3, n, device="meta")}, f"{name} is on meta, must be on x's device"),
    }
    return changed(call, {f"{name} {how}": each for how, each in table.items()})
