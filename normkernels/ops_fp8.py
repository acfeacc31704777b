"""The public functions whose results are fp8 values and scales: each validates, describes, decides and runs."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from normkernels import describe_fp8, fp8, library, native, plans, routes, shortcuts
from normkernels.call import plan_table
from normkernels.dispatch import Path
from normkernels.library import Given
from normkernels.results import memory


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

    ``y``, and ``s`` with a residual, are what ``rms_norm`` returns: y is rounded to x's dtype before it is
    quantised, and among the results if ``also_unquantised``. Each ``quant_group`` columns of a row share a
    scale (None: all of them do; the last group of a row may be shorter): in fp32,

        scale = max(amax(|y|), 1e-10) / fp8_max,   values = round(y / scale), saturated,

    rounded to nearest even. ``fp8_dtype`` is ``torch.float8_e4m3fn`` or ``torch.float8_e4m3fnuz``, and
    ``fp8_max`` what ``torch.finfo`` says of it: 448 and 240. A NaN in a group makes its scale and all its values
    NaN; an infinity makes the scale infinite, its own value NaN and the others zero.

    ``values`` are contiguous and in x's shape. ``scales`` are fp32, ``(*leading, ceil(n / quant_group))``, and
    contiguous where ``scale_layout`` is ``"row"``. With ``"column"`` the same shape has the groups outermost in
    memory: the leading sizes, flattened to ``rows``, have stride 1, and the groups stride ``rows``. For x of
    shape (rows, n) the strides are ``(1, rows)``; for (a, b, n), ``(b, 1, a * b)``; for (n,), ``(1,)``.

    ``out`` takes the values and ``residual_out`` the sum, in any strides; the sum may lie in x or the residual.
    Scales are always fresh. There is no gradient: a call that needs one is refused. ``torch.compile`` traces a
    call as one op, and refuses given outputs.
    """
    if is_compiling():
        given: Given = {"x": x, "weight": weight, "residual": residual, "weight_offset": weight_offset, "eps": eps}
        given = {**given, "quant_group": quant_group, "scale_layout": scale_layout, "fp8_dtype": fp8_dtype}
        given = {**given, "also_unquantised": also_unquantised, "rounding": rounding, "path": path}
        return tuple(library.call("rms_norm_fp8", given, {"out": out, "residual_out": residual_out}))

    key = None
    like: shortcuts.Like = None
    results: tuple[torch.Tensor, ...] | None
    if out is None and residual_out is None:
        if (
            path is None
            and type(eps) is type(weight_offset) is float
            and (quant_group is None or type(quant_group) is int)
            and type(scale_layout) is type(rounding) is str
            and type(fp8_dtype) is torch.dtype
            and type(also_unquantised) is bool
        ):
            alike = weight_offset, quant_group, scale_layout, fp8_dtype, also_unquantised
            like = "rms_norm_fp8", eps, rounding, residual is None, *alike
            for again in shortcuts.find(like, ()):
                results = again(x, residual, weight)
                if results is not None:
                    return results
        flags = (eps, weight_offset, quant_group, scale_layout, fp8_dtype, also_unquantised, rounding, path)
        key = routes.key("rms_norm_fp8", x, weight, residual, flags)
    route = routes.known(key)
    if route is None:
        call, resolved = describe_fp8.rms_norm_fp8(
            x,
            weight,
            eps=eps,
            residual=residual,
            weight_offset=weight_offset,
            quant_group=quant_group,
            scale_layout=scale_layout,
            fp8_dtype=fp8_dtype,
            also_unquantised=also_unquantised,
            rounding=rounding,
            out=out,
            residual_out=residual_out,
        )
        route = routes.learn(key, x, call, resolved, path)
    return _run_rms_norm(route, x, weight, residual, out, residual_out, like)


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

    ``y`` is what ``rms_norm_gated`` returns, with groups of ``group_size`` columns that share a mean;
    ``rms_norm_fp8`` says how it is quantised, by groups of ``quant_group`` columns, and the rest. Triton runs
    the call where the groups of one kind are whole parts of the other's.
    """
    if is_compiling():
        given: Given = {"x": x, "gate": gate, "weight": weight, "eps": eps, "group_size": group_size}
        given = {**given, "norm_before_gate": norm_before_gate, "activation": activation}
        given = {**given, "quant_group": quant_group, "scale_layout": scale_layout, "fp8_dtype": fp8_dtype}
        given = {**given, "also_unquantised": also_unquantised, "rounding": rounding, "path": path}
        return tuple(library.call("rms_norm_gated_fp8", given, {"out": out}))

    key = None
    like: shortcuts.Like = None
    results: tuple[torch.Tensor, ...] | None
    if out is None:
        if (
            path is None
            and type(eps) is float
            and (group_size is None or type(group_size) is int)
            and (quant_group is None or type(quant_group) is int)
            and type(scale_layout) is type(activation) is type(rounding) is str
            and type(fp8_dtype) is torch.dtype
            and type(also_unquantised) is type(norm_before_gate) is bool
        ):
            alike = quant_group, scale_layout, fp8_dtype, also_unquantised, gate is None, gate is x
            like = "rms_norm_gated_fp8", eps, rounding, group_size, norm_before_gate, activation, *alike
            for again in shortcuts.find(like, ()):
                results = again(x, gate, weight)
                if results is not None:
                    return results
        how = (quant_group, scale_layout, fp8_dtype, also_unquantised, rounding, path)
        key = routes.key(
            "rms_norm_gated_fp8", x, weight, gate, (eps, group_size, norm_before_gate, activation, *how)
        )
    route = routes.known(key)
    if route is None:
        call, resolved = describe_fp8.rms_norm_gated_fp8(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
            quant_group=quant_group,
            scale_layout=scale_layout,
            fp8_dtype=fp8_dtype,
            also_unquantised=also_unquantised,
            rounding=rounding,
            out=out,
        )
        route = routes.learn(key, x, call, resolved, path)
    return _run_gated(route, x, gate, weight, out, like)


def _run_rms_norm(
    route: routes.Route,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
    residual_out: torch.Tensor | None,
    like: shortcuts.Like,
) -> tuple[torch.Tensor, ...]:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        values, *others = native.rms_norm_fp8(x, weight, residual, **route.flags)
        values = values if out is None else out.copy_(values)
        if residual_out is not None:
            others[-1] = residual_out.copy_(others[-1])
        return values, *others

    how = route.flags["how"]
    values, scales, y = _empty(x, how, out, unquantised=route.flags["unquantised"])
    if residual is not None:
        residual_out = memory(residual_out, x)
    if elements := x.numel():
        rows = elements // x.shape[-1]
        tensors = (x, residual, weight, values, scales, y, residual_out)
        names, counts = _counts(rows, rows, how)
        if not route.repeats.again(tensors, counts):
            # here, because the package must import without triton
            from normkernels.kernels.rms_norm_fp8 import rms_norm_fp8_fwd

            flags = {name: flag for name, flag in route.flags.items() if name != "unquantised"}
            kind = "fp8" if residual is None else "fp8 residual"
            plan = _plan(kind, x, rows, plans.Cut(x.shape[-1], how.group))
            launched = rms_norm_fp8_fwd(x, residual, weight, values, scales, y, residual_out, **flags, plan=plan)
            route.repeats.learn(launched, tensors, names, counts)
        unquantised, sums = route.flags["unquantised"], residual is not None
        shortcuts.keep_norm_fp8(
            like, route.repeats, x, residual, weight, how=how, spans=1, unquantised=unquantised, sums=sums
        )
    return fp8.results(values, scales, y, residual_out)


def _run_gated(
    route: routes.Route,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    like: shortcuts.Like,
) -> tuple[torch.Tensor, ...]:
    """Run a valid call on its path."""
    if route.path is Path.NATIVE:
        values, *others = native.rms_norm_gated_fp8(x, gate, weight, **route.flags)
        return values if out is None else out.copy_(values), *others

    how, width = route.flags["how"], route.flags["width"]
    values, scales, y = _empty(x, how, out, unquantised=route.flags["unquantised"])
    if elements := x.numel():
        n = x.shape[-1]
        rows = elements // n
        spans = rows * -(-n // max(width, how.group))
        tensors = (x, gate, weight, values, scales, y)
        names, counts = _counts(spans, rows, how)
        if not route.repeats.again(tensors, counts):
            # here, because the package must import without triton
            from normkernels.kernels.rms_norm_gated_fp8 import rms_norm_gated_fp8_fwd

            flags = {name: flag for name, flag in route.flags.items() if name != "unquantised"}
            plan = _plan("gated fp8", x, spans, plans.Cut(width, how.group))
            launched = rms_norm_gated_fp8_fwd(x, gate, weight, values, scales, y, **flags, plan=plan)
            route.repeats.learn(launched, tensors, names, counts)
        unquantised, each = route.flags["unquantised"], spans // rows
        shortcuts.keep_norm_fp8(
            like, route.repeats, x, gate, weight, how=how, spans=each, unquantised=unquantised, sums=None
        )
    return fp8.results(values, scales, y, None)


def _empty(
    x: torch.Tensor, how: fp8.Quantisation, out: torch.Tensor | None, *, unquantised: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return memory for values, unless it is given, for scales, and for y where it is asked for."""
    values = memory(out, x, how.dtype)
    y = memory(None, x) if unquantised else None
    return values, fp8.empty_scales(x, how), y


def _plan(kind: str, x: torch.Tensor, spans: int, cut: plans.Cut) -> plans.Plan:
    """Return the plan for the spans of x, as a decision has it."""
    return plans.general(kind, spans, cut.span, plan_table(x), 2**cut.levels)


def _counts(spans: int, rows: int, how: fp8.Quantisation) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the kernel arguments that follow the number of rows, by name and value."""
    if how.layout == "row":
        return ("n_rows",), (spans,)
    return ("n_rows", "scale_group_stride"), (spans, rows)
