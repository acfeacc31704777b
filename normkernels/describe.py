"""From the arguments of each operation to a description, once they are known to have a meaning.

A function per operation, with its signature, in ``DESCRIBE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd import forward_ad

from normkernels import fp8, validate
from normkernels.call import Call, Gated, Heads, Quantised
from normkernels.errors import InvalidCall
from normkernels.kernels import plans
from normkernels.strides import by_heads, leading

ACTIVATIONS = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}
ROUNDINGS = ("fp32", "hf")
PLAIN = (torch.Tensor, torch.nn.Parameter)

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
    weights = _present(weight=weight)
    return _rms_norm("rms_norm", x, weights, residual, weight_offset, eps, rounding, out, residual_out)


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
    return _rms_norm("gemma_rms_norm", x, {"weight": weight}, residual, 1.0, eps, rounding, out, residual_out)


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
    return _rms_norm_gated(
        operation, x, gate, weight, eps, group_size, norm_before_gate, activation, rounding, out
    )


def rms_norm_fp8(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    eps: float,
    residual: torch.Tensor | None = None,
    weight_offset: float = 0.0,
    quant_group: int | None = 128,
    scale_layout: str = "row",
    fp8_dtype: torch.dtype,
    also_unquantised: bool = False,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> Described:
    """Describe a call of ``rms_norm_fp8``."""
    operation = "rms_norm_fp8"
    weights = _present(weight=weight)
    described = _rms_norm(operation, x, weights, residual, weight_offset, eps, rounding, None, residual_out)
    how = quantisation(operation, x, quant_group, scale_layout, fp8_dtype, also_unquantised)
    taken = {"x": x} | weights | _present(residual=residual, residual_out=residual_out)
    return _quantised(described, taken, how, x.shape[-1], out, also_unquantised)


def rms_norm_gated_fp8(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    activation: str = "silu",
    quant_group: int | None = 128,
    scale_layout: str = "row",
    fp8_dtype: torch.dtype,
    also_unquantised: bool = False,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
) -> Described:
    """Describe a call of ``rms_norm_gated_fp8``."""
    operation = "rms_norm_gated_fp8"
    described = _rms_norm_gated(
        operation, x, gate, weight, eps, group_size, norm_before_gate, activation, rounding, None
    )
    how = quantisation(operation, x, quant_group, scale_layout, fp8_dtype, also_unquantised)
    taken = {"x": x, "weight": weight} | _present(gate=gate)
    return _quantised(described, taken, how, described[1]["width"], out, also_unquantised)


def mrope(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: Sequence[int],
    head_dim: int | None = None,
    interleaved: bool = True,
) -> Described:
    """Describe a call of ``mrope``."""
    given = {"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin}
    described = _mrope("mrope", given, sections, head_dim, interleaved)
    hold_positions("mrope", positions, cos)
    return described


def mrope_(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: Sequence[int],
    head_dim: int | None = None,
    interleaved: bool = True,
) -> Described:
    """Describe a call of ``mrope_``, whose q and k are written."""
    given = {"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin}
    described = _mrope("mrope_", given, sections, head_dim, interleaved)
    hold_in_place(**given)
    return described


DESCRIBE: Mapping[str, Callable[..., Described]] = {
    "rms_norm": rms_norm,
    "gemma_rms_norm": gemma_rms_norm,
    "rms_norm_gated": rms_norm_gated,
    "mrope": mrope,
    "mrope_": mrope_,
    "rms_norm_fp8": rms_norm_fp8,
    "rms_norm_gated_fp8": rms_norm_gated_fp8,
}


def _rms_norm(
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
    optional = _present(residual=residual)
    outputs = _present(out=out, residual_out=residual_out)
    if residual_out is not None and residual is None:
        raise InvalidCall(f"{operation}: residual_out is given, residual must be given then")
    hold_tensors(operation, x, weights, optional, outputs)
    offset = validate.number(operation, "weight_offset", weight_offset)
    eps = validate.epsilon(operation, eps)
    validate.choice(operation, "rounding", rounding, ROUNDINGS)
    inputs = {"x": x, **weights, **optional}
    may_be = {"out": ("x", "residual"), "residual_out": ("residual", "x")}
    _hold_outputs(operation, inputs, outputs, may_be)

    call = _call(operation, x, weights, optional | outputs, x.shape[-1])
    # Hugging Face rounds a plain weight's product, and nothing before the store where one is added to it
    return call, {"eps": eps, "offset": offset, "rounding": "fp32" if offset else rounding}


def _mrope(
    operation: str, given: Mapping[str, torch.Tensor], sections: object, head_dim: object, interleaved: object
) -> Described:
    flags = hold_rotation(operation, given, sections, head_dim, interleaved)
    q, width = given["q"], flags["head_dim"]
    q_heads, k_heads = (by_heads(given[name], width).shape[1] for name in ("q", "k"))
    call = Call(
        # in place or not: one operation, with one set of paths
        operation="mrope",
        dtype=str(q.dtype).removeprefix("torch."),
        n=width,
        width=width,
        rows=q.shape[0],
        leading=2,
        needs_grad=_needs_grad(given),
        not_plain=_not_plain(given),
        heads=Heads(q_heads, k_heads, given["cos"].shape[1]),
    )
    return call, flags


def hold_rotation(
    operation: str, given: Mapping[str, torch.Tensor], sections: object, head_dim: object, interleaved: object
) -> dict[str, Any]:
    """Hold a rotation to types, dtypes, shapes and flags that fit q; return the flags, resolved."""
    validate.tensors(operation, given)
    q, k, positions, cos, sin = given.values()
    validate.dtype(operation, "q", q, (*validate.LOW, torch.float64))
    validate.dtype(operation, "k", k, (q.dtype, *validate.LOW))
    validate.dtype(operation, "positions", positions, (torch.int32, torch.int64))
    for name, table in (("cos", cos), ("sin", sin)):
        validate.dtype(operation, name, table, (q.dtype, torch.float32))
    validate.choice(operation, "interleaved", interleaved, (True, False))
    if q.dim() not in (2, 3):
        raise InvalidCall(
            f"{operation}: q has shape {tuple(q.shape)}, must be (tokens, heads, head_dim), "
            f"or (tokens, heads * head_dim) with head_dim given"
        )
    width, tokens = validate.head_width(operation, head_dim, q), q.shape[0]
    fits = k.dim() == q.dim() and k.shape[0] == tokens
    if not fits or (k.shape[2] != width if k.dim() == 3 else k.shape[1] % width):
        heads = f"{tokens}, heads, {width}" if q.dim() == 3 else f"{tokens}, heads * {width}"
        raise InvalidCall(f"{operation}: k has shape {tuple(k.shape)}, must be as q ({heads})")
    if positions.dim() not in (1, 2) or positions.shape[-1] != tokens or positions.shape[:-1] not in ((), (3,)):
        raise InvalidCall(
            f"{operation}: positions has shape {tuple(positions.shape)}, must be (3, {tokens}) or ({tokens},)"
        )
    if cos.dim() != 2 or 2 * cos.shape[1] > width:
        raise InvalidCall(
            f"{operation}: cos has shape {tuple(cos.shape)}, must be (max_positions, rotary_dim // 2) "
            f"with a rotary_dim of at most {width}"
        )
    validate.shape(operation, "sin", sin, tuple(cos.shape), "the shape of cos")
    counts = validate.three_sections(operation, sections, cos.shape[1])
    return {"sections": counts, "head_dim": width, "interleaved": interleaved}


def hold_positions(operation: str, positions: torch.Tensor, cos: torch.Tensor) -> None:
    """Hold positions to the rows of the cache, unless their values are hidden, or a wait away."""
    if type(positions) in PLAIN and not transformed():
        validate.positions(operation, positions, cos.shape[0])


def hold_in_place(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> None:
    """Hold q and k to memory that may be written, that nothing else is read from, and that no gradient needs."""
    hold_positions("mrope_", positions, cos)
    inputs = {"positions": positions, "cos": cos, "sin": sin}
    if needs_grad := _needs_grad({"q": q, "k": k, **inputs}):
        raise InvalidCall(f"mrope_: q and k are written, {needs_grad} must not need a gradient then")
    validate.output("mrope_", "q", q, inputs, ())
    validate.output("mrope_", "k", k, {"q": q, **inputs}, ())


def _rms_norm_gated(
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
    optional = _present(gate=gate)
    outputs = _present(out=out)
    hold_tensors(operation, x, {"weight": weight}, optional, outputs)
    eps = validate.epsilon(operation, eps)
    width = validate.group_width(operation, group_size, x.shape[-1])
    validate.choice(operation, "norm_before_gate", norm_before_gate, (True, False))
    validate.choice(operation, "activation", activation, tuple(ACTIVATIONS))
    validate.choice(operation, "rounding", rounding, ROUNDINGS)
    inputs = {"x": x, "weight": weight} | optional
    _hold_outputs(operation, inputs, outputs, {"out": ("x", "gate")})

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


def quantisation(
    operation: str,
    x: torch.Tensor,
    quant_group: int | None,
    scale_layout: str,
    fp8_dtype: torch.dtype,
    also_unquantised: bool,  # noqa: FBT001  (a flag of the operation, passed on)
) -> fp8.Quantisation:
    """Return how a call quantises, or raise if its flags have no meaning."""
    validate.quant_group(operation, quant_group)
    validate.choice(operation, "scale_layout", scale_layout, fp8.LAYOUTS)
    validate.choice(operation, "fp8_dtype", fp8_dtype, tuple(fp8.TYPES))
    validate.choice(operation, "also_unquantised", also_unquantised, (True, False))
    return fp8.Quantisation(fp8_dtype, fp8.group_columns(quant_group, x.shape[-1]), scale_layout)


def no_gradient(operation: str, needs: str) -> InvalidCall:
    """Return the refusal of a call that somebody may ask a derivative of."""
    return InvalidCall(
        f"{operation}: {needs} needs a gradient, must not, for fp8 values have none: call it under torch.no_grad()"
    )


def _quantised(
    described: Described,
    taken: Mapping[str, torch.Tensor],
    how: fp8.Quantisation,
    width: int,
    out: torch.Tensor | None,
    also_unquantised: bool,  # noqa: FBT001  (a flag of the operation, passed on)
) -> Described:
    """Add what is quantised, and ``out``, to the description of a norm whose other tensors are ``taken``."""
    call, flags = described
    operation, x = call.operation, taken["x"]
    given = {**taken, **_present(out=out)}
    if out is not None:
        validate.tensors(operation, given)
        validate.dtype(operation, "out", out, (how.dtype,))
        validate.shape(operation, "out", out, tuple(x.shape), "the shape of x")
        validate.output(operation, "out", out, taken, ())
    if needs := _needs_grad(given):
        raise no_gradient(operation, needs)
    # torch has no public question for it
    if forward_ad._current_level >= 0:  # noqa: SLF001
        raise InvalidCall(f"{operation}: called in forward-mode autograd, must not: fp8 values have no tangent")

    cut = plans.cut(call.n, width, how.group)
    crossing = None if cut else f"{how.group} over {width}"
    call = replace(call, not_plain=_not_plain(given), quantised=Quantised(fp8.name(how.dtype), crossing))
    if cut is not None and call.n:
        # fresh results are contiguous, and collapse to no fewer sizes where the last span of a row is shorter
        fresh = torch.empty(x.shape, device="meta")
        like_x = (*(tensor for name, tensor in given.items() if name != "weight"), fresh)
        rows = x.numel() // call.n * -(-call.n // cut.span)
        collapsed = len(leading(like_x, cut.span).sizes)
        call = replace(call, width=2**cut.levels, rows=rows, leading=collapsed)
    return call, {**flags, "how": how, "unquantised": also_unquantised}


def _present(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
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


def _hold_outputs(
    operation: str,
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
    may_be: Mapping[str, tuple[str, ...]],
) -> None:
    """Hold the outputs given to memory that may be written, and that no gradient needs."""
    taken = dict(inputs)
    for name, tensor in outputs.items():
        if needs_grad := _needs_grad({**inputs, **outputs}):
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
        needs_grad=_needs_grad(given),
        not_plain=_not_plain(given),
        gated=gated,
    )


def _needs_grad(given: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first argument whose gradient somebody may ask for."""
    if not torch.is_grad_enabled():
        return None
    return next((name for name, tensor in given.items() if tensor.requires_grad), None)


def _not_plain(given: Mapping[str, torch.Tensor]) -> str | None:
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
