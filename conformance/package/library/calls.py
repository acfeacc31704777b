"""Calls of every op, the same calls compiled, and the arguments of the op itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.operations import Results, run
from conformance.package.calls.tensors import Arguments
from normkernels import library
from normkernels.operations.operation import OPERATIONS

BACKENDS = ("eager", "aot_eager")
LOW, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64
NORM, GATED = fp8.OPERATIONS
ROTATIONS = ("mrope", "mrope_")
Make = Callable[..., Arguments]


def but(make: Make, **changes: Any) -> Make:
    """Return a function that makes a call with changes, also to what it is asked for."""
    return lambda *shape, **how: make(*shape, **how) | changes


def in_two_groups(make: Make, **flags: Any) -> Make:
    """Return a function that makes a call of two groups a row, gated before the norm."""
    return lambda *shape, **how: make(*shape, **how, **flags, group_size=shape[-1] // 2, norm_before_gate=False)


# Functions of a shape and a dtype: each op of rows, flag and optional tensor is in some.
ROWS: dict[tuple[str, str], Make] = {
    ("rms_norm", "plain"): rms_norm.call,
    ("rms_norm", "offset, weightless"): but(rms_norm.call, weight=None, weight_offset=0.5),
    ("rms_norm", "hf, residual"): partial(rms_norm.added, rounding="hf"),
    ("gemma_rms_norm", "plain"): rms_norm.call,
    ("gemma_rms_norm", "residual"): rms_norm.added,
    ("rms_norm_gated", "plain"): rms_norm_gated.call,
    ("rms_norm_gated", "gateless"): partial(rms_norm_gated.call, rounding="hf", gate=None),
    ("rms_norm_gated", "gate first, in groups"): in_two_groups(rms_norm_gated.call, activation="sigmoid"),
    (NORM, "plain"): partial(fp8.call, NORM),
    (NORM, "weightless, one group"): but(partial(fp8.call, NORM), weight=None, quant_group=None),
    (NORM, "everything, by columns"): partial(fp8.full, NORM, scale_layout="column"),
    (NORM, "residual"): but(partial(fp8.full, NORM), also_unquantised=False),
    (GATED, "plain"): partial(fp8.call, GATED),
    (GATED, "gateless, by columns"): but(partial(fp8.full, GATED, scale_layout="column"), gate=None),
    (GATED, "gate first, in groups"): in_two_groups(partial(fp8.full, GATED), fp8_dtype=torch.float8_e4m3fnuz),
}
WITH_GRADIENTS = [each for each in ROWS if each[0] not in fp8.OPERATIONS]


def one_axis(tokens: int, *shape: Any, **how: Any) -> Arguments:
    """Return a rotation in sections, with positions on one axis."""
    return mrope.call(tokens, *shape, interleaved=False, positions=mrope.positions(tokens)[0].clone(), **how)


def flat(*shape: Any, **how: Any) -> Arguments:
    """Return a rotation of two-dimensional tensors."""
    return mrope.flat(mrope.call(*shape, **how))


# Functions of tokens, sizes and a dtype: each flag and rank is in some.
TURNS: dict[str, Make] = {"interleaved": mrope.call, "sectioned, one axis": one_axis, "flat": flat}


def compiled(operation: str, flags: Arguments, backend: Any = "eager", **how: Any) -> Callable[..., Results]:
    """Return the call as a compiled function from its tensors by name to all of its results."""

    def traced(tensors: dict[str, torch.Tensor]) -> Results:
        return run(operation, tensors | flags)

    return torch.compile(traced, backend=backend, **{"fullgraph": True, **how})


def op_of(operation: str, arguments: Arguments) -> str:
    """Return the name of the op that a compiled call is."""
    return f"{operation}_residual" if "residual" in arguments else operation


def op_arguments(operation: str, arguments: Arguments) -> tuple[Any, ...]:
    """Return the arguments of the op, which has no defaults."""
    bound = OPERATIONS[operation].signature.bind(**arguments)
    bound.apply_defaults()
    return tuple(bound.arguments[name] for name in library.OPS[op_of(operation, arguments)].types)


def op(operation: str, arguments: Arguments) -> Any:
    """Return the op of a call, as torch names it."""
    return getattr(torch.ops.normkernels, op_of(operation, arguments)).default
