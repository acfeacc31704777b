"""Calls of the norms with fp8 values for the package's own tests, their expected results, and one comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import normkernels
from conformance.package.calls.judged import by_the_oracle
from conformance.package.calls.tensors import DEVICE, Arguments, values
from normkernels.call import Device, dtype_name

Array = npt.NDArray[Any]
Results = tuple[torch.Tensor, ...]

OPERATIONS = ("rms_norm_fp8", "rms_norm_gated_fp8")
TYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)
# From the definitions of the formats: the largest number, and the least amax of a scale.
MAX = {torch.float8_e4m3fn: 448.0, torch.float8_e4m3fnuz: 240.0}
FLOOR = 1e-10
# Each path with the types that it runs here: rows are for those that the GPU converts to, if there is one.
CONVERTED = Device.of(torch.empty(0, device=DEVICE)).fp8
FORMS = [
    (path, dtype)
    for path in ("rows", "native")
    for dtype in TYPES
    if path == "native" or dtype_name(dtype) in CONVERTED
]


def call(operation: str, *shape: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Arguments:
    """Return the arguments of a call that rows take, with ``changes``: two quant groups, the last one shorter."""
    shape = shape or (3, 96)
    plain = {
        "x": values("x", *shape, dtype=dtype),
        "weight": values("weight", shape[-1], dtype=dtype),
        "eps": 1e-6,
        "quant_group": 64,
        "fp8_dtype": torch.float8_e4m3fn,
    }
    if operation == "rms_norm_gated_fp8":
        plain["gate"] = values("gate", *shape, dtype=dtype)
    return plain | changes


def full(operation: str, *shape: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Arguments:
    """Return a call that asks for every optional result: a residual sum if the operation has one, and y."""
    shape = shape or (3, 96)
    more: Arguments = {"also_unquantised": True}
    if operation == "rms_norm_fp8":
        more["residual"] = values("residual", *shape, dtype=dtype)
    return call(operation, *shape, dtype=dtype) | more | changes


def assert_right(operation: str, arguments: Arguments, results: Results) -> None:
    """Check results against the contract, and the shapes, dtypes and layouts that every path promises.

    Given outputs have memory of their own. A call without y is made again, with y.
    """
    x, (got, scales, *others) = arguments["x"], results
    *leading, n = x.shape
    group = min(arguments["quant_group"] or n, n)
    # values, scales, y if it was asked for, s if there is a residual
    shapes = [x.shape, (*leading, -(-n // group)), *[x.shape] * len(others)]
    dtypes = [arguments["fp8_dtype"], torch.float32, *[x.dtype] * len(others)]
    assert shapes == [result.shape for result in results]
    assert dtypes == [result.dtype for result in results]
    assert bool(arguments.get("also_unquantised")) + ("residual" in arguments) == len(others)
    assert strides(arguments.get("scale_layout", "row"), leading, -(-n // group)) == scales.stride()
    assert got.is_contiguous() if "out" not in arguments else got is arguments["out"]

    again = {k: each for k, each in arguments.items() if k not in {"out", "residual_out"}}
    # without the given outputs the call might run on another path, with other bits
    again["path"] = normkernels.explain(operation, **arguments).path
    if not arguments.get("also_unquantised"):
        results = getattr(normkernels, operation)(**again | {"also_unquantised": True})
        # asking for y changes nothing else
        assert same([got, scales, *others], [*results[:2], *results[3:]])
    y = results[2].detach().as_subclass(torch.Tensor)
    if x.dtype != torch.float64:
        # the oracle judges fp32 arithmetic; native runs float64 in float64
        judged = by_the_oracle(operation.removesuffix("_fp8"), again, results[2:], DEVICE)
        assert not judged.outside, str(judged.first)
    for want, have in zip(quantised(y, group, arguments["fp8_dtype"]), (got, scales), strict=True):
        assert np.array_equal(want, numbers(have), equal_nan=True)


def same(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are equal pairwise, dtypes too: NaN equals NaN, and zeros must have equal signs."""
    pairs = list(zip(map(numbers, some), map(numbers, others), strict=True))
    return [each.dtype for each in some] == [each.dtype for each in others] and all(
        np.array_equal(a, b, equal_nan=True) and bool((np.isnan(a) | (np.signbit(a) == np.signbit(b))).all())
        for a, b in pairs
    )


def numbers(tensor: torch.Tensor) -> Array:
    """Return the numbers of a tensor, exactly."""
    array: Array = tensor.detach().as_subclass(torch.Tensor).double().cpu().numpy()
    return array


def strides(layout: str, leading: Sequence[int], groups: int) -> tuple[int, ...]:
    """Return the strides of scales: contiguous, or contiguous with the groups outermost."""
    inner = [math.prod(leading[at + 1 :]) for at in range(len(leading))]
    return (*(step * groups for step in inner), 1) if layout == "row" else (*inner, math.prod(leading))


def quantised(y: torch.Tensor, group: int, dtype: torch.dtype) -> tuple[Array, Array]:
    """Return values and scales of rows, a group at a time: divisions in fp32, values from the type's table."""
    rows: Array = y.float().cpu().numpy() if y.dtype != torch.float64 else y.cpu().numpy()
    largest, grid = rows.dtype.type(MAX[dtype]), np.unique(_table(dtype))
    values, scales = np.empty(rows.shape), []
    with np.errstate(invalid="ignore"):
        for start in range(0, rows.shape[-1], group):
            part = rows[..., start : start + group]
            amax = np.maximum(np.abs(part).max(-1, keepdims=True), rows.dtype.type(FLOOR))
            scales.append((amax / largest).astype(np.float32))
            ratio = np.clip((part / scales[-1]).astype(np.float64), -MAX[dtype], MAX[dtype])
            values[..., start : start + group] = _nearest(ratio, grid)
    return values, np.concatenate(scales, -1)


def _table(dtype: torch.dtype) -> Array:
    """Return every finite number of a type, computed from its definition: 4 bits of exponent, 3 of fraction."""
    exponent, fraction = np.divmod(np.arange(128), 8)
    bias = 7 if dtype == torch.float8_e4m3fn else 8
    magnitude = np.ldexp(np.where(exponent == 0, fraction, fraction + 8), np.maximum(exponent, 1) - bias - 3)
    # the last code of e4m3fn is its NaN
    finite: Array = magnitude[magnitude <= MAX[dtype]]
    return np.concatenate([finite, -finite])


def _nearest(ratio: Array, grid: Array) -> Array:
    """Round to nearest, ties to the number with an even fraction; NaN stays NaN."""
    above = np.searchsorted(grid, ratio).clip(1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    # neighbours alternate, and zero, in the middle of the table, is even
    even = (above - 1 - len(grid) // 2) % 2 == 0
    nearer_low = (ratio - low < high - ratio) | ((ratio - low == high - ratio) & even)
    return np.where(np.isnan(ratio), np.nan, np.where(nearer_low, low, high))
