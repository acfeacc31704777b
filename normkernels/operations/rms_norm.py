"""RMSNorm, and Gemma's, whose weight is centred on zero: ``y = norm(x + residual) * (offset + weight)``."""

from typing import Any

import torch

from normkernels import checks, plans
from normkernels.call import Call, Device
from normkernels.dispatch import Rejection
from normkernels.errors import InvalidCall
from normkernels.launch import Arguments, Buffers, Counts
from normkernels.operations.operation import Flags, Given, Results, Tensors, memory
from normkernels.operations.rows import ROUNDINGS, RowNorm, rounding_points, tile_arguments


class RmsNorm(RowNorm):
    """``rms_norm``."""

    like_x = ("residual",)
    outputs = {"out": ("x", "residual"), "residual_out": ("residual", "x")}  # noqa: RUF012  (typed in Operation)
    needs_vectors = False

    def resolve(self, given: Given) -> Flags:
        """Check a call; a plain weight's product is rounded as asked, an offset weight's product never."""
        if given["residual_out"] is not None and given["residual"] is None:
            raise InvalidCall(f"{self.name}: residual_out is given, residual must be given then")
        self.check_tensors(given, given.get("fp8_dtype"))
        offset = self.offset(given)
        eps = checks.number(self.name, "eps", given["eps"], 0)
        checks.choice(self.name, "rounding", given["rounding"], ROUNDINGS)
        # Hugging Face rounds a plain weight's product, and nothing before the store with an offset
        return {"eps": eps, "offset": offset, "rounding": "fp32" if offset else given["rounding"]}

    def offset(self, given: Given) -> float:
        """Return the number that is added to the weight."""
        return checks.number(self.name, "weight_offset", given["weight_offset"])

    def describe(self, given: Given, flags: Flags) -> Call:
        return self.row_call(given, given["x"].shape[-1])

    def plan(self, call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
        return plans.general("residual" if call.residual else "norm", call.rows, call.width, device.table), ()

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        x, weight, residual, out, residual_out = tensors
        y, total = native(x, weight, residual, **flags)
        # both are computed before either is written over an input
        y = y if out is None else out.copy_(y)
        if total is None:
            return y
        return y, total if residual_out is None else residual_out.copy_(total)

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        x, weight, residual, out, total = tensors
        return x, residual, weight, memory(out, x), None if residual is None else memory(total, x)

    def counts(self, tensors: Tensors, flags: Flags) -> Counts:
        elements = tensors[0].numel()
        return (elements // tensors[0].shape[-1] if elements else 0,)

    def arguments(self, flags: Flags, buffers: Buffers, plan: plans.Plan) -> Arguments:
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm import rms_norm_kernel

        x, residual, weight, out, total = buffers
        tensors = {"x": x, "residual": residual, "out": out, "sum": total}
        tiles = tile_arguments(tensors, {"weight": weight}, x.shape[-1])
        return rms_norm_kernel, tiles | norm_arguments(buffers, flags, plan) | {"READS": plan.reads}

    def results(self, buffers: Buffers) -> Results:
        out, total = buffers[3:]
        return out if total is None else (out, total)


class GemmaRmsNorm(RmsNorm):
    """``gemma_rms_norm``: an offset of one; a call without a weight has no meaning."""

    needs_vectors = True

    def offset(self, given: Given) -> float:
        return 1.0


def norm_arguments(buffers: Buffers, flags: Flags, plan: plans.Plan) -> dict[str, Any]:
    """Return the kernel arguments about the norm of x, with or without a residual and a weight."""
    x, residual, weight = buffers[:3]
    return {
        "weight_offset": flags["offset"],
        "eps": flags["eps"],
        "RESIDUAL": residual is not None,
        "WEIGHT": weight is not None,
        "OFFSET": flags["offset"] != 0,
        **rounding_points(flags["rounding"], x.dtype, weight),
        "WIDTH": x.shape[-1],
        "LEVELS": plan.levels,
        "ROWS": plan.rows,
    }


def native(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    eps: float,
    offset: float,
    rounding: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the norm of x, or of its rounded sum with the residual, and that sum; both contiguous.

    Arithmetic is fp32, or float64 for float64; ``rounding="hf"`` rounds after the norm and the weight.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    total = None
    if residual is not None:
        x = total = (x.to(wide) + residual.to(wide)).to(x.dtype).contiguous()
    narrow = x.dtype

    y = x.to(wide)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    if weight is not None:
        narrow = torch.promote_types(narrow, weight.dtype)
    factor = x.new_ones((), dtype=wide) if weight is None else weight.to(wide)
    # only where there is an offset: 0.0 + weight would lose the sign of a zero
    y = y * (factor + offset if offset else factor)
    if rounding == "hf":
        y = y.to(narrow).to(wide)
    return y.to(x.dtype).contiguous(), total
