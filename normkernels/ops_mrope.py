"""The public rotations: each validates, describes, decides and runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_compiling

from normkernels import describe_mrope, library, native, plans, routes, shortcuts
from normkernels.call import plan_table
from normkernels.dispatch import Path
from normkernels.errors import InvalidCall
from normkernels.library import Given
from normkernels.results import memory

# q and k
Rotated = tuple[torch.Tensor, torch.Tensor]


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
    A position outside the cache is an ``InvalidCall`` on the CPU; on a GPU, where seeing it would be a wait, the
    rotated columns of that token are NaN. ``torch.compile`` traces a call as one op.
    """
    if is_compiling():
        given: Given = {"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin}
        flags = {"sections": sections, "head_dim": head_dim, "interleaved": interleaved, "path": path}
        traced: Rotated = library.call("mrope", {**given, **flags}, {})
        return traced

    like: shortcuts.Like = None
    results: Rotated | None
    if path is None and (head_dim is None or type(head_dim) is int) and type(interleaved) is bool:
        like = shortcuts.like_rotation("mrope", sections, head_dim, interleaved)
        for again in shortcuts.find(like, ()):
            results = again(q, k, positions, cos, sin)
            if results is not None:
                return results

    key = routes.rotation_key("mrope", (q, k, positions, cos, sin), sections, (head_dim, interleaved, path))
    route = routes.known(key)
    if route is None:
        call, resolved = describe_mrope.mrope(
            q, k, positions, cos, sin, sections=sections, head_dim=head_dim, interleaved=interleaved
        )
        route = routes.learn(key, q, call, resolved, path)
    else:
        describe_mrope.hold_positions("mrope", positions, cos)
    return _run_mrope(route, q, k, positions, cos, sin, sections, like)


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
    """Rotate q and k as ``mrope`` does, in place, and return them; what would be copied is not touched.

    They may be views of one buffer, but share no memory with each other, nor with the other arguments. A call
    that needs a gradient is refused.
    """
    if is_compiling():
        given: Given = {"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin}
        flags = {"sections": sections, "head_dim": head_dim, "interleaved": interleaved, "path": path}
        traced: Rotated = library.call("mrope_", {**given, **flags}, {})
        return traced

    like: shortcuts.Like = None
    results: Rotated | None
    if path is None and (head_dim is None or type(head_dim) is int) and type(interleaved) is bool:
        like = shortcuts.like_rotation("mrope_", sections, head_dim, interleaved)
        for again in shortcuts.find(like, ()):
            results = again(q, k, positions, cos, sin)
            if results is not None:
                return results

    key = routes.rotation_key("mrope_", (q, k, positions, cos, sin), sections, (head_dim, interleaved, path))
    route = routes.known(key)
    if route is None:
        call, resolved = describe_mrope.mrope_(
            q, k, positions, cos, sin, sections=sections, head_dim=head_dim, interleaved=interleaved
        )
        route = routes.learn(key, q, call, resolved, path)
    else:
        describe_mrope.hold_in_place(q, k, positions, cos, sin)
    return _run_mrope(route, q, k, positions, cos, sin, sections, like, in_place=True)


def apply_rotary_pos_emb(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> Rotated:
    """Rotate q and k as the functions of this name in transformers do for Qwen2-VL, Qwen3-VL and Qwen3.5.

    It goes in their place: ``modeling_qwen3_5.apply_rotary_pos_emb = normkernels.apply_rotary_pos_emb``. q and k
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


def _run_mrope(
    route: routes.Route,
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    sections: Sequence[int],
    like: shortcuts.Like,
    *,
    in_place: bool = False,
) -> Rotated:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        q_out, k_out = native.mrope(q, k, positions, cos, sin, **route.flags)
        return (q.copy_(q_out), k.copy_(k_out)) if in_place else (q_out, k_out)

    q_out = memory(q if in_place else None, q)
    k_out = memory(k if in_place else None, k)
    if q.numel() or k.numel():
        tokens, steps = q.shape[0], positions.stride()
        tensors = (q, k, positions, cos, sin, q_out, k_out)
        counts = (tokens, steps[0], steps[-1])
        if not route.repeats.again(tensors, counts):
            # here, because the package must import without triton
            from normkernels.kernels.mrope import mrope_fwd

            width = route.flags["head_dim"]
            q_heads, k_heads = (each.numel() // (tokens * width) for each in (q, k))
            half = cos.shape[1]
            copied = not in_place and 2 * half < width
            plan = plans.heads(tokens, q_heads, k_heads, width, half, plan_table(q), copied=copied)
            launched = mrope_fwd(*tensors, **route.flags, plan=plan)
            route.repeats.learn(launched, tensors, ("n_tokens", "axis_stride", "position_stride"), counts)
        shortcuts.keep_rotation(like, route.repeats, tensors[:5], in_place=in_place)
    return q_out, k_out
