"""Which path a call takes, remembered: a decision depends on all of a common call but its row count."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch

from normkernels import describe, describe_fp8, describe_mrope, launch, plans, shortcuts, validate
from normkernels.call import Call, Device
from normkernels.describe import Described, transformed
from normkernels.dispatch import CHECKS, Decision, Path, decide
from normkernels.errors import InvalidCall
from normkernels.launch import NEVER, Repeats
from normkernels.strides import PLAIN, fresh

ENVIRONMENT = "NORMKERNELS_PATH"

# What describes a call of each public function, with its signature.
DESCRIBE: Mapping[str, Callable[..., Described]] = {
    "rms_norm": describe.rms_norm,
    "gemma_rms_norm": describe.gemma_rms_norm,
    "rms_norm_gated": describe.rms_norm_gated,
    "rms_norm_fp8": describe_fp8.rms_norm_fp8,
    "rms_norm_gated_fp8": describe_fp8.rms_norm_gated_fp8,
    "mrope": describe_mrope.mrope,
    "mrope_": describe_mrope.mrope_,
}

_NONE = type(None)
# quant_group, scale_layout, fp8_dtype, also_unquantised, rounding, path
_QUANTISED = ((int, _NONE), (str,), (torch.dtype,), (bool,), (str,), (str, _NONE))
# Exact types of each operation's flags and of path, the last one: True equals 1 in a key.
_COMMON_FLAGS = {
    "rms_norm": ((float, float, str, str), (float, float, str, type(None))),
    "gemma_rms_norm": ((float, str, str), (float, str, type(None))),
    "rms_norm_gated": tuple(
        (float, group_size, bool, str, str, path) for group_size in (int, type(None)) for path in (str, type(None))
    ),
    "mrope": tuple((head_dim, bool, path) for head_dim in (int, type(None)) for path in (str, type(None))),
    "rms_norm_fp8": tuple(product((float,), (float,), *_QUANTISED)),
    "rms_norm_gated_fp8": tuple(product((float,), (int, _NONE), (bool,), (str,), *_QUANTISED)),
}
# More than a model has; a caller that varies eps or widths must not make the cache grow for ever.
_MAX_ROUTES = 1024


class Route(NamedTuple):
    """How to run every call that differs in its row count only."""

    path: Path
    narrow: bool  # by the plans for contiguous rows of 128
    flags: Mapping[str, Any]  # the operation's flags, resolved
    repeats: Repeats  # what such calls have launched


_routes: dict[Hashable, Route] = {}


def key(
    operation: str,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    beside: torch.Tensor | None,
    flags: tuple[object, ...],
    out: torch.Tensor | None = None,
    beside_out: torch.Tensor | None = None,
) -> Hashable:
    """Return all that a decision on a common call depends on, row counts apart; None for any other call.

    Common are plain tensors and flags of their exact types; the rest is decided each time. ``beside`` has x's
    shape: a gate or a residual; ``out`` and ``beside_out`` are outputs that are given, and where they lie is
    looked at in each call. All arguments of a kernel but its pointers depend on the same: of tensors that lie as
    new ones do, the last size says enough; of others, the strides and what the outermost size may collapse with.
    """
    if (
        type(x) is not torch.Tensor
        or tuple(map(type, flags)) not in _COMMON_FLAGS[operation]
        or x.layout is not torch.strided
        or x.is_neg()
        or transformed()
    ):
        return None
    shape, stride, device = x.shape, x.stride(), x.device
    if not shape or (beside_out is not None and beside is None):
        return None
    needs_grad = x.requires_grad
    of_weight: Hashable = None
    if weight is not None:
        if (
            type(weight) not in PLAIN
            or weight.layout is not torch.strided
            or weight.is_neg()
            or weight.device != device
        ):
            return None
        of_weight = weight.dtype, weight.shape, weight.stride()
        needs_grad = needs_grad or weight.requires_grad
    dtype = beside_lies = outputs_lie = None
    if beside is not None:
        if type(beside) is not torch.Tensor or not _beside(x, beside):
            return None
        dtype, beside_lies = beside.dtype, beside.stride()
        needs_grad = needs_grad or beside.requires_grad
    if out is not None or beside_out is not None:
        outputs = [each for each in (out, beside_out) if each is not None]
        if any(
            type(each) is not torch.Tensor or each.dtype != x.dtype or not _beside(x, each) for each in outputs
        ):
            return None
        outputs_lie = tuple(None if each is None else each.stride() for each in (out, beside_out))
        needs_grad = needs_grad or any(each.requires_grad for each in outputs)
    lies: Hashable = shape[-1]
    alike = beside_lies in (None, stride) and (
        outputs_lie is None or all(each in (None, stride) for each in outputs_lie)
    )
    if not alike or not fresh(shape, stride):
        if not x.numel():
            return None
        # the last size of its own: of one dimension it is the first
        lies = shape[1:], shape[-1], shape[0] == 1, stride, beside_lies, outputs_lie
    return operation, flags, lies, x.dtype, device, of_weight, dtype, needs_grad and torch.is_grad_enabled()


def _beside(x: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether a tensor has x's layout, shape and device, and holds its values as they are."""
    return (
        tensor.layout is torch.strided
        and tensor.shape == x.shape
        and tensor.device == x.device
        and not tensor.is_neg()
    )


def rotation_key(
    operation: str,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    sections: Sequence[int],
    flags: tuple[object, ...],
) -> Hashable:
    """Return all that a decision on a common rotation depends on, token counts apart; None for any other call.

    So do all arguments of its kernel, but pointers, the token count and the strides of positions. ``given`` are
    q, k, positions, cos and sin. What no key can hold, where they lie and which positions they are, is looked at
    in each call.
    """
    if type(sections) not in (list, tuple) or tuple(map(type, sections)) != (int, int, int):
        return None
    if tuple(map(type, flags)) not in _COMMON_FLAGS["mrope"] or transformed():
        return None
    q, k, positions, cos, sin = given
    needs_grad = False
    for each in given:
        if type(each) not in PLAIN or each.layout is not torch.strided or each.is_neg() or each.device != q.device:
            return None
        needs_grad = needs_grad or each.requires_grad
    tokens = q.shape[:1]
    if not tokens or k.shape[:1] != tokens or positions.shape[-1:] != tokens or sin.shape != cos.shape:
        return None
    return (
        operation,
        # as heads, one token of them has strides of its own
        q.dim() == 2 and q.shape[0] == 1,
        q.shape[1:],
        q.stride(),
        k.shape[1:],
        k.stride(),
        positions.shape[:-1],
        cos.shape,
        cos.stride(),
        sin.stride(),
        q.device,
        q.dtype,
        k.dtype,
        positions.dtype,
        cos.dtype,
        sin.dtype,
        needs_grad and torch.is_grad_enabled(),
        *sections,
        flags,
    )


def known(key: Hashable) -> Route | None:
    """Return the route that an earlier call has left behind."""
    return None if key is None else _routes.get(key)


def learn(key: Hashable, x: torch.Tensor, call: Call, flags: Mapping[str, Any], path: str | None) -> Route:
    """Decide on a call and remember its route under ``key``."""
    decision = decide_on(call, x, path)
    narrow = decision.plan is not None and decision.plan.name != "general"
    directly = launch.standing() is None and key is not None
    # positions are read one at a time
    repeats = Repeats(plans.TABLE, anywhere=2 if call.heads else None) if directly else NEVER
    route = Route(decision.path, narrow, flags, repeats)
    if key is not None:
        if len(_routes) >= _MAX_ROUTES:
            _routes.clear()
        _routes[key] = route
    return route


def decide_on(call: Call, x: torch.Tensor, path: str | None) -> Decision:
    """Decide, obeying the ``path`` of the call before the one of the environment."""
    device = Device.of(x)
    if path is not None:
        validate.choice(call.operation, "path", str(path), tuple(map(str, CHECKS[call.operation])))
        return decide(call, device, Path(path))
    return decide(call, device, _forced().get(call.operation), asked_by=ENVIRONMENT)


# Any: whatever the operation takes
def explain(operation: str, *args: Any, path: str | None = None, **kwargs: Any) -> Decision:  # noqa: ANN401
    """Return the decision on a call, which is given as to the operation itself, without running it."""
    validate.choice("explain", "operation", operation, tuple(DESCRIBE))
    call, _ = DESCRIBE[operation](*args, **kwargs)
    decision = decide_on(call, args[0] if args else kwargs["q" if call.heads else "x"], path)
    if decision.plan is None:
        return decision
    # positions may lie anywhere
    tensors = (each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
    given = [each for each in tensors if each.is_floating_point()]
    outputs = any(kwargs.get(name) is not None for name in ("out", "residual_out"))
    known = call.not_plain is None and (call.quantised is None or not outputs)
    return replace(decision, launched=launch.how(given, known=known))


def reread_environment() -> None:
    """Forget what the environment said, and every route that followed from it."""
    _forced.cache_clear()
    launch.reread_environment()
    shortcuts.forget()
    _routes.clear()


@cache
def _forced() -> Mapping[str, Path]:
    """Read, once, which operations the environment sends to ``native``."""
    text = os.environ.get(ENVIRONMENT, "")
    if text == Path.NATIVE:
        return dict.fromkeys(CHECKS, Path.NATIVE)
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(operation not in CHECKS or path != Path.NATIVE for operation, _, path in pairs):
        each = ", ".join(f"{operation}=native" for operation in CHECKS)
        raise InvalidCall(f"{ENVIRONMENT}={text!r}, must be native or a comma-separated list of {each}")
    return {operation: Path.NATIVE for operation, _, _ in pairs}
