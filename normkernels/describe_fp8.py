"""From the arguments of the norms with fp8 values to a description, as ``describe`` does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch.autograd import forward_ad

from normkernels import fp8, plans, validate
from normkernels.call import Quantised
from normkernels.describe import (
    Described,
    describe_gated,
    describe_norm,
    needs_gradient,
    not_plain_argument,
    present,
)
from normkernels.errors import InvalidCall
from normkernels.strides import leading


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
    weights = present(weight=weight)
    described = describe_norm(operation, x, weights, residual, weight_offset, eps, rounding, None, residual_out)
    how = quantisation(operation, x, quant_group, scale_layout, fp8_dtype, also_unquantised)
    taken = {"x": x} | weights | present(residual=residual, residual_out=residual_out)
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
    described = describe_gated(
        operation, x, gate, weight, eps, group_size, norm_before_gate, activation, rounding, None
    )
    how = quantisation(operation, x, quant_group, scale_layout, fp8_dtype, also_unquantised)
    taken = {"x": x, "weight": weight} | present(gate=gate)
    return _quantised(described, taken, how, described[1]["width"], out, also_unquantised)


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
    given = {**taken, **present(out=out)}
    if out is not None:
        validate.tensors(operation, given)
        validate.dtype(operation, "out", out, (how.dtype,))
        validate.shape(operation, "out", out, tuple(x.shape), "the shape of x")
        validate.output(operation, "out", out, taken, ())
    if needs := needs_gradient(given):
        raise no_gradient(operation, needs)
    # torch has no public question for it
    if forward_ad._current_level >= 0:  # noqa: SLF001
        raise InvalidCall(f"{operation}: called in forward-mode autograd, must not: fp8 values have no tangent")

    cut = plans.cut(call.n, width, how.group)
    crossing = None if cut else f"{how.group} over {width}"
    quantised = Quantised(fp8.name(how.dtype), crossing, 0 if cut is None else cut.span)
    call = replace(call, not_plain=not_plain_argument(given), quantised=quantised)
    if cut is not None and call.n:
        # fresh results are contiguous, and collapse to no fewer sizes where the last span of a row is shorter
        fresh = torch.empty(x.shape, device="meta")
        like_x = (*(tensor for name, tensor in given.items() if name != "weight"), fresh)
        rows = x.numel() // call.n * -(-call.n // cut.span)
        collapsed = len(leading(like_x, cut.span).sizes)
        call = replace(call, width=2**cut.levels, rows=rows, leading=collapsed)
    return call, {**flags, "how": how, "unquantised": also_unquantised}
