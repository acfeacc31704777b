"""The public functions: signature, documentation, and one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.compiler import is_compiling

from normkernels import library
from normkernels.errors import InvalidCall
from normkernels.operations.mrope import Mrope, MropeInPlace
from normkernels.operations.operation import OPERATIONS, Operation, explain, run
from normkernels.operations.rms_norm import GemmaRmsNorm, RmsNorm
from normkernels.operations.rms_norm_fp8 import RmsNormFp8
from normkernels.operations.rms_norm_gated import RmsNormGated
from normkernels.operations.rms_norm_gated_fp8 import RmsNormGatedFp8

__all__ = ["apply_rotary_pos_emb", "explain", "gemma_rms_norm", "mrope", "mrope_"]
__all__ += ["rms_norm", "rms_norm_fp8", "rms_norm_gated", "rms_norm_gated_fp8"]

Normed = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # y, or (y, s) where a residual is added
Rotated = tuple[torch.Tensor, torch.Tensor]  # q and k

Function = TypeVar("Function", bound=Callable[..., Any])


def _operation(kind: type[Operation]) -> Callable[[Function], Function]:
    """Return a decorator that registers a public function, as an operation and as an op of torch.library."""

    def register(function: Function) -> Function:
        operation = kind(function.__name__, inspect.signature(function))
        OPERATIONS[operation.name] = operation
        library.register(operation)
        return function

    return register


# Any: one tensor or several, as the operation says
def _call(name: str, tensors: tuple[torch.Tensor | None, ...], flags: tuple[object, ...]) -> Any:  # noqa: ANN401
    """Run a call, or trace it as one op under torch.compile; arguments are in the order of the signature."""
    return library.call(name, tensors, flags) if is_compiling() else run(name, tensors, flags)


@_operation(RmsNorm)
def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    residual: torch.Tensor | None = None,
    weight_offset: float = 0.0,
    eps: float,
    path: str | None = None,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> Normed:
    """Return ``y = s * rsqrt(mean(s**2) + eps) * (weight_offset + weight)``, or ``(y, s)`` with a residual.

    ``s`` is x, or ``x + residual``, added in fp32 and rounded to x's dtype before the norm.
    The norm is over the last dimension; ``weight=None`` means ones. Results are contiguous and in x's
    shape and dtype. Arithmetic is fp32, ``weight_offset + weight`` too, and y is rounded once.
    ``rounding="hf"`` follows Hugging Face's Llama: it also rounds the normalised value, to x's dtype, and
    its product with the weight, to the promoted dtype of both. With an offset (Gemma 3) Hugging Face
    rounds once, and ``rounding`` changes nothing. ``out`` and ``residual_out`` may have any strides; each
    may be x or the residual, but they may not share memory. ``torch.compile`` traces a call as one op,
    and refuses given outputs: the compiler allocates them.
    """
    return _call("rms_norm", (x, weight, residual, out, residual_out), (weight_offset, eps, path, rounding))


@_operation(GemmaRmsNorm)
def gemma_rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    eps: float,
    path: str | None = None,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> Normed:
    """Return ``rms_norm`` with ``weight_offset=1.0``: Gemma's norm, whose weight is centred on zero.

    ``1 + weight`` is formed in fp32 at every call. Hugging Face's Gemma 3 rounds once, at the end, so
    ``rounding="hf"`` is the same as ``"fp32"`` here. ``torch.compile`` refuses given outputs.
    """
    return _call("gemma_rms_norm", (x, weight, residual, out, residual_out), (eps, path, rounding))


@_operation(RmsNormGated)
def rms_norm_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    activation: str = "silu",
    path: str | None = None,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``norm(x) * weight * act(gate)``, in x's shape and dtype and contiguous.

    The norm is ``x * rsqrt(mean(x**2) + eps)`` over the last dimension, or over groups of ``group_size`` of it.
    With ``norm_before_gate=False`` it is ``norm(x * act(gate)) * weight``; ``gate=None`` leaves the gate out.
    Arithmetic is fp32 and the result is rounded once; ``rounding="hf"`` also rounds the normalised and the
    weighted value, to the promoted dtype of their operands. ``out`` may have any strides, and may be x or
    the gate; ``torch.compile`` refuses it.
    """
    flags = (eps, group_size, norm_before_gate, activation, path, rounding)
    return _call("rms_norm_gated", (x, gate, weight, out), flags)


@_operation(RmsNormFp8)
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
    path: str | None = None,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return fp8 values and scales of ``rms_norm``: ``(values, scales[, y][, s])``.

    ``y``, and ``s`` with a residual, are the results of ``rms_norm``: y is rounded to x's dtype before it is
    quantised, and is returned if ``also_unquantised``. Each ``quant_group`` columns of a row share a scale
    (None: the whole row does; the last group of a row may be shorter), in fp32::

        scale = max(amax(|y|), 1e-10) / fp8_max,   values = round(y / scale), saturated,

    rounded to nearest even. ``fp8_dtype`` is ``torch.float8_e4m3fn`` or ``torch.float8_e4m3fnuz``, and
    ``fp8_max`` the largest number of the type: 448 and 240. A NaN in a group makes its scale and all its values
    NaN; an infinity makes the scale infinite, its own value NaN and the other values zero.

    ``values`` are contiguous and in x's shape. ``scales`` are fp32, ``(*leading, ceil(n / quant_group))``, and
    contiguous where ``scale_layout`` is ``"row"``. With ``"column"`` the same shape has the groups outermost in
    memory: the leading sizes, flattened to ``rows``, have stride 1, and the groups stride ``rows``. For x of
    shape (rows, n) the strides are ``(1, rows)``; for (a, b, n), ``(b, 1, a * b)``; for (n,), ``(1,)``.

    ``out`` takes the values and ``residual_out`` the sum, in any strides; the sum may replace x or the residual.
    Scales are always fresh. There is no gradient: a call that needs one is refused. ``torch.compile`` traces a
    call as one op, and refuses given outputs.
    """
    flags = (eps, weight_offset, quant_group, scale_layout, fp8_dtype, also_unquantised, path, rounding)
    return _call("rms_norm_fp8", (x, weight, residual, out, residual_out), flags)


@_operation(RmsNormGatedFp8)
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
    path: str | None = None,
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return fp8 values and scales of ``rms_norm_gated``: ``(values, scales[, y])``.

    ``y`` is the result of ``rms_norm_gated``, with groups of ``group_size`` columns that share a mean. It is
    quantised by groups of ``quant_group`` columns, as ``rms_norm_fp8`` describes with the other arguments. The
    kernel takes calls in which no group of either kind crosses the end of one of the other kind.
    """
    how = (quant_group, scale_layout, fp8_dtype, also_unquantised)
    flags = (eps, group_size, norm_before_gate, activation, *how, path, rounding)
    return _call("rms_norm_gated_fp8", (x, gate, weight, out), flags)


@_operation(Mrope)
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
    path: str | None = None,
) -> Rotated:
    """Return q and k with the first ``rotary_dim`` columns of each head rotated, and the rest copied bit for bit.

    q and k are ``(tokens, heads, head_dim)``, or ``(tokens, heads * head_dim)`` with ``head_dim`` given; results
    are contiguous, each in its shape and dtype. positions, int32 or int64, are ``(3, tokens)``, on the axes t, h
    and w, or ``(tokens,)`` where those are equal. cos and sin, in q's dtype or fp32, are ``(max_positions,
    rotary_dim // 2)``. Any strides: ``cos_sin_cache.chunk(2, -1)`` fits as it is. With ``x1`` and ``x2`` the two
    halves of the rotated columns, ``y1 = x1 * c - x2 * s`` and ``y2 = x2 * c + x1 * s``: fp32, rounded once.
    The row of cos and sin that frequency ``i`` takes is at the position on h if ``i % 3 == 1 and i < 3 *
    sections[1]``, on w if ``i % 3 == 2 and i < 3 * sections[2]``, on t otherwise; not ``interleaved``, the first
    ``sections[0]`` frequencies are t's, the next h's, the last w's. The three sum to ``rotary_dim // 2``.
    A position outside the cache raises ``InvalidCall`` on the CPU. On a GPU, where a check would have to wait,
    the rotated columns of its token are NaN. ``torch.compile`` traces a call as one op.
    """
    return _call("mrope", (q, k, positions, cos, sin), (sections, head_dim, interleaved, path))


@_operation(MropeInPlace)
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
    path: str | None = None,
) -> Rotated:
    """Rotate q and k as ``mrope`` does, in place, and return them; the other columns are not touched.

    They may be views of one buffer, but share no memory with each other, nor with the other arguments. A call
    that needs a gradient is refused.
    """
    return _call("mrope_", (q, k, positions, cos, sin), (sections, head_dim, interleaved, path))


def apply_rotary_pos_emb(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> Rotated:
    """Rotate q and k as the functions of this name in transformers do for Qwen2-VL, Qwen3-VL and Qwen3.5.

    It replaces them: ``modeling_qwen3_5.apply_rotary_pos_emb = normkernels.apply_rotary_pos_emb``. q and k
    are ``(batch, heads, tokens, head_dim)``, or ``(batch, tokens, heads, head_dim)`` with ``unsqueeze_dim=2``. cos
    and sin are ``(batch, tokens, rotary_dim)``, or one batch for all; their rows hold the frequencies of all axes,
    joined, twice: the second half is not read. A result is rounded once, where transformers rounds each product.
    """
    if unsqueeze_dim not in (1, 2):
        raise InvalidCall(f"apply_rotary_pos_emb: unsqueeze_dim={unsqueeze_dim!r}, must be 1 or 2")
    q, k = (each.transpose(1, 2) if unsqueeze_dim == 1 else each for each in (q, k))
    half = cos.shape[-1] // 2
    rows = torch.arange(cos.shape[0] * cos.shape[1], device=q.device).view(cos.shape[:2]).expand(q.shape[:2])
    tables = (table[..., :half].reshape(-1, half) for table in (cos, sin))
    turned = mrope(q.flatten(0, 1), k.flatten(0, 1), rows.flatten(), *tables, sections=(half, 0, 0))
    q, k = (new.view(old.shape) for new, old in zip(turned, (q, k), strict=True))
    return (q.transpose(1, 2), k.transpose(1, 2)) if unsqueeze_dim == 1 else (q, k)
