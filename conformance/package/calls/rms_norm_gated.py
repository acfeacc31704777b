"""Calls of gated RMSNorm for the package's own tests, their expected results, and one comparison."""

from __future__ import annotations

from typing import Any

import torch

import normkernels
from conformance.package.calls.judged import by_the_oracle
from conformance.package.calls.tensors import DEVICE, Arguments, values

FLOAT64 = 1e-12  # relative to the result and to the largest element of its row


def call(*shape: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Arguments:
    """Return the arguments of a call that the 128 plans take, with ``changes``."""
    shape = shape or (3, 128)
    plain = {
        "x": values("x", *shape, dtype=dtype),
        "gate": values("gate", *shape, dtype=dtype),
        "weight": values("weight", shape[-1], dtype=dtype),
        "eps": 1e-6,
    }
    return plain | changes


def formula(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    activation: str = "silu",
    **_how: object,
) -> torch.Tensor:
    """Return the operation's value in float64, without any rounding to a narrower type."""
    y = x.detach().double()
    act: torch.Tensor | float = 1.0
    if gate is not None:
        act = torch.sigmoid(gate.detach().double())
        if activation != "sigmoid":
            act = act * gate.detach().double()
    if not norm_before_gate:
        y = y * act
    groups = y.reshape(*y.shape[:-1], -1, group_size or y.shape[-1])
    y = (groups / (groups.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(y.shape)
    y = y * weight.detach().double()
    return y * act if norm_before_gate else y


def assert_right(arguments: Arguments, result: torch.Tensor) -> None:
    """Check a result against the contract, and the shape, dtype and layout that every path promises."""
    x = arguments["x"]

    assert (x.shape, x.dtype) == (result.shape, result.dtype)
    assert result.is_contiguous() or arguments.get("out") is result
    if x.dtype == torch.float64:
        # the oracle judges fp32 arithmetic; native runs float64 in float64
        wanted = formula(**arguments)
        largest = wanted.abs().amax(-1, keepdim=True)
        assert ((result.detach() - wanted).abs() <= FLOAT64 * (wanted.abs() + largest)).all()
        return
    comparison = by_the_oracle("rms_norm_gated", arguments, (result,), DEVICE)
    assert comparison.elements == result.numel()
    assert not comparison.outside, str(comparison.first)


def run(arguments: Arguments) -> torch.Tensor:
    """Make the call."""
    return normkernels.rms_norm_gated(**arguments)


def explain(arguments: Arguments) -> normkernels.Decision:
    """Return the decision on the call."""
    return normkernels.explain("rms_norm_gated", **arguments)
