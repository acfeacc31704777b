"""Native forms compute float64 in float64, with the gradients of the formula."""

from __future__ import annotations

import torch

import normkernels
from conformance.package.calls import fp8, mrope, rms_norm
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import Arguments, values
from conformance.selftest.every import every

DOUBLE = torch.float64


@every("operation", fp8.OPERATIONS)
def test_float64_is_quantised_in_float64(operation: str) -> None:
    """The native path quantises float64 in float64, with fp32 scales."""
    arguments = fp8.full(operation, dtype=torch.float64)
    results = run(operation, arguments)
    plain: Arguments = {
        name: arguments[name] for name in ("x", "gate", "residual", "weight", "eps") if name in arguments
    }
    want = getattr(normkernels, operation.removesuffix("_fp8"))(**plain)

    assert fp8.same(want if isinstance(want, tuple) else (want,), results[2:])
    fp8.assert_right(operation, arguments, results)


def test_float64_is_rotated_in_float64() -> None:
    """Narrower tensors may be in the same call."""
    arguments = mrope.call(dtype=DOUBLE)
    arguments |= {"sin": arguments["sin"].float()}
    mrope.assert_right(arguments, mrope.run(arguments))


@every("operation", rms_norm.OPERATIONS)
def test_gradients_are_those_of_the_formula(operation: str) -> None:
    """The native path gives x, residual and weight their gradients through y and s."""
    given = [values(name, *shape, dtype=DOUBLE) for name, shape in (("x", (3, 8)), ("r", (3, 8)), ("w", (8,)))]

    def both(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return run(operation, {"x": x, "residual": residual, "weight": weight, "eps": 1e-3})

    assert torch.autograd.gradcheck(both, [tensor.requires_grad_() for tensor in given])


def test_gradients_of_a_rotation_are_those_of_the_formula() -> None:
    """The native path gives the gradients of q, k, cos and sin."""
    plain = mrope.call(3, (2, 1), 8, 3, DOUBLE, sections=(1, 1, 1))
    # a cache of few rows: each of its elements costs a call
    plain |= {"positions": plain["positions"] % 6, "cos": plain["cos"][:6], "sin": plain["sin"][:6]}
    names = ("q", "k", "cos", "sin")

    def both(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mrope.run(plain | dict(zip(names, given, strict=True)))

    assert torch.autograd.gradcheck(both, [plain[name].requires_grad_() for name in names])
