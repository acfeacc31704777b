"""From the arguments of each operation to a description, once they are known to have a meaning.

A function per operation, with its signature: norms here, those with fp8 values in ``describe_fp8``, rotations in
``describe_mrope``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.autograd import forward_ad

from normkernels import validate
from normkernels.call import Call, Gated
from normkernels.errors import InvalidCall
from normkernels.strides import PLAIN, leading

ACTIVATIONS = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}
ROUNDINGS = ("fp32", "hf")

# A call, and its flags as the paths take them.
Described = tuple[Call, Mapping[str, Any]]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    residual: torch.Tensor | None = None,
    weight_offset: float = 0.0,
    eps: float,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> Described:
    """Describe a call of ``rms_norm``."""
    weights = present(weight=weight)
    return describe_norm("rms_norm", x, weights, residual, weight_offset, eps, rounding, out, residual_out)


def gemma_rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    eps: float,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> Described:
    """Describe a call of ``gemma_rms_norm``: one without a weight has no meaning."""
    return describe_norm("gemma_rms_norm", x, {"weight": weight}, residual, 1.0, eps, rounding, out, residual_out)


def rms_norm_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    activation: str = "silu",
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
) -> Described:
    """Describe a call of ``rms_norm_gated``."""
    operation = "rms_norm_gated"
    return describe_gated(operation, x, gate, weight, eps, group_size, norm_before_gate, activation, rounding, out)


def describe_norm(
    operation: str,
    x: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    residual: torch.Tensor | None,
    weight_offset: float,
    eps: float,
    rounding: str,
    out: torch.Tensor | None,
    residual_out: torch.Tensor | None,
) -> Described:
    """Describe a norm, whatever becomes of its result; ``weights`` hold its weight, if it has one."""
    optional, outputs = present(residual=residual), present(out=out, residual_out=residual_out)
    if residual_out is not None and residual is None:
        raise InvalidCall(f"{operation}: residual_out is given, residual must be given then")
    hold_tensors(operation, x, weights, optional, outputs)
    offset = validate.number(operation, "weight_offset", weight_offset)
    eps = validate.epsilon(operation, eps)
    validate.choice(operation, "rounding", rounding, ROUNDINGS)
    hold_norm_outputs(operation, {"x": x, **weights, **optional}, outputs)

    call = _call(operation, x, weights, optional | outputs, x.shape[-1])
    call = replace(call, residual=residual is not None)
    # Hugging Face rounds a plain weight's product, and nothing before the store where one is added to it
    return call, {"eps": eps, "offset": offset, "rounding": "fp32" if offset else rounding}


def describe_gated(
    operation: str,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,  # noqa: FBT001  (a flag of the operation, passed on)
    activation: str,
    rounding: str,
    out: torch.Tensor | None,
) -> Described:
    """Describe a gated norm, whatever becomes of its result."""
    optional = present(gate=gate)
    outputs = present(out=out)
    hold_tensors(operation, x, {"weight": weight}, optional, outputs)
    eps = validate.epsilon(operation, eps)
    width = validate.group_width(operation, group_size, x.shape[-1])
    validate.choice(operation, "norm_before_gate", norm_before_gate, (True, False))
    validate.choice(operation, "activation", activation, tuple(ACTIVATIONS))
    validate.choice(operation, "rounding", rounding, ROUNDINGS)
    hold_gated_outputs(operation, {"x": x, "weight": weight} | optional, outputs)

    order = "none" if gate is None else "after" if norm_before_gate else "before"
    gated = Gated(
        gate=order,
        x_contiguous=x.is_contiguous(),
        gate_contiguous=gate is None or gate.is_contiguous(),
        out_contiguous=out is None or out.is_contiguous(),
    )
    call = _call(operation, x, {"weight": weight}, optional | outputs, width, gated)
    return call, {
        "eps": eps,
        "width": width,
        "gated": order,
        "activation": ACTIVATIONS[activation],
        "rounding": rounding,
    }


def present(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the tensors that are given."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def hold_tensors(
    operation: str,
    x: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    optional: Mapping[str, torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
) -> None:
    """Hold the tensors of a norm to types, dtypes and shapes that fit x."""
    validate.tensors(operation, {"x": x, **weights, **optional, **outputs})
    if x.dim() == 0:
        raise InvalidCall(f"{operation}: x has shape (), must have a last dimension")
    validate.dtype(operation, "x", x, (*validate.LOW, torch.float64))
    for name, tensor in weights.items():
        validate.dtype(operation, name, tensor, (x.dtype, torch.float32))
        validate.shape(operation, name, tensor, (x.shape[-1],), "the last dimension of x")
    for name, tensor in optional.items():
        validate.dtype(operation, name, tensor, (x.dtype, *validate.LOW))
        validate.shape(operation, name, tensor, tuple(x.shape), "the shape of x")
    for name, tensor in outputs.items():
        validate.dtype(operation, name, tensor, (x.dtype,))
        validate.shape(operation, name, tensor, tuple(x.shape), "the shape of x")


def hold_norm_outputs(
    operation: str, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]
) -> None:
    """Hold the outputs of a norm that are given: each may be x or the residual."""
    _hold_outputs(operation, inputs, outputs, {"out": ("x", "residual"), "residual_out": ("residual", "x")})


def hold_gated_outputs(
    operation: str, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]
) -> None:
    """Hold the output of a gated norm that is given: it may be x or the gate."""
    _hold_outputs(operation, inputs, outputs, {"out": ("x", "gate")})


def _hold_outputs(
    operation: str,
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
    may_be: Mapping[str, tuple[str, ...]],
) -> None:
    """Hold the outputs given to memory that may be written, and that no gradient needs."""
    taken = dict(inputs)
    for name, tensor in outputs.items():
        if needs_grad := needs_gradient({**inputs, **outputs}):
            raise InvalidCall(f"{operation}: {name} is given, {needs_grad} must not need a gradient then")
        validate.output(operation, name, tensor, taken, may_be[name])
        taken[name] = tensor


def _call(
    operation: str,
    x: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    like_x: Mapping[str, torch.Tensor],
    width: int,
    gated: Gated | None = None,
) -> Call:
    given = {"x": x, **weights, **like_x}
    return Call(
        operation=operation,
        dtype=str(x.dtype).removeprefix("torch."),
        n=x.shape[-1],
        width=width,
        rows=x.numel() // width if width else 0,
        leading=len(leading((x, *like_x.values()), width).sizes),
        needs_grad=needs_gradient(given),
        not_plain=not_plain_argument(given),
        gated=gated,
    )


def needs_gradient(given: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first argument whose gradient somebody may ask for."""
    if not torch.is_grad_enabled():
        return None
    return next((name for name, tensor in given.items() if tensor.requires_grad), None)


def not_plain_argument(given: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first argument whose memory does not hold its values, and what it is."""
    for name, tensor in given.items():
        if type(tensor) not in PLAIN:
            return f"{name}, a {type(tensor).__name__}"
        if tensor.is_neg():
            return f"{name}, a negated view"
    return "a call under a function transform" if transformed() else None


def transformed() -> bool:
    """Whether functorch or forward-mode autograd may hide more than values in a plain tensor."""
    # torch has no public question for either
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0  # noqa: SLF001
