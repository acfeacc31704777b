"""Calls that just qualify for a path, and calls that just do not: every reason, for every operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values
from normkernels import Reason, plans

DOUBLE, FP8 = torch.float64, torch.float8_e4m3fn
NORM, GATED = fp8.OPERATIONS
Make = Callable[[], Arguments]


@dataclass(frozen=True, slots=True)
class Pair:
    """A reason, and two calls that differ in one condition: one qualifies, the other has the reason against it."""

    reason: Reason
    qualifies: Make
    misses: Make


class Subclass(torch.Tensor):
    """A tensor subclass, which may redefine operations."""


def subclass(name: str, *shape: int) -> torch.Tensor:
    """Return values whose type may mean something else."""
    return values(name, *shape).as_subclass(Subclass)


def needing(name: str, *shape: int) -> torch.Tensor:
    """Return values that need a gradient."""
    return values(name, *shape).requires_grad_()


def apart(make: Callable[..., Arguments], name: str, leading: int) -> Arguments:
    """Return a call of five sizes, the first ``leading`` with gaps in the memory of the tensor named."""
    shape = (2, 2, 2, 2, 8)
    wider = [size + (5 - leading <= at < 4) for at, size in enumerate(shape)]
    arguments = make(*shape)
    dtype = FP8 if name == "out" and "fp8_dtype" in arguments else torch.float32
    tensor = torch.zeros(wider, dtype=dtype, device=DEVICE)[tuple(slice(size) for size in shape)]
    return arguments | {name: tensor.copy_(values(name, *shape))}


def leading_sizes(make: Callable[..., Arguments], *names: str) -> dict[str, Pair]:
    """Return a pair for each tensor named, whose sizes are three or four apart in memory."""
    return {
        f"leading sizes of {name}": Pair(
            Reason.LEADING_STRIDES, partial(apart, make, name, 3), partial(apart, make, name, 4)
        )
        for name in names
    }


def of_rms_norm_gated() -> dict[str, Pair]:
    """Return the pairs of the gated norm, which has plans for contiguous rows of 128 columns."""
    call = rms_norm_gated.call
    out = partial(values, "out", 3, 128)
    return {
        "no gate": Pair(Reason.NO_GATE, call, lambda: call(gate=None)),
        "groups": Pair(Reason.GROUPED, lambda: call(group_size=128), lambda: call(group_size=64)),
        "gate first": Pair(Reason.GATE_FIRST, call, lambda: call(norm_before_gate=False)),
        "width": Pair(Reason.WIDTH, call, lambda: call(3, 127)),
        "x with gaps": Pair(Reason.X_NOT_CONTIGUOUS, call, lambda: call(x=strided(values("x", 3, 128)))),
        "gate with gaps": Pair(
            Reason.GATE_NOT_CONTIGUOUS, call, lambda: call(gate=strided(values("gate", 3, 128)))
        ),
        "out with gaps": Pair(
            Reason.OUT_NOT_CONTIGUOUS, lambda: call(out=out()), lambda: call(out=strided(out()))
        ),
        "float64": Pair(Reason.DTYPE, call, lambda: call(dtype=DOUBLE)),
        **leading_sizes(call, "x"),
        "wide": Pair(Reason.TOO_WIDE, lambda: call(1, plans.MAX_WIDTH), lambda: call(1, plans.MAX_WIDTH + 1)),
        "gradient of the weight": Pair(Reason.NEEDS_GRAD, call, lambda: call(weight=needing("weight", 128))),
        "subclass": Pair(Reason.SUBCLASS, call, lambda: call(x=subclass("x", 3, 128))),
        "forced": Pair(Reason.FORCED, lambda: call(path="rows"), lambda: call(path="native")),
    }


def of_rms_norm() -> dict[str, Pair]:
    """Return the pairs of RMSNorm and Gemma's."""
    call, added = rms_norm.call, rms_norm.added
    return {
        "float64": Pair(Reason.DTYPE, added, lambda: added(dtype=DOUBLE)),
        **leading_sizes(added, "x", "residual", "out", "residual_out"),
        "wide": Pair(Reason.TOO_WIDE, lambda: call(1, plans.MAX_WIDTH), lambda: call(1, plans.MAX_WIDTH + 1)),
        "gradient of the weight": Pair(Reason.NEEDS_GRAD, call, lambda: call(weight=needing("weight", 96))),
        "gradient of the residual": Pair(
            Reason.NEEDS_GRAD, added, lambda: added(residual=needing("residual", 3, 96))
        ),
        "subclass": Pair(Reason.SUBCLASS, call, lambda: call(x=subclass("x", 3, 96))),
        "negated residual": Pair(
            Reason.SUBCLASS, added, lambda: added(residual=torch._neg_view(values("residual", 3, 96)))
        ),
        "forced": Pair(Reason.FORCED, lambda: call(path="rows"), lambda: call(path="native")),
    }


def of_fp8(operation: str) -> dict[str, Pair]:
    """Return the pairs of a norm with fp8 values."""
    call, full = partial(fp8.call, operation), partial(fp8.full, operation)
    out = partial(torch.empty, 3, 96, dtype=FP8, device=DEVICE)
    padded = partial(call, quant_group=129)
    grouped = partial(call, 3, 192)
    own = ("gate",) if operation == GATED else ("residual", "residual_out")
    pairs = {
        "float64": Pair(Reason.DTYPE, full, lambda: full(dtype=DOUBLE)),
        **leading_sizes(full, "x", "out", *own),
        "wide": Pair(Reason.TOO_WIDE, lambda: call(1, plans.MAX_WIDTH), lambda: call(1, plans.MAX_WIDTH + 1)),
        # 128 groups in 256 columns each, and 129
        "wide with its padding": Pair(
            Reason.TOO_WIDE, lambda: padded(1, 128 * 129), lambda: padded(1, 128 * 129 + 1)
        ),
        "subclass": Pair(Reason.SUBCLASS, call, lambda: call(x=subclass("x", 3, 96))),
        "subclass of out": Pair(
            Reason.SUBCLASS, lambda: call(out=out()), lambda: call(out=out().as_subclass(Subclass))
        ),
        "forced": Pair(Reason.FORCED, lambda: call(path="rows"), lambda: call(path="native")),
    }
    if operation == GATED:
        pairs["quant groups in norm groups"] = Pair(
            Reason.QUANT_GROUP,
            lambda: grouped(group_size=96, quant_group=48),
            lambda: grouped(group_size=96, quant_group=64),
        )
        pairs["norm groups in quant groups"] = Pair(
            Reason.QUANT_GROUP,
            lambda: grouped(group_size=32, quant_group=64),
            lambda: grouped(group_size=32, quant_group=65),
        )
    return pairs


def of_mrope() -> dict[str, Pair]:
    """Return the pairs of the rotation."""
    call, widest = mrope.call, plans.MAX_HEAD_DIM
    return {
        "float64": Pair(Reason.DTYPE, call, lambda: call(dtype=DOUBLE)),
        "a wide head": Pair(
            Reason.HEAD_DIM_LIMIT, lambda: call(2, (2, 1), widest), lambda: call(2, (2, 1), widest + 1)
        ),
        "gradient of q": Pair(Reason.NEEDS_GRAD, call, lambda: call(q=needing("q", 5, 6, 64))),
        "gradient of sin": Pair(Reason.NEEDS_GRAD, call, lambda: call(sin=needing("sin", 51, 16))),
        "subclass of k": Pair(Reason.SUBCLASS, call, lambda: call(k=subclass("k", 5, 2, 64))),
        "subclass of positions": Pair(
            Reason.SUBCLASS, call, lambda: call(positions=mrope.positions(5).as_subclass(Subclass))
        ),
        "negated q": Pair(Reason.SUBCLASS, call, lambda: call(q=torch._neg_view(values("q", 5, 6, 64)))),
        "forced": Pair(Reason.FORCED, lambda: call(path="heads"), lambda: call(path="native")),
    }


TABLES: dict[str, dict[str, Pair]] = {
    "rms_norm_gated": of_rms_norm_gated(),
    **dict.fromkeys(rms_norm.OPERATIONS, of_rms_norm()),
    **{operation: of_fp8(operation) for operation in fp8.OPERATIONS},
    "mrope": of_mrope(),
}
PAIRS = {(operation, name): pair for operation, pairs in TABLES.items() for name, pair in pairs.items()}
