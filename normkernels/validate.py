"""Checks of arguments: each says what was given and what must hold, or returns."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import torch

from normkernels.errors import InvalidCall
from normkernels.strides import may_share, overlaps_itself, same_view

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Kernels take numbers as fp32.
_MAX = torch.finfo(torch.float32).max
LOW = (torch.bfloat16, torch.float16, torch.float32)


def choice(operation: str, name: str, value: object, allowed: Collection[object]) -> None:
    """Hold ``value`` to a fixed set; True is not 1 here."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise InvalidCall(f"{operation}: {name}={value!r}, must be one of {', '.join(map(repr, allowed))}")


def epsilon(operation: str, eps: object) -> float:
    """Return ``eps`` as a float, or raise if no kernel could add it."""
    if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= float(eps) <= _MAX:
        raise InvalidCall(f"{operation}: eps={eps!r}, must be a number, at least 0 and finite in float32")
    return float(eps)


def number(operation: str, name: str, value: object) -> float:
    """Return ``value`` as a float, or raise if no kernel could add it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not -_MAX <= float(value) <= _MAX:
        raise InvalidCall(f"{operation}: {name}={value!r}, must be a number that is finite in float32")
    return float(value)


def group_width(operation: str, group_size: object, n: int) -> int:
    """Return the columns of one group."""
    if group_size is None:
        return n
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1 or n % group_size:
        raise InvalidCall(
            f"{operation}: group_size={group_size!r}, must be None or a divisor of the {n} columns of x"
        )
    return group_size


def quant_group(operation: str, columns: object) -> None:
    """Hold the columns that share a scale to None or a count; it need not divide a row."""
    if columns is not None and (isinstance(columns, bool) or not isinstance(columns, int) or columns < 1):
        raise InvalidCall(f"{operation}: quant_group={columns!r}, must be None or a number of columns, at least 1")


def tensors(operation: str, given: Mapping[str, object]) -> None:
    """Hold every argument to a strided tensor on one device, that of the first."""
    device, first = None, next(iter(given))
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidCall(f"{operation}: {name} is a {type(value).__name__}, must be a tensor")
        if value.layout is not torch.strided:
            raise InvalidCall(f"{operation}: {name} is {value.layout}, must be torch.strided")
        device = device or value.device
        if value.device != device:
            raise InvalidCall(f"{operation}: {name} is on {value.device}, must be on {first}'s device, {device}")


def dtype(operation: str, name: str, tensor: torch.Tensor, allowed: Collection[torch.dtype]) -> None:
    """Hold a tensor's dtype to ``allowed``."""
    if tensor.dtype not in allowed:
        names = ", ".join(dict.fromkeys(map(str, allowed)))
        raise InvalidCall(f"{operation}: {name} is {tensor.dtype}, must be one of {names}")


def shape(operation: str, name: str, tensor: torch.Tensor, wanted: tuple[int, ...], why: str) -> None:
    """Hold a tensor to a shape."""
    if tuple(tensor.shape) != wanted:
        raise InvalidCall(f"{operation}: {name} has shape {tuple(tensor.shape)}, must be {why}, {wanted}")


def output(
    operation: str, name: str, out: torch.Tensor, taken: Mapping[str, torch.Tensor], may_be: Collection[str]
) -> None:
    """Hold an output to memory of its own, or to that of one whole input among ``may_be``."""
    if overlaps_itself(out):
        raise InvalidCall(
            f"{operation}: {name} has strides {out.stride()}, no two of its elements may share memory"
        )
    for other, tensor in taken.items():
        if may_share(out, tensor) and not (other in may_be and same_view(out, tensor)):
            given = [each for each in may_be if each in taken]
            whole = f", or be {' or '.join(given)} as a whole" if given else ""
            raise InvalidCall(f"{operation}: {name} shares memory with {other}, must have its own{whole}")


def head_width(operation: str, head_dim: object, q: torch.Tensor) -> int:
    """Return the columns of one head of q, which has two or three dimensions."""
    given = isinstance(head_dim, int) and not isinstance(head_dim, bool) and head_dim > 0
    if q.dim() == 2:
        if not given or q.shape[1] % head_dim:  # type: ignore[operator]  # given: an int
            raise InvalidCall(
                f"{operation}: head_dim={head_dim!r}, must be a divisor of the {q.shape[1]} columns of q"
            )
        return head_dim  # type: ignore[return-value]  # given: an int
    if head_dim is not None and not (given and head_dim == q.shape[2]):
        raise InvalidCall(f"{operation}: head_dim={head_dim!r}, must be None or the {q.shape[2]} columns of q")
    return q.shape[2]


def three_sections(operation: str, sections: object, half: int) -> tuple[int, int, int]:
    """Return how many frequencies t, h and w have; they share ``half`` of the rotated columns."""
    counts = tuple(sections) if isinstance(sections, (list, tuple)) else ()
    plain = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    if len(counts) != 3 or not plain or sum(counts) != half:
        raise InvalidCall(
            f"{operation}: sections={sections!r}, must be three integers whose sum is the {half} columns of cos"
        )
    return counts


def positions(operation: str, given: torch.Tensor, max_positions: int) -> None:
    """Hold positions to the rows of the cache, where looking at them costs no wait."""
    if given.device.type != "cpu" or not given.numel():
        return
    lowest, highest = (int(each) for each in given.aminmax())
    if lowest < 0 or highest >= max_positions:
        raise InvalidCall(
            f"{operation}: positions has {lowest if lowest < 0 else highest}, "
            f"must be at least 0 and less than the {max_positions} rows of cos"
        )
