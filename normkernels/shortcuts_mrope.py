"""Shortcuts for rotations."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import is_grad_enabled
from torch.autograd.graph import increment_version

from normkernels import launch
from normkernels.describe_mrope import hold_in_place, hold_positions
from normkernels.launch import ALIGNMENT
from normkernels.shortcuts import MAX_APART, any_wants_gradient, contiguous, empty_beside, keep, transforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normkernels.launch import Repeats
    from normkernels.shortcuts import Again, Like


def keep_rotation(
    like: Like,
    repeats: Repeats,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    sections: Sequence[int],
    *,
    in_place: bool,
) -> None:
    """Keep a shortcut for a rotation."""
    q, k, positions = tensors[:3]
    if like is None or not repeats.ready or not q.numel() or not k.numel():
        return
    index, dtype, k_dtype = q.device.index, q.dtype, k.dtype
    sizes, k_sizes = tuple(q.shape[1:]), tuple(k.shape[1:])
    strides, k_strides, empty = contiguous(sizes), contiguous(k_sizes), empty_beside(q)
    inner, axes = prod(k_sizes), prod(positions.shape[:-1])
    wanted, fitting, visible = any_wants_gradient(tensors), repeats.fitting, positions.device.type == "cpu"
    apart: set[tuple[int, ...]] = set()
    # a list may have changed since
    same, split = sections if type(sections) is tuple else None, [*sections]
    ints = [int] * 3

    def make(alike: Callable[..., bool]) -> Again:
        def again(
            q: torch.Tensor,
            k: torch.Tensor,
            positions: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
            sections: Sequence[int],
        ) -> object:
            if not alike(q, k, positions, cos, sin):
                return None
            if transforms._current_level >= 0 or (wanted and is_grad_enabled()):  # noqa: SLF001
                return None
            if sections is not same and (
                type(sections) not in (list, tuple) or [*sections] != split or [*map(type, sections)] != ints
            ):
                return None
            tokens = q.shape[0]
            ready = fitting(tokens)
            if ready is None or launch.current_device() != index:
                return None
            if k.numel() != tokens * inner or positions.numel() != tokens * axes:
                return None
            q_at, k_at, positions_at, cos_at, sin_at = (
                q.data_ptr(),
                k.data_ptr(),
                positions.data_ptr(),
                cos.data_ptr(),
                sin.data_ptr(),
            )
            if (q_at | k_at | cos_at | sin_at) % ALIGNMENT:
                return None
            steps = positions.stride()
            if visible:
                hold_positions(like[0], positions, cos)
            if in_place:
                places = tokens, *steps, k_at - q_at, positions_at - q_at, cos_at - q_at, sin_at - q_at
                if places not in apart:
                    hold_in_place(q, k, positions, cos, sin)
                    if len(apart) >= MAX_APART:
                        apart.clear()
                    apart.add(places)
                q_out, k_out, q_out_at, k_out_at = q, k, q_at, k_at
            else:
                q_out = empty((tokens, *sizes), strides, dtype)
                k_out = empty((tokens, *k_sizes), k_strides, k_dtype)
                q_out_at, k_out_at = q_out.data_ptr(), k_out.data_ptr()
                if (q_out_at | k_out_at) % ALIGNMENT:
                    return None
            pointers = q_at, k_at, positions_at, cos_at, sin_at, q_out_at, k_out_at
            if not ready.start(pointers, tokens, (steps[0], steps[-1])):
                return None
            if in_place:
                increment_version((q, k))
            return q_out, k_out

        return again

    keep(like, repeats, tensors, (0, 0, -1, None, None), make)
