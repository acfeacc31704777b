"""The public norms: each validates, describes, decides and runs."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from normkernels import describe, library, native, plans, routes, shortcuts
from normkernels.call import plan_table
from normkernels.dispatch import Path
from normkernels.library import Given
from normkernels.results import memory

# y, or (y, s) where a residual is added
Normed = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


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

    ``s`` is x, or ``x + residual`` added in fp32 and rounded to x's dtype before the norm is taken of it.
    The norm is over the last dimension; ``weight=None`` means ones. Results are contiguous and in x's
    shape and dtype. Arithmetic is fp32, ``weight_offset + weight`` too, and y is rounded once.
    ``rounding="hf"`` follows Hugging Face's Llama: it also rounds the normalised value, to x's dtype, and
    its product with the weight, to the promoted dtype of both. With an offset it changes nothing, for
    there (Gemma 3) Hugging Face rounds once. ``out`` and ``residual_out`` may have any strides; each
    may be x or the residual, but they may not share memory. ``torch.compile`` traces a call as one op,
    and refuses one with outputs given: there the compiler places them.
    """
    if is_compiling():
        given: Given = {"x": x, "weight": weight, "residual": residual, "weight_offset": weight_offset, "eps": eps}
        outputs = {"out": out, "residual_out": residual_out}
        traced: Normed = library.call("rms_norm", {**given, "rounding": rounding, "path": path}, outputs)
        return traced

    like: shortcuts.Like = None
    results: Normed | None
    if path is None and type(eps) is type(weight_offset) is float and type(rounding) is str:
        if out is None and residual_out is None:
            like = "rms_norm", weight_offset, eps, rounding, residual is None
            for again in shortcuts.find(like, ()):
                results = again(x, residual, weight)
                if results is not None:
                    return results
        else:
            same = out is None, out is x, out is residual, residual_out is residual, residual_out is x
            like = "rms_norm", weight_offset, eps, rounding, residual is None, residual_out is None, same
            for again in shortcuts.find(like, ()):
                results = again(x, residual, weight, out, residual_out)
                if results is not None:
                    return results

    flags = (weight_offset, eps, rounding, path)
    key = routes.key("rms_norm", x, weight, residual, flags, out, residual_out)
    route = routes.known(key)
    if route is None:
        call, resolved = describe.rms_norm(
            x,
            weight,
            residual=residual,
            weight_offset=weight_offset,
            eps=eps,
            rounding=rounding,
            out=out,
            residual_out=residual_out,
        )
        route = routes.learn(key, x, call, resolved, path)
    elif out is not None or residual_out is not None:
        _hold_norm("rms_norm", x, residual, weight, out, residual_out)
    return _run_rms_norm(route, x, weight, residual, out, residual_out, like)


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
    if is_compiling():
        given: Given = {"x": x, "weight": weight, "residual": residual, "eps": eps}
        outputs = {"out": out, "residual_out": residual_out}
        traced: Normed = library.call("gemma_rms_norm", {**given, "rounding": rounding, "path": path}, outputs)
        return traced

    like: shortcuts.Like = None
    results: Normed | None
    if path is None and type(eps) is float and type(rounding) is str:
        if out is None and residual_out is None:
            like = "gemma_rms_norm", eps, rounding, residual is None
            for again in shortcuts.find(like, ()):
                results = again(x, residual, weight)
                if results is not None:
                    return results
        else:
            same = out is None, out is x, out is residual, residual_out is residual, residual_out is x
            like = "gemma_rms_norm", eps, rounding, residual is None, residual_out is None, same
            for again in shortcuts.find(like, ()):
                results = again(x, residual, weight, out, residual_out)
                if results is not None:
                    return results

    key = routes.key("gemma_rms_norm", x, weight, residual, (eps, rounding, path), out, residual_out)
    route = routes.known(key)
    if route is None:
        call, resolved = describe.gemma_rms_norm(
            x, weight, residual=residual, eps=eps, rounding=rounding, out=out, residual_out=residual_out
        )
        route = routes.learn(key, x, call, resolved, path)
    elif out is not None or residual_out is not None:
        _hold_norm("gemma_rms_norm", x, residual, weight, out, residual_out)
    return _run_rms_norm(route, x, weight, residual, out, residual_out, like)


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
    what they are made of. ``out`` may have any strides, and may be x or the gate; ``torch.compile``
    refuses it.
    """
    if is_compiling():
        given: Given = {"x": x, "gate": gate, "weight": weight, "eps": eps, "group_size": group_size}
        given = {**given, "norm_before_gate": norm_before_gate, "activation": activation}
        traced: torch.Tensor = library.call(
            "rms_norm_gated", {**given, "rounding": rounding, "path": path}, {"out": out}
        )
        return traced

    like: shortcuts.Like = None
    results: torch.Tensor | None
    if (
        path is None
        and type(eps) is float
        and (group_size is None or type(group_size) is int)
        and type(activation) is type(rounding) is str
        and type(norm_before_gate) is bool
    ):
        like = "rms_norm_gated", eps, group_size, norm_before_gate, activation, rounding, gate is None, gate is x
        if out is None:
            for again in shortcuts.find(like, ()):
                results = again(x, gate, weight)
                if results is not None:
                    return results
        else:
            like = *like, out is x, out is gate
            for again in shortcuts.find(like, ()):
                results = again(x, gate, weight, out, None)
                if results is not None:
                    return results

    flags = (eps, group_size, norm_before_gate, activation, rounding, path)
    key = routes.key("rms_norm_gated", x, weight, gate, flags, out)
    route = routes.known(key)
    if route is None:
        call, resolved = describe.rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
            rounding=rounding,
            out=out,
        )
        route = routes.learn(key, x, call, resolved, path)
    elif out is not None:
        _hold_gated("rms_norm_gated", x, gate, weight, out)
    return _run_gated(route, x, gate, weight, out, like)


def _hold_norm(
    operation: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    out: torch.Tensor | None,
    residual_out: torch.Tensor | None,
) -> None:
    """Hold given outputs to memory that may be written."""
    inputs = describe.present(x=x, weight=weight, residual=residual)
    describe.hold_norm_outputs(operation, inputs, describe.present(out=out, residual_out=residual_out))


def _hold_gated(
    operation: str,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    _total: None = None,
) -> None:
    """Hold a given output to memory that may be written."""
    describe.hold_gated_outputs(operation, describe.present(x=x, weight=weight, gate=gate), {"out": out})


def _run_rms_norm(
    route: routes.Route,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
    residual_out: torch.Tensor | None,
    like: shortcuts.Like,
) -> Normed:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        y, total = native.rms_norm(x, weight, residual, **route.flags)
        # both are there before either is written over an input
        y = y if out is None else out.copy_(y)
        if total is None:
            return y
        return y, total if residual_out is None else residual_out.copy_(total)

    given = out, residual_out
    out = memory(out, x)
    if residual is not None:
        residual_out = memory(residual_out, x)
    if elements := x.numel():
        width = x.shape[-1]
        rows = elements // width
        tensors = (x, residual, weight, out, residual_out)
        if not route.repeats.again(tensors, (rows,)):
            # here, because the package must import without triton
            from normkernels.kernels.rms_norm import rms_norm_fwd

            plan = plans.general("norm" if residual is None else "residual", rows, width, plan_table(x))
            launched = rms_norm_fwd(x, residual, weight, out, residual_out, **route.flags, plan=plan)
            route.repeats.learn(launched, tensors, ("n_rows",), (rows,))
        shortcuts.keep_norm(
            like,
            route.repeats,
            x,
            residual,
            weight,
            given,
            width=width,
            sums=residual is not None,
            hold=_hold_norm,
        )
    return out if residual_out is None else (out, residual_out)


def _run_gated(
    route: routes.Route,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    like: shortcuts.Like,
) -> torch.Tensor:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        result = native.rms_norm_gated(x, gate, weight, **route.flags)
        return result if out is None else out.copy_(result)

    given, out = out, memory(out, x)
    if elements := x.numel():
        width = route.flags["width"]
        rows = elements // width
        tensors = (x, gate, weight, out)
        if not route.repeats.again(tensors, (rows,)):
            # here, because the package must import without triton
            from normkernels.kernels.rms_norm_gated import rms_norm_gated_fwd

            table = plan_table(x)
            plan = plans.gated_128(rows, table) if route.narrow else plans.general("gated", rows, width, table)
            launched = rms_norm_gated_fwd(x, gate, weight, out, **route.flags, plan=plan)
            route.repeats.learn(launched, tensors, ("n_rows",), (rows,))
        shortcuts.keep_norm(
            like, route.repeats, x, gate, weight, (given, None), width=width, sums=None, hold=_hold_gated
        )
    return out
