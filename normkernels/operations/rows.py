"""Parts that all norms share: checks and keys of calls, and kernel arguments about sizes and strides."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch

from normkernels import checks, plans
from normkernels.call import Call, Device, Gated, dtype_name
from normkernels.checks import PLAIN
from normkernels.dispatch import Path, Reason, Stop
from normkernels.errors import InvalidCall
from normkernels.launch import ALIGNMENT
from normkernels.operations.operation import Given, Operation, Tensors

ROUNDINGS = ("fp32", "hf")
STRIDED = torch.strided


class RowNorm(Operation):
    """A norm over the last dimension of x."""

    path = Path.ROWS
    like_x: ClassVar[tuple[str, ...]]  # optional inputs of x's shape
    vectors: ClassVar[tuple[str, ...]] = ("weight",)  # tensors with an element per column
    needs_vectors: ClassVar[bool] = True

    def key(self, tensors: Tensors, flags: tuple[object, ...]) -> Hashable:
        """Return all that a decision and a kernel's arguments depend on, row counts apart; None: not cached.

        For tensors in x's shape with the strides of new ones the last size is enough; otherwise the key also has
        the strides and every size but the outermost. It has the types of flags because True equals 1.
        """
        x = tensors[0]
        if type(x) not in PLAIN or checks.transformed():
            return None
        shape, device, index = x.shape, x.device, x.get_device()
        # along sizes of one a contiguous tensor may have any strides
        dense = _dense(shape) if 1 in shape or 0 in shape else None
        gradients, contiguous = torch.is_grad_enabled(), True
        key = [self.name, flags, *map(type, flags), device, len(shape), shape[-1] if shape else None]
        add = key.append
        for each in tensors:
            if each is None:
                add(None)
                continue
            # a device without an index is the CPU, or another one
            if (
                type(each) not in PLAIN
                or each.is_neg()
                or each.get_device() != index
                or each.layout is not STRIDED
            ):
                return None
            if index < 0 and each.device != device:
                return None
            add(each.dtype)
            if gradients and each.requires_grad:
                add(True)  # noqa: FBT003  (a part of the key)
            size = each.shape
            if size != shape:
                key += size, each.stride()
            elif not each.is_contiguous() or (dense is not None and each.stride() != dense):
                contiguous = False
                add(each.stride())
        if not contiguous:
            key += shape[1:], shape[0] == 1
        return tuple(key)

    def check_memory(self, tensors: Tensors) -> None:
        """Check that outputs have memory of their own, or are a whole input that they may be."""
        given = checks.present(**dict(zip(self.tensors, tensors, strict=True)))
        outputs = {name: given.pop(name) for name in self.outputs if name in given}
        checks.outputs(self.name, given, outputs, self.outputs)

    def stops(self, call: Call, device: Device) -> Iterable[Stop]:
        """Return the reasons against kernels that hold a row in a block."""
        return (
            (call.leading > plans.MAX_LEADING, Reason.LEADING_STRIDES, str(call.leading)),
            (call.width > plans.MAX_WIDTH, Reason.TOO_WIDE, str(call.width)),
        )

    def check_tensors(self, given: Given, out: torch.dtype | None = None) -> None:
        """Check types, dtypes and shapes of the tensors of a norm; ``out`` has x's dtype, or the one given."""
        x = given["x"]
        vectors = {name: given[name] for name in self.vectors if self.needs_vectors or given[name] is not None}
        optional = checks.present(**{name: given[name] for name in self.like_x})
        outputs = checks.present(**{name: given[name] for name in self.outputs})
        checks.tensors(self.name, {"x": x, **vectors, **optional, **outputs})
        if x.dim() == 0:
            raise InvalidCall(f"{self.name}: x has shape (), must have a last dimension")
        checks.dtype(self.name, "x", x, (*checks.LOW, torch.float64))
        for name, tensor in vectors.items():
            checks.dtype(self.name, name, tensor, (x.dtype, torch.float32))
            checks.shape(self.name, name, tensor, (x.shape[-1],), "the last dimension of x")
        for name, tensor in optional.items():
            checks.dtype(self.name, name, tensor, (x.dtype, *checks.LOW))
            checks.shape(self.name, name, tensor, tuple(x.shape), "the shape of x")
        for name, tensor in outputs.items():
            checks.dtype(self.name, name, tensor, (out if out and name == "out" else x.dtype,))
            checks.shape(self.name, name, tensor, tuple(x.shape), "the shape of x")

    def row_call(self, given: Given, width: int, gated: Gated | None = None) -> Call:
        """Describe a checked call whose kernel rows have ``width`` columns."""
        x = given["x"]
        every = checks.present(**{name: given[name] for name in self.tensors})
        like_x = [tensor for name, tensor in every.items() if name not in self.vectors]
        return Call(
            operation=self.family,
            dtype=dtype_name(x.dtype),
            n=x.shape[-1],
            width=width,
            rows=x.numel() // width if width else 0,
            leading=len(leading(like_x, width)[0]),
            needs_grad=checks.needs_gradient(every),
            not_plain=checks.not_plain(every),
            residual=given.get("residual") is not None,
            gated=gated,
        )


def leading(tensors: Sequence[torch.Tensor], width: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Collapse all sizes before the last ``width`` columns, jointly over ``tensors`` of one shape.

    Return these sizes, and each tensor's strides over them. Groups of ``width`` columns, of which the last may be
    shorter, are a size of their own. Sizes of one collapse by their strides too: otherwise a batch of one would
    need a kernel of its own.
    """
    *sizes, n = tensors[0].shape
    strides = [[*each.stride()[:-1]] for each in tensors]
    if n > width:
        sizes.append(-(-n // width))
        for tensor, steps in zip(tensors, strides, strict=True):
            steps.append(width * tensor.stride(-1))
    axes = list(zip(sizes, zip(*strides, strict=True), strict=True))
    collapsed = _collapse(axes)
    if len(collapsed) > plans.MAX_LEADING:
        collapsed = _collapse([axis for axis in axes if axis[0] != 1])
    if not collapsed:
        collapsed = [(1, (width,) * len(tensors))]
    return tuple(size for size, _ in collapsed), tuple(zip(*(steps for _, steps in collapsed), strict=True))


@lru_cache(1024)
def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a new tensor; cached, because the layers of a model have the same shapes."""
    return torch.empty(shape, device="meta").stride()


def _collapse(axes: Sequence[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    """Merge neighbours among (size, strides) wherever every tensor walks both with one stride."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for size, steps in axes:
        if merged and merged[-1][1] == tuple(size * step for step in steps):
            size *= merged.pop()[0]  # noqa: PLW2901
        merged.append((size, steps))
    return merged


def tile_arguments(given: Mapping[str, Any], vectors: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return the kernel arguments about sizes and strides; unused leading sizes are 1, their strides 0.

    Tensors have one shape, and x stands in for those that are not given; vectors have an element per column, and
    ``width`` columns of both are one row. No kernel uses the outermost size, which therefore is 1: nothing here
    depends on the number of rows.
    """
    tensors = {name: given["x"] if each is None else each for name, each in given.items()}
    collapsed, steps = leading(tuple(tensors.values()), width)
    unused = plans.MAX_LEADING - len(collapsed)
    sizes = (1,) * (unused + 1) + collapsed[1:]
    args: dict[str, Any] = {"size_1": sizes[1], "size_2": sizes[2], "LEADING": len(collapsed)}
    args["size_2_inverse"], args["size_2_shift"] = inverse(sizes[2])
    for (name, tensor), strides in zip(tensors.items(), steps, strict=True):
        for axis, stride in enumerate((0,) * unused + strides):
            args[f"{name}_stride_{axis}"] = stride
        args[f"{name}_col_stride"] = tensor.stride(-1)
    args |= {f"{name}_stride": 0 if each is None else each.stride(0) for name, each in vectors.items()}
    rows = zip(tensors.values(), steps, strict=True)
    args["ACCESS"] = access([*rows, *((each, (width,)) for each in vectors.values() if each is not None)])
    return args


def inverse(size: int) -> tuple[int, int]:
    """Return a multiplier m and a shift s: ``row // size == (2 * row * m >> 32) >> s`` for rows below 2**31.

    m is ``2**(31 + s) / size`` rounded up, with the least s for which ``size <= 2**s``: rounding adds less
    than ``row / 2**(31 + s) < 1 / size`` to ``row * m / 2**(31 + s)`` (Granlund and Montgomery 1994, with
    31 bits). So m has 32 bits, the first of them set, and is returned as the int32 of the same bits: Triton passes
    all of these numbers as one type, and compiles one kernel.
    """
    shift = (size - 1).bit_length()
    return -(-(2 ** (31 + shift)) // size) - 2**32, shift


def access(tensors: Sequence[tuple[torch.Tensor, tuple[int, ...]]]) -> str:
    """Return ``ACCESS`` of tensors, each with the elements from one of its rows to the next.

    ``strided``: some column stride is not one. ``unit``: all are one. ``aligned``: as ``unit``, and every row of
    every tensor begins at a multiple of 16 bytes.
    """
    # the stride of a single column is never used
    if any(tensor.shape[-1] != 1 and tensor.stride(-1) != 1 for tensor, _ in tensors):
        return "strided"
    aligned = all(
        place % ALIGNMENT == 0
        for tensor, steps in tensors
        for place in (tensor.data_ptr(), *(step * tensor.element_size() for step in steps))
    )
    return "aligned" if aligned else "unit"


def rounding_points(rounding: str, normalised: torch.dtype, weight: torch.Tensor | None) -> dict[str, Any]:
    """Return the kernel arguments ``NORMALISED`` and ``WEIGHTED`` for a norm of values of dtype ``normalised``."""
    from normkernels.kernels.row_norm import DTYPES  # here, because the package imports without triton

    weighted = normalised if weight is None else torch.promote_types(normalised, weight.dtype)
    if rounding == "fp32":
        normalised = weighted = torch.float32
    return {"NORMALISED": DTYPES[normalised], "WEIGHTED": DTYPES[weighted]}
