"""Norms with fp8 results: quantisation of values, layout of scales, and the methods that both norms share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from normkernels import checks, plans
from normkernels.call import FP8, Call, Device, Quantised, dtype_name
from normkernels.dispatch import Reason, Rejection, Stop
from normkernels.errors import InvalidCall
from normkernels.launch import Buffers, Counts
from normkernels.operations.operation import Flags, Given, Results, Tensors, memory
from normkernels.operations.rows import RowNorm, leading, tile_arguments

LAYOUTS = ("row", "column")
# The least amax of a scale: a group of zeros has a scale that is neither zero nor subnormal.
FLOOR = 1e-10


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The parameters by which rows of a result become values and scales."""

    dtype: torch.dtype
    group: int  # columns that share a scale; the last group of a row may be shorter
    layout: str
    unquantised: bool  # whether the norm is returned as well

    @property
    def max(self) -> float:
        """Return the largest number of the type."""
        return torch.finfo(self.dtype).max


class QuantisedNorm(RowNorm):
    """A norm, rounded to x's dtype and quantised by groups: values and scales, then y if asked for, then the sum.

    Mixed into the norm itself, whose flags and native form it uses.
    """

    def resolve(self, given: Given) -> Flags:
        norm, columns = super().resolve(given), given["quant_group"]  # type: ignore[safe-super]  # of the norm
        if columns is not None and not checks.is_count(columns):
            raise InvalidCall(
                f"{self.name}: quant_group={columns!r}, must be None or a number of columns, at least 1"
            )
        checks.choice(self.name, "scale_layout", given["scale_layout"], LAYOUTS)
        checks.choice(self.name, "fp8_dtype", given["fp8_dtype"], tuple(FP8))
        checks.choice(self.name, "also_unquantised", given["also_unquantised"], (True, False))
        n = given["x"].shape[-1]
        group = n if columns is None else min(columns, n)
        how = Quantisation(given["fp8_dtype"], group, given["scale_layout"], given["also_unquantised"])
        return {"norm": norm, "how": how, "cut": plans.cut(n, norm.get("width", n), group)}

    def describe(self, given: Given, flags: Flags) -> Call:
        """Describe a checked call; raise if it would have to be differentiated."""
        every = checks.present(**{name: given[name] for name in self.tensors})
        if needs := checks.needs_gradient(every):
            raise no_gradient(self.name, needs)
        if checks.forward_mode():
            raise InvalidCall(
                f"{self.name}: called in forward-mode autograd, must not: fp8 values have no tangent"
            )
        call, how, cut, x = super().describe(given, flags["norm"]), flags["how"], flags["cut"], given["x"]  # type: ignore[safe-super]  # of the norm
        quantised = Quantised(
            dtype_name(how.dtype),
            crossing=None if cut else f"{how.group} over {call.width}",
            span=0 if cut is None else cut.span,
            wide=any(each.dtype == torch.float32 for name, each in every.items() if name not in self.outputs),
        )
        if cut is None or not call.n:
            return replace(call, quantised=quantised)
        # fresh results are contiguous, and collapse to no fewer sizes where the last span of a row is shorter
        fresh = torch.empty(x.shape, device="meta")
        like_x = [*(tensor for name, tensor in every.items() if name not in self.vectors), fresh]
        rows = x.numel() // call.n * -(-call.n // cut.span)
        collapsed = len(leading(like_x, cut.span)[0])
        return replace(call, width=2**cut.levels, rows=rows, leading=collapsed, quantised=quantised)

    def stops(self, call: Call, device: Device) -> Iterable[Stop]:
        """Return the reasons against kernels that hold a row in a block and quantise it."""
        assert call.quantised is not None
        dtype, crossing = call.quantised.dtype, call.quantised.crossing
        return (
            *super().stops(call, device),
            (dtype not in device.fp8, Reason.FP8_DTYPE, dtype),
            (crossing is not None, Reason.QUANT_GROUP, str(crossing)),
        )

    def plan(self, call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
        assert call.quantised is not None
        kind = "fp8 residual" if call.residual else "fp8" if call.gated is None else "gated fp8"
        plan = plans.general(kind, call.rows, call.quantised.span, device.table, call.width)
        # plans count the registers of 16-bit inputs: with fp32 inputs the kernel would spill
        return replace(plan, registers=None) if call.quantised.wide else plan, ()

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        out, how = tensors[self.tensors.index("out")], flags["how"]
        without = [None if name == "out" else each for name, each in zip(self.tensors, tensors, strict=True)]
        results = super().native(without, flags["norm"])  # type: ignore[safe-super]  # of the norm
        y, total = results if isinstance(results, tuple) else (results, None)
        values, scales = native(y, how)
        return _given(
            (values if out is None else out.copy_(values), scales, y if how.unquantised else None, total)
        )

    def counts(self, tensors: Tensors, flags: Flags) -> Counts:
        """Return the number of spans, and the stride of groups among the scales (dense in layout ``row``)."""
        elements, n = tensors[0].numel(), tensors[0].shape[-1]
        rows = elements // n if elements else 0
        return rows and rows * -(-n // flags["cut"].span), 1 if flags["how"].layout == "row" else rows

    def results(self, buffers: Buffers) -> Results:
        return _given(buffers[3:])


def fp8_memory(x: torch.Tensor, out: torch.Tensor | None, how: Quantisation) -> Buffers:
    """Return memory for the values, which may be given, for the scales, and for y if it is asked for."""
    return memory(out, x, how.dtype), empty_scales(x, how), memory(None, x) if how.unquantised else None


def _given(results: Buffers) -> tuple[torch.Tensor, ...]:
    # a list, because a generator takes twice as long
    return tuple([each for each in results if each is not None])


def quantised_arguments(
    tensors: Mapping[str, Any], weight: torch.Tensor | None, scales: torch.Tensor, flags: Flags
) -> dict[str, Any]:
    """Return the kernel arguments about tiles and scales, for lines of one block each."""
    how, cut = flags["how"], flags["cut"]
    args = tile_arguments(tensors, {"weight": weight}, cut.span)
    # a line begins where its block does, and must be as aligned as rows are
    if args["ACCESS"] == "aligned" and cut.block < cut.span and cut.block % 16:
        args["ACCESS"] = "unit"
    return {
        **args,
        "UNQUANTISED": how.unquantised,
        "scale_row_stride": scales.shape[-1] if how.layout == "row" else 1,
        "FLOOR": FLOOR,
        "FP8_MAX": how.max,
        "WIDTH": cut.width,
        "GROUP": cut.group,
        "LEVELS": cut.levels,
        "BLOCK_LEVELS": cut.block_levels,
    }


def no_gradient(operation: str, needs: str) -> InvalidCall:
    """Return the refusal of a call that would have to be differentiated."""
    return InvalidCall(
        f"{operation}: {needs} needs a gradient, must not, for fp8 values have none: call it under torch.no_grad()"
    )


def empty_scales(x: torch.Tensor, how: Quantisation) -> torch.Tensor:
    """Return memory for the scales of ``x``: fp32, ``(*leading, groups)``.

    Layout ``row`` is contiguous. In ``column`` the groups are outermost: the scales of one group are neighbours
    over all rows, the leading sizes collapse to one with stride 1, and the last stride is the number of rows.
    """
    *leading, n = x.shape
    groups = -(-n // how.group) if how.group else 0
    if how.layout == "row":
        return x.new_empty((*leading, groups), dtype=torch.float32)
    return x.new_empty((groups, *leading), dtype=torch.float32).movedim(0, -1)


def native(y: torch.Tensor, how: Quantisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of y, contiguous, and their scales, in PyTorch.

    ``scale = max(amax(|y|), FLOOR) / max`` and ``y / scale``, in fp32 (float64 for float64), rounded to nearest.
    """
    scales = empty_scales(y, how)
    if not y.numel():
        return y.to(how.dtype), scales
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    groups = functional.pad(wide, (0, -y.shape[-1] % how.group)).reshape(*y.shape[:-1], -1, how.group)
    amax = groups.abs().amax(-1).clamp(min=FLOOR)
    # a tensor, because on a GPU PyTorch divides by a number as a product with its reciprocal
    scales.copy_(amax / wide.new_full((), how.max))
    values = (groups / scales.unsqueeze(-1)).clamp(-how.max, how.max)
    return values.flatten(-2)[..., : y.shape[-1]].contiguous().to(how.dtype), scales
