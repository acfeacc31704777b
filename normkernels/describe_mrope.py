"""From the arguments of a rotation to a description, as ``describe`` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from normkernels import validate
from normkernels.call import Call, Heads
from normkernels.describe import Described, needs_gradient, not_plain_argument, transformed
from normkernels.errors import InvalidCall
from normkernels.strides import PLAIN, by_heads


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
    described = _described("mrope", given, sections, head_dim, interleaved)
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
    described = _described("mrope_", given, sections, head_dim, interleaved)
    hold_in_place(**given)
    return described


def _described(
    operation: str, given: Mapping[str, torch.Tensor], sections: object, head_dim: object, interleaved: object
) -> Described:
    flags = hold_rotation(operation, given, sections, head_dim, interleaved)
    q, width = given["q"], flags["head_dim"]
    q_heads, k_heads = (by_heads(given[name], width).shape[1] for name in ("q", "k"))
    half = given["cos"].shape[1]
    call = Call(
        # in place or not: one operation, with one set of paths
        operation="mrope",
        dtype=str(q.dtype).removeprefix("torch."),
        n=width,
        width=width,
        rows=q.shape[0],
        leading=2,
        needs_grad=needs_gradient(given),
        not_plain=not_plain_argument(given),
        heads=Heads(q_heads, k_heads, half, copied=operation == "mrope" and 2 * half < width),
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
    if needs_grad := needs_gradient({"q": q, "k": k, **inputs}):
        raise InvalidCall(f"mrope_: q and k are written, {needs_grad} must not need a gradient then")
    validate.output("mrope_", "q", q, inputs, ())
    validate.output("mrope_", "k", k, {"q": q, **inputs}, ())
