"""The public functions: each validates, describes, decides and runs."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd import forward_ad

from normkernels import native, validate
from normkernels.call import Call, Device
from normkernels.dispatch import CHECKS, Decision, Path, decide
from normkernels.errors import InvalidCall
from normkernels.kernels import plans
from normkernels.strides import leading

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

ACTIVATIONS = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}
ROUNDINGS = ("fp32", "hf")
ENVIRONMENT = "NORMKERNELS_PATH"

_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Exact types of eps, group_size, norm_before_gate, activation, rounding and path: True equals 1 in a key.
_COMMON_FLAGS = {
    (float, group_size, bool, str, str, path) for group_size in (int, type(None)) for path in (str, type(None))
}
# More than a model has; a caller that varies eps or widths must not make the cache grow for ever.
_MAX_ROUTES = 1024


class Route(NamedTuple):
    """How to run every call that differs in its row count only."""

    path: Path
    narrow: bool  # by the plans for contiguous rows of 128
    flags: Mapping[str, Any]  # the operation's flags, resolved


_routes: dict[Hashable, Route] = {}


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

    The norm is ``x * rsqrt(mean(x**2) + eps)`` over the last dimension, or over groups of
    ``group_size`` of it. With ``norm_before_gate=False`` it is ``norm(x * act(gate)) * weight``;
    ``gate=None`` leaves the gate out. Arithmetic is fp32 and the result is rounded once;
    ``rounding="hf"`` also rounds the normalised and the weighted value, to the promoted dtype of
    what they are made of. ``out`` may have any strides, and may be x or the gate.
    """
    flags = (eps, group_size, norm_before_gate, activation, rounding)
    key = _key(x, gate, weight, (*flags, path)) if out is None else None
    route = None if key is None else _routes.get(key)
    if route is None:
        call, resolved = _describe_gated(x, gate, weight, *flags, out)
        decision = _decide(call, x, path)
        narrow = decision.plan is not None and decision.plan.name != "general"
        route = Route(decision.path, narrow, resolved)
        if key is not None:
            if len(_routes) >= _MAX_ROUTES:
                _routes.clear()
            _routes[key] = route
    return _run_gated(route, x, gate, weight, out)


# Any: whatever the operation takes
def explain(operation: str, *args: Any, path: str | None = None, **kwargs: Any) -> Decision:  # noqa: ANN401
    """Return the decision on a call, which is given as to the operation itself, without running it."""
    validate.choice("explain", "operation", operation, tuple(CHECKS))
    call, _ = _DESCRIBE[operation](*args, **kwargs)
    return _decide(call, args[0] if args else kwargs["x"], path)


def reread_environment() -> None:
    """Forget what the environment said, and every route that followed from it."""
    _forced.cache_clear()
    _routes.clear()


def _describe_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    group_size: int | None = None,
    norm_before_gate: bool = True,  # noqa: FBT001, FBT002  (as the operation has it)
    activation: str = "silu",
    rounding: str = "fp32",
    out: torch.Tensor | None = None,
) -> tuple[Call, Mapping[str, Any]]:
    """Hold the arguments to what has a meaning; return what decides, and the flags resolved."""
    operation = "rms_norm_gated"
    optional = {name: value for name, value in (("gate", gate), ("out", out)) if value is not None}
    given = {"x": x, "weight": weight} | optional
    validate.tensors(operation, given)
    if x.dim() == 0:
        raise InvalidCall(f"{operation}: x has shape (), must have a last dimension")
    n = x.shape[-1]
    validate.dtype(operation, "x", x, (*validate.LOW, torch.float64))
    validate.dtype(operation, "weight", weight, (x.dtype, torch.float32))
    validate.shape(operation, "weight", weight, (n,), "the last dimension of x")
    for name, tensor in optional.items():
        validate.dtype(operation, name, tensor, (x.dtype,) if name == "out" else (x.dtype, *validate.LOW))
        validate.shape(operation, name, tensor, tuple(x.shape), "the shape of x")
    eps = validate.epsilon(operation, eps)
    width = validate.group_width(operation, group_size, n)
    validate.choice(operation, "norm_before_gate", norm_before_gate, (True, False))
    validate.choice(operation, "activation", activation, tuple(ACTIVATIONS))
    validate.choice(operation, "rounding", rounding, ROUNDINGS)
    needs_grad = _needs_grad(given)
    if out is not None:
        if needs_grad:
            raise InvalidCall(f"{operation}: out is given, {needs_grad} must not need a gradient then")
        validate.output(operation, out, {k: v for k, v in given.items() if k != "out"}, ("x", "gate"))

    gated = "none" if gate is None else "after" if norm_before_gate else "before"
    call = Call(
        operation=operation,
        dtype=str(x.dtype).removeprefix("torch."),
        n=n,
        width=width,
        rows=x.numel() // width if width else 0,
        leading=len(leading((x, *optional.values()), width).sizes),
        gate=gated,
        x_contiguous=x.is_contiguous(),
        gate_contiguous=gate is None or gate.is_contiguous(),
        out_contiguous=out is None or out.is_contiguous(),
        needs_grad=needs_grad,
        not_plain=_not_plain(given),
    )
    return call, {
        "eps": eps,
        "width": width,
        "gated": gated,
        "activation": ACTIVATIONS[activation],
        "rounding": rounding,
    }


_DESCRIBE = {"rms_norm_gated": _describe_gated}


def _decide(call: Call, x: torch.Tensor, path: str | None) -> Decision:
    """Decide, obeying the ``path`` of the call before the one of the environment."""
    device = Device.of(x)
    if path is not None:
        validate.choice(call.operation, "path", str(path), tuple(map(str, CHECKS[call.operation])))
        return decide(call, device, Path(path))
    return decide(call, device, _forced().get(call.operation), asked_by=ENVIRONMENT)


def _run_gated(
    route: Route, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        result = native.rms_norm_gated(x, gate, weight, **route.flags)
        return result if out is None else out.copy_(result)

    # here, because the package must import without triton
    from normkernels.kernels.rms_norm_gated import rms_norm_gated_fwd

    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if elements := x.numel():
        width = route.flags["width"]
        rows = elements // width
        table = plans.TABLE
        plan = plans.gated_128(rows, table) if route.narrow else plans.general(rows, width, table)
        rms_norm_gated_fwd(x, gate, weight, out, **route.flags, plan=plan)
    return out


def _key(x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, flags: tuple[object, ...]) -> Hashable:
    """Return all that a decision on a common call depends on, row counts apart; None for any other call.

    Common are plain contiguous tensors and flags of their exact types; the rest is decided each time.
    """
    if (
        type(x) is not torch.Tensor
        or type(weight) not in _PLAIN
        or tuple(map(type, flags)) not in _COMMON_FLAGS
        or not (x.layout is weight.layout is torch.strided)
        or not (x.dim() and x.is_contiguous())
        or x.is_neg()
        or weight.is_neg()
        or _transformed()
    ):
        return None
    if gate is not None and (
        type(gate) is not torch.Tensor
        or gate.layout is not torch.strided
        or gate.shape != x.shape
        or not gate.is_contiguous()
        or gate.is_neg()
    ):
        return None
    tensors = (x, weight) if gate is None else (x, weight, gate)
    return (
        "rms_norm_gated",
        x.shape[-1],
        weight.shape,
        tuple((tensor.dtype, tensor.device) for tensor in tensors),
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors),
        flags,
    )


def _needs_grad(given: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first argument whose gradient somebody may ask for."""
    if not torch.is_grad_enabled():
        return None
    return next((name for name, tensor in given.items() if tensor.requires_grad), None)


def _not_plain(given: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first argument whose memory does not hold its values, and what it is."""
    for name, tensor in given.items():
        if type(tensor) not in _PLAIN:
            return f"{name}, a {type(tensor).__name__}"
        if tensor.is_neg():
            return f"{name}, a negated view"
    return "a call under a function transform" if _transformed() else None


def _transformed() -> bool:
    """Whether functorch or forward-mode autograd may hide more than values in a plain tensor."""
    # torch has no public question for either
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0  # noqa: SLF001


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
