"""Calls of RMSNorm and Gemma's for the package's own tests, what they must come to, and one comparison."""

from __future__ import annotations

from typing import Any

import torch

import normkernels
from conformance.package.gated_calls import FLOAT64, Arguments, values

OPERATIONS = ("rms_norm", "gemma_rms_norm")

# fp32 arithmetic: a sum of up to 64 additions, halved by the root, and a few roundings after it
ARITHMETIC = 2.0**-19

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
    """Return the same with a residual."""
    shape = shape or (3, 96)
    return call(*shape, dtype=dtype) | {"residual": values("residual", *shape, dtype=dtype)} | changes


def run(operation: str, arguments: Arguments) -> Results:
    """Make the call and return all of its results."""
    results = getattr(normkernels, operation)(**arguments)
    return results if isinstance(results, tuple) else (results,)


def explain(operation: str, arguments: Arguments) -> normkernels.Decision:
    """Return the decision on the call."""
    return normkernels.explain(operation, **arguments)


def assert_right(operation: str, arguments: Arguments, results: Results) -> None:
    """Hold results to the contract, and to the shape, dtype and layout that every path promises."""
    x, residual = arguments["x"].detach(), arguments.get("residual")
    outputs = (arguments.get("out"), arguments.get("residual_out"))
    total = x
    if residual is not None:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = (x.to(wide) + residual.detach().to(wide)).to(x.dtype)
        # one addition and one rounding: there is one right sum
        assert torch.equal(total, results[1])
    lo, hi = allowed(operation, arguments, total)

    assert (1 if residual is None else 2) == len(results)
    for result, given in zip(results, outputs, strict=False):
        assert (x.shape, x.dtype) == (result.shape, result.dtype)
        assert result.is_contiguous() if given is None else result is given
    assert ((lo <= results[0]) & (results[0] <= hi)).all()


def allowed(operation: str, arguments: Arguments, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest right y of each element.

    It is a formula in float64, rounded where the contract rounds.
    """
    dtype, weight = total.dtype, arguments["weight"]
    slack = FLOAT64 if dtype == torch.float64 else ARITHMETIC
    offset = 1.0 if operation == "gemma_rms_norm" else arguments.get("weight_offset", 0.0)
    rounds = arguments.get("rounding") == "hf" and not offset
    wide = torch.promote_types(dtype, torch.float32)
    factor = torch.ones_like(total[..., :1], dtype=wide) if weight is None else weight.detach().to(wide)
    factor = (factor + offset).double()
    weighted = dtype if weight is None else torch.promote_types(dtype, weight.dtype)

    y = total.double()
    y = y / (y.square().mean(-1, keepdim=True) + arguments["eps"]).sqrt()
    ends = [y - slack * y.abs(), y + slack * y.abs()]
    if rounds:
        ends = [end.to(dtype).double() for end in ends]
    ends = [end * factor for end in ends]
    lo, hi = torch.minimum(*ends), torch.maximum(*ends)
    lo, hi = lo - slack * lo.abs(), hi + slack * hi.abs()
    if rounds:
        lo, hi = lo.to(weighted), hi.to(weighted)
    return lo.to(dtype), hi.to(dtype)
