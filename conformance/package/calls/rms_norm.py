"""Calls of RMSNorm and Gemma's for the package's own tests, their expected results, and one comparison."""

from __future__ import annotations

from typing import Any

import torch

from conformance.package.calls.judged import by_the_oracle
from conformance.package.calls.rms_norm_gated import FLOAT64
from conformance.package.calls.tensors import DEVICE, Arguments, values

OPERATIONS = ("rms_norm", "gemma_rms_norm")

Results = tuple[torch.Tensor, ...]


def call(*shape: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Arguments:
    """Return the arguments of a call that rows take, with ``changes``; without a residual unless they add it."""
    shape = shape or (3, 96)
    plain = {
        "x": values("x", *shape, dtype=dtype),
        "weight": values("weight", shape[-1], dtype=dtype),
        "eps": 1e-6,
    }
    return plain | changes


def added(*shape: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Arguments:
    """Return the same call with a residual."""
    shape = shape or (3, 96)
    return call(*shape, dtype=dtype) | {"residual": values("residual", *shape, dtype=dtype)} | changes


def assert_right(operation: str, arguments: Arguments, results: Results) -> None:
    """Check results against the contract, and the shape, dtype and layout that every path promises."""
    x, residual = arguments["x"].detach(), arguments.get("residual")
    outputs = (arguments.get("out"), arguments.get("residual_out"))
    total = x
    if residual is not None:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = (x.to(wide) + residual.detach().to(wide)).to(x.dtype)
        # one addition and one rounding: there is one right sum
        assert torch.equal(total, results[1])

    assert (1 if residual is None else 2) == len(results)
    for result, given in zip(results, outputs, strict=False):
        assert (x.shape, x.dtype) == (result.shape, result.dtype)
        assert result.is_contiguous() if given is None else result is given
    if x.dtype == torch.float64:
        # the oracle judges fp32 arithmetic; native runs float64 in float64
        wanted = formula(operation, arguments, total)
        assert ((results[0].detach() - wanted).abs() <= FLOAT64 * wanted.abs()).all()
        return
    comparison = by_the_oracle(operation, arguments, results, DEVICE)
    assert comparison.elements == sum(result.numel() for result in results)
    assert not comparison.outside, str(comparison.first)


def formula(operation: str, arguments: Arguments, total: torch.Tensor) -> torch.Tensor:
    """Return y in float64, without any rounding to a narrower type."""
    weight = arguments["weight"]
    offset = 1.0 if operation == "gemma_rms_norm" else arguments.get("weight_offset", 0.0)
    factor = offset + (1.0 if weight is None else weight.detach().double())
    y = total.double()
    wanted: torch.Tensor = y / (y.square().mean(-1, keepdim=True) + arguments["eps"]).sqrt() * factor
    return wanted
