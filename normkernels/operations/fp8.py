"""The norms with fp8 values: ``rms_norm`` and ``rms_norm_gated``, rounded to x's dtype, then quantised by groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from normkernels import checks, plans
from normkernels.call import Call, Device, Quantised, dtype_name
from normkernels.dispatch import Reason, Rejection, Stop, row_stops
from normkernels.errors import InvalidCall
from normkernels.launch import Arguments, Buffers, Counts
from normkernels.operations import quantisation, rms_norm, rms_norm_gated
from normkernels.operations.operation import Flags, Given, Results, Tensors, memory
from normkernels.operations.quantisation import FLOOR, Quantisation, empty_scales, no_gradient
from normkernels.operations.rms_norm import RmsNorm
from normkernels.operations.rms_norm_gated import RmsNormGated
from normkernels.operations.rows import RowNorm, leading, tile_arguments
from normkernels.plans import Cut, Plan


class _Fp8(RowNorm):
    """A norm whose results are values and scales, then y where it is asked for, and the sum."""

    def stops(self, call: Call, device: Device) -> Iterable[Stop]:
        """Return the reasons against kernels that hold a row in a block and quantise it."""
        assert call.quantised is not None
        dtype, crossing = call.quantised.dtype, call.quantised.crossing
        return (
            *row_stops(call),
            (dtype not in device.fp8, Reason.FP8_DTYPE, dtype),
            (crossing is not None, Reason.QUANT_GROUP, str(crossing)),
        )

    def count_names(self, flags: Flags) -> tuple[str, ...]:
        """Return the number of rows; with the scales of a group as neighbours, also the stride of groups."""
        return ("n_rows",) if flags["how"].layout == "row" else ("n_rows", "scale_group_stride")

    def quantised_call(self, given: Given, flags: Flags, width: int) -> Call:
        """Describe a checked call with norm groups of ``width`` columns; raise if it needs a gradient."""
        every = checks.present(**{name: given.get(name) for name in self.tensors})
        if needs := checks.needs_gradient(every):
            raise no_gradient(self.name, needs)
        if checks.forward_mode():
            raise InvalidCall(
                f"{self.name}: called in forward-mode autograd, must not: fp8 values have no tangent"
            )
        call, how = self.row_call(given, width), flags["how"]
        cut = plans.cut(call.n, width, how.group)
        quantised = Quantised(
            dtype_name(how.dtype),
            crossing=None if cut else f"{how.group} over {width}",
            span=0 if cut is None else cut.span,
            wide=any(each.dtype == torch.float32 for name, each in every.items() if name not in self.written),
        )
        if cut is None or not call.n:
            return replace(call, quantised=quantised)
        # fresh results are contiguous, and collapse to no fewer sizes where the last span of a row is shorter
        x = given["x"]
        fresh = torch.empty(x.shape, device="meta")
        like_x = [*(tensor for name, tensor in every.items() if name != "weight"), fresh]
        rows = x.numel() // call.n * -(-call.n // cut.span)
        collapsed = len(leading(like_x, cut.span).sizes)
        return replace(call, width=2**cut.levels, rows=rows, leading=collapsed, quantised=quantised)

    def quantised_plan(self, kind: str, call: Call, device: Device) -> tuple[Plan, tuple[Rejection, ...]]:
        """Return the one plan for a kind of norm."""
        assert call.quantised is not None
        plan = plans.general(kind, call.rows, call.quantised.span, device.table, call.width)
        # plans count the registers of inputs that are half as wide as fp32: with those it would spill
        return replace(plan, registers=None) if call.quantised.wide else plan, ()


class RmsNormFp8(_Fp8, RmsNorm):
    """``rms_norm_fp8``."""

    may_be = {"out": (), "residual_out": ("residual", "x")}  # noqa: RUF012  (typed in RowNorm)

    def resolve(self, given: Given) -> Flags:
        """Check a call."""
        self.check_residual(given)
        self.check_tensors(given, weight=False, out=given["fp8_dtype"])
        return {**self.norm_flags(given), "how": quantisation.resolve(self.name, given)}

    def describe(self, given: Given, flags: Flags) -> Call:
        """Describe a checked call."""
        return self.quantised_call(given, flags, given["x"].shape[-1])

    def plan(self, call: Call, device: Device) -> tuple[Plan, tuple[Rejection, ...]]:
        """Return the one plan."""
        return self.quantised_plan("fp8 residual" if call.residual else "fp8", call, device)

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        """Compute a call in PyTorch."""
        x, weight, residual, out, residual_out = tensors
        assert x is not None
        how = flags["how"]
        y, total = rms_norm.native(x, weight, residual, **_without_how(flags))
        values, scales = quantisation.native(y, how)
        values = values if out is None else out.copy_(values)
        total = total if residual_out is None or total is None else residual_out.copy_(total)
        return _given((values, scales, y if how.unquantised else None, total))

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        """Return x, residual, weight, values, scales, y and sum."""
        x, weight, residual, out, residual_out = tensors
        assert x is not None
        total = None if residual is None else memory(residual_out, x)
        return x, residual, weight, *_fp8_memory(x, out, flags["how"]), total

    def counts(self, buffers: Buffers, flags: Flags) -> Counts:
        """Return the number of rows."""
        x = buffers[0]
        assert x is not None
        rows = x.numel() // x.shape[-1] if x.numel() else 0
        return _counts(rows, rows, flags["how"])

    def arguments(self, flags: Flags, buffers: Buffers, plan: Plan) -> Arguments:
        """Return the kernel and its arguments."""
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm_fp8 import rms_norm_fp8_kernel

        x, residual, weight, out, scales, y, total = buffers
        assert x is not None
        tensors = {"x": x, "residual": residual, "out": out, "y": y, "sum": total}
        return rms_norm_fp8_kernel, {
            **rms_norm.norm_arguments(x, residual, weight, flags, plan),
            **_quantised_arguments(tensors, weight, scales, flags["how"], x.shape[-1]),
            "PTX": plan.ptx,
        }

    def results(self, buffers: Buffers) -> Results:
        """Return values and scales, then y and the sum if there are any."""
        return _given(buffers[3:])


class RmsNormGatedFp8(_Fp8, RmsNormGated):
    """``rms_norm_gated_fp8``."""

    may_be = {"out": ()}  # noqa: RUF012  (typed in RowNorm)

    def resolve(self, given: Given) -> Flags:
        """Check a call."""
        self.check_tensors(given, weight=True, out=given["fp8_dtype"])
        return {**self.norm_flags(given), "how": quantisation.resolve(self.name, given)}

    def describe(self, given: Given, flags: Flags) -> Call:
        """Describe a checked call."""
        return self.quantised_call(given, flags, flags["width"])

    def plan(self, call: Call, device: Device) -> tuple[Plan, tuple[Rejection, ...]]:
        """Return the one plan."""
        return self.quantised_plan("gated fp8", call, device)

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        """Compute a call in PyTorch."""
        x, gate, weight, out = tensors
        assert x is not None
        assert weight is not None
        y = rms_norm_gated.native(x, gate, weight, **_without_how(flags))
        values, scales = quantisation.native(y, flags["how"])
        values = values if out is None else out.copy_(values)
        return _given((values, scales, y if flags["how"].unquantised else None))

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        """Return x, gate, weight, values, scales and y."""
        x, gate, weight, out = tensors
        assert x is not None
        return x, gate, weight, *_fp8_memory(x, out, flags["how"])

    def counts(self, buffers: Buffers, flags: Flags) -> Counts:
        """Return the number of rows: spans in all."""
        x = buffers[0]
        assert x is not None
        n = x.shape[-1]
        rows = x.numel() // n if x.numel() else 0
        spans = rows and rows * -(-n // Cut(flags["width"], flags["how"].group).span)
        return _counts(spans, rows, flags["how"])

    def arguments(self, flags: Flags, buffers: Buffers, plan: Plan) -> Arguments:
        """Return the kernel and its arguments."""
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm_gated_fp8 import rms_norm_gated_fp8_kernel

        x, gate, weight, out, scales, y = buffers
        assert x is not None
        assert weight is not None
        cut = Cut(flags["width"], flags["how"].group)
        return rms_norm_gated_fp8_kernel, {
            **rms_norm_gated.norm_arguments(x, gate, weight, flags, plan),
            **_quantised_arguments(
                {"x": x, "gate": gate, "out": out, "y": y}, weight, scales, flags["how"], flags["width"]
            ),
            "N": x.shape[-1],
            "SPAN": cut.span,
            "BLOCK": cut.block,
        }

    def results(self, buffers: Buffers) -> Results:
        """Return values and scales, then y if it was asked for."""
        return _given(buffers[3:])


def _fp8_memory(x: torch.Tensor, out: torch.Tensor | None, how: Quantisation) -> Buffers:
    """Return memory for values, unless it is given, for scales, and for y where it is asked for."""
    return memory(out, x, how.dtype), empty_scales(x, how), memory(None, x) if how.unquantised else None


def _given(results: Buffers) -> tuple[torch.Tensor, ...]:
    return tuple(each for each in results if each is not None)


def _without_how(flags: Flags) -> dict[str, Any]:
    return {name: flag for name, flag in flags.items() if name != "how"}


def _counts(rows: int, scales: int, how: Quantisation) -> Counts:
    return (rows,) if how.layout == "row" else (rows, scales)


def _quantised_arguments(
    tensors: dict[str, torch.Tensor | None],
    weight: torch.Tensor | None,
    scales: torch.Tensor | None,
    how: Quantisation,
    width: int,
) -> dict[str, Any]:
    """Return the kernel arguments about tiles and scales, for lines of one block each."""
    x, cut = tensors["x"], Cut(width, how.group)
    assert x is not None
    assert scales is not None
    groups = scales.shape[-1]
    steps = (groups, 1) if how.layout == "row" else (1, scales.numel() // groups)
    # x stands in for tensors that are not there, and are not touched
    args = tile_arguments({name: x if each is None else each for name, each in tensors.items()}, weight, cut.span)
    # a line begins where its block does, and must be as aligned as rows are
    if args["ACCESS"] == "aligned" and cut.block < cut.span and cut.block % 16:
        args["ACCESS"] = "unit"
    return {
        **args,
        "UNQUANTISED": how.unquantised,
        "scale_row_stride": steps[0],
        "scale_group_stride": steps[1],
        "FLOOR": FLOOR,
        "FP8_MAX": how.max,
        "WIDTH": width,
        "GROUP": how.group,
        "LEVELS": cut.levels,
        "BLOCK_LEVELS": cut.block_levels,
    }
