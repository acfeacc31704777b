"""Gated RMSNorm: ``norm(x) * weight * act(gate)`` or ``norm(x * act(gate)) * weight``, whole or in groups."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from normkernels import checks, plans
from normkernels.call import Call, Device, Gated
from normkernels.dispatch import Reason, Rejection, rejections
from normkernels.errors import InvalidCall
from normkernels.launch import Arguments, Buffers, Counts
from normkernels.operations.operation import Flags, Given, Results, Tensors, memory
from normkernels.operations.rows import ROUNDINGS, RowNorm, rounding_points, tile_arguments

# Activations by their names in kernels.
_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}


class RmsNormGated(RowNorm):
    """``rms_norm_gated``."""

    like_x = ("gate",)
    outputs = {"out": ("x", "gate")}  # noqa: RUF012  (typed in Operation)

    def resolve(self, given: Given) -> Flags:
        self.check_tensors(given, given.get("fp8_dtype"))
        eps = checks.number(self.name, "eps", given["eps"], 0)
        n, width = given["x"].shape[-1], given["group_size"]
        if width is not None and (not checks.is_count(width) or n % width):
            raise InvalidCall(
                f"{self.name}: group_size={width!r}, must be None or a divisor of the {n} columns of x"
            )
        checks.choice(self.name, "norm_before_gate", given["norm_before_gate"], (True, False))
        checks.choice(self.name, "activation", given["activation"], tuple(ACTIVATIONS))
        checks.choice(self.name, "rounding", given["rounding"], ROUNDINGS)
        return {
            "eps": eps,
            "width": n if width is None else width,
            "gated": "none" if given["gate"] is None else "after" if given["norm_before_gate"] else "before",
            "activation": ACTIVATIONS[given["activation"]],
            "rounding": given["rounding"],
        }

    def describe(self, given: Given, flags: Flags) -> Call:
        contiguous = (given[name] is None or given[name].is_contiguous() for name in ("x", "gate", "out"))
        return self.row_call(given, flags["width"], Gated(flags["gated"], *contiguous))

    def plan(self, call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
        """Return the plan for contiguous rows of 128, or the general one and the reasons against the other."""
        assert call.gated is not None
        narrow = plans.gated_128(call.rows, device.table)
        stops = (
            (call.gated.gate == "none", Reason.NO_GATE, "none"),
            (call.width != call.n, Reason.GROUPED, f"{call.rows} of {call.width}"),
            (call.gated.gate == "before", Reason.GATE_FIRST, "it before"),
            (call.n != plans.NARROW, Reason.WIDTH, str(call.n)),
            (not call.gated.x_contiguous, Reason.X_NOT_CONTIGUOUS, "a strided one"),
            (not call.gated.gate_contiguous, Reason.GATE_NOT_CONTIGUOUS, "a strided one"),
            (not call.gated.out_contiguous, Reason.OUT_NOT_CONTIGUOUS, "a strided one"),
        )
        stopped = rejections(self.path, narrow.name, stops)
        return (plans.general("gated", call.rows, call.width, device.table) if stopped else narrow), stopped

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        x, gate, weight, out = tensors
        y = native(x, gate, weight, **flags)
        return y if out is None else out.copy_(y)

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        x, gate, weight, out = tensors
        return x, gate, weight, memory(out, x)

    def counts(self, tensors: Tensors, flags: Flags) -> Counts:
        elements = tensors[0].numel()
        # rows of the kernel are groups
        return (elements // flags["width"] if elements else 0,)

    def arguments(self, flags: Flags, buffers: Buffers, plan: plans.Plan) -> Arguments:
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm_gated import rms_norm_gated_128_kernel, rms_norm_gated_kernel

        x, gate, weight, out = buffers
        args = norm_arguments(buffers, flags, plan)
        if plan.name != "general":
            return rms_norm_gated_128_kernel, args | {"weight_stride": weight.stride(0)}
        groups = x.shape[-1] // flags["width"]
        args |= tile_arguments({"x": x, "gate": gate, "out": out}, {"weight": weight}, flags["width"])
        args |= {"n_groups": groups, "GROUPED": groups > 1, "WIDTH": flags["width"], "LEVELS": plan.levels}
        return rms_norm_gated_kernel, args

    def results(self, buffers: Buffers) -> Results:
        return buffers[3]


def norm_arguments(buffers: Buffers, flags: Flags, plan: plans.Plan) -> dict[str, Any]:
    """Return the kernel arguments about the norm of x and its gate, if there is one."""
    x, gate, weight = buffers[:3]
    normalised = x.dtype
    if gate is not None and flags["gated"] == "before":
        normalised = torch.promote_types(x.dtype, gate.dtype)
    return {
        "eps": flags["eps"],
        "GATE": flags["gated"],
        "ACTIVATION": flags["activation"],
        **rounding_points(flags["rounding"], normalised, weight),
        "ROWS": plan.rows,
    }


def native(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    width: int,
    gated: str,
    activation: str,
    rounding: str,
) -> torch.Tensor:
    """Return the gated norm of groups of ``width`` columns, contiguous and in x's dtype.

    Arithmetic is fp32, or float64 for float64; ``rounding="hf"`` rounds after the norm and the weight.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y, narrow = x.to(wide), x.dtype
    if gate is not None:
        act = _ACTIVATIONS[activation](gate.to(wide))
        if gated == "before":
            y, narrow = y * act, torch.promote_types(narrow, gate.dtype)

    groups = y.reshape(*x.shape[:-1], x.shape[-1] // width if width else 0, width)
    inv_rms = torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)
    y = (groups * inv_rms).flatten(-2)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    y = y * weight.to(wide)
    if rounding == "hf":
        y = y.to(torch.promote_types(narrow, weight.dtype)).to(wide)

    if gate is not None and gated == "after":
        y = y * act
    return y.to(x.dtype).contiguous()
