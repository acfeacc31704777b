"""MRoPE: the first columns of each head of q and k rotated, each frequency by the position on an axis."""

from collections.abc import Hashable, Iterable
from typing import Any

import torch

from normkernels import checks, plans
from normkernels.call import Call, Device, Heads, dtype_name
from normkernels.checks import PLAIN
from normkernels.dispatch import Path, Reason, Rejection, Stop
from normkernels.errors import InvalidCall
from normkernels.launch import Arguments, Buffers, Counts
from normkernels.operations.operation import Flags, Given, Operation, Results, Tensors, memory
from normkernels.operations.rows import STRIDED, access
from normkernels.plans import power_of_two

# Bytes of q, and of k, that a thread loads before anything that waits: a quarter of its registers.
AHEAD_BYTES = 256


class Mrope(Operation):
    """``mrope``."""

    path = Path.HEADS
    anywhere = 2  # positions are read one at a time
    indexed = True

    def key(self, tensors: Tensors, flags: tuple[object, ...]) -> Hashable:
        """Return all that a decision and a kernel's arguments depend on; None: not cached.

        Token counts and the strides of positions are not among them.
        """
        q, k, positions, cos, sin = tensors
        if type(q) not in PLAIN or checks.transformed():
            return None
        # a list is kept as a tuple; types, because True equals 1, in sections too
        sections, rest = tuple(flags[0]) if isinstance(flags[0], (list, tuple)) else (), flags[1:]
        device, index, gradients = q.device, q.get_device(), torch.is_grad_enabled()
        key = [self.name, device, sections, rest, *map(type, sections), *map(type, rest)]
        add = key.append
        for each in tensors:
            if type(each) not in PLAIN or each.is_neg() or each.layout is not STRIDED:
                return None
            if each.get_device() != index or (index < 0 and each.device != device):
                return None
            add(each.dtype)
            if gradients and each.requires_grad:
                add(True)  # noqa: FBT003  (a part of the key)
        of_q, of_k, of_positions = q.shape, k.shape, positions.shape
        rank, axes = len(of_q), len(of_positions)
        # of other ranks a call has no meaning
        if rank not in (2, 3) or len(of_k) != rank or axes not in (1, 2):
            return None
        tokens = of_q[0]
        if of_k[0] != tokens or of_positions[-1] != tokens:
            return None
        # viewed as heads, one token of two dimensions has other strides
        key += rank, of_q[1], of_q[-1], q.stride(), of_k[1], of_k[-1], k.stride(), rank == 2 and tokens == 1
        key += axes, axes == 1 or of_positions[0], cos.shape, cos.stride(), sin.shape, sin.stride()
        return tuple(key)

    def resolve(self, given: Given) -> Flags:
        operation = self.name
        checks.tensors(operation, {name: given[name] for name in self.tensors})
        q, k, positions, cos, sin = (given[name] for name in self.tensors)
        checks.dtype(operation, "q", q, (*checks.LOW, torch.float64))
        checks.dtype(operation, "k", k, (q.dtype, *checks.LOW))
        checks.dtype(operation, "positions", positions, (torch.int32, torch.int64))
        for name, table in (("cos", cos), ("sin", sin)):
            checks.dtype(operation, name, table, (q.dtype, torch.float32))
        checks.choice(operation, "interleaved", given["interleaved"], (True, False))
        if q.dim() not in (2, 3):
            raise InvalidCall(
                f"{operation}: q has shape {tuple(q.shape)}, must be (tokens, heads, head_dim), "
                f"or (tokens, heads * head_dim) with head_dim given"
            )
        width, tokens = _head_width(operation, given["head_dim"], q), q.shape[0]
        fits = k.dim() == q.dim() and k.shape[0] == tokens
        if not fits or (k.shape[2] != width if k.dim() == 3 else k.shape[1] % width):
            heads = f"{tokens}, heads, {width}" if q.dim() == 3 else f"{tokens}, heads * {width}"
            raise InvalidCall(f"{operation}: k has shape {tuple(k.shape)}, must be as q ({heads})")
        if (
            positions.dim() not in (1, 2)
            or positions.shape[-1] != tokens
            or positions.shape[:-1] not in ((), (3,))
        ):
            raise InvalidCall(
                f"{operation}: positions has shape {tuple(positions.shape)}, must be (3, {tokens}) or ({tokens},)"
            )
        if cos.dim() != 2 or 2 * cos.shape[1] > width:
            raise InvalidCall(
                f"{operation}: cos has shape {tuple(cos.shape)}, must be (max_positions, rotary_dim // 2) "
                f"with a rotary_dim of at most {width}"
            )
        checks.shape(operation, "sin", sin, tuple(cos.shape), "the shape of cos")
        half, sections = cos.shape[1], given["sections"]
        counts = tuple(sections) if isinstance(sections, (list, tuple)) else ()
        if len(counts) != 3 or not all(checks.is_count(each, 0) for each in counts) or sum(counts) != half:
            raise InvalidCall(
                f"{operation}: sections={sections!r}, "
                f"must be three integers whose sum is the {half} columns of cos"
            )
        return {"sections": counts, "head_dim": width, "interleaved": given["interleaved"]}

    def check_memory(self, tensors: Tensors) -> None:
        """Check that q and k may be written: no gradient is needed, and no other tensor shares their memory."""
        given = checks.present(**dict(zip(self.tensors, tensors, strict=True)))
        if needs := checks.needs_gradient(given):
            raise InvalidCall(f"{self.name}: q and k are written, {needs} must not need a gradient then")
        q, k = given.pop("q"), given.pop("k")
        checks.own_memory(self.name, "q", q, given)
        checks.own_memory(self.name, "k", k, {"q": q, **given})

    def check_values(self, tensors: Tensors) -> None:
        """Check that positions are rows of the cache, where their values can be read without a wait."""
        _, _, positions, cos, _ = tensors
        if not positions.is_cpu or type(positions) not in PLAIN or checks.transformed():
            return
        if positions.numel():
            lowest, highest = (int(each) for each in positions.aminmax())
            if lowest < 0 or highest >= cos.shape[0]:
                raise InvalidCall(
                    f"{self.name}: positions has {lowest if lowest < 0 else highest}, "
                    f"must be at least 0 and less than the {cos.shape[0]} rows of cos"
                )

    def describe(self, given: Given, flags: Flags) -> Call:
        every = {name: given[name] for name in self.tensors}
        q, width, half = given["q"], flags["head_dim"], given["cos"].shape[1]
        q_heads, k_heads = (by_heads(given[name], width).shape[1] for name in ("q", "k"))
        return Call(
            operation=self.family,
            dtype=dtype_name(q.dtype),
            n=width,
            width=width,
            rows=q.shape[0],
            leading=2,
            needs_grad=checks.needs_gradient(every),
            not_plain=checks.not_plain(every),
            heads=Heads(q_heads, k_heads, half, copied=not self.in_place and 2 * half < width),
        )

    def stops(self, call: Call, device: Device) -> Iterable[Stop]:
        """Return the reason against a kernel that holds a head in a block."""
        return ((call.width > plans.MAX_HEAD_DIM, Reason.HEAD_DIM_LIMIT, str(call.width)),)

    def plan(self, call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
        heads = call.heads
        assert heads is not None
        plan = plans.heads(call.rows, heads.q, heads.k, call.width, heads.half, device.table, copied=heads.copied)
        return plan, ()

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        return native(*tensors, **flags)

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        q, k = tensors[:2]
        return *tensors, memory(q if self.in_place else None, q), memory(k if self.in_place else None, k)

    def counts(self, tensors: Tensors, flags: Flags) -> Counts:
        q, k, positions = tensors[:3]
        steps = positions.stride()
        return q.shape[0] if q.numel() or k.numel() else 0, steps[0], steps[-1]

    def arguments(self, flags: Flags, buffers: Buffers, plan: plans.Plan) -> Arguments:
        # here, because the package imports without triton
        from normkernels.kernels.mrope import mrope_kernel

        q, k, positions, cos, sin, q_out, k_out = buffers
        half, head_dim = cos.shape[1], flags["head_dim"]
        given = {"q": q, "k": k, "q_out": q_out, "k_out": k_out}
        heads = {name: by_heads(tensor, head_dim) for name, tensor in given.items()}
        tables = {"cos": cos, "sin": sin}
        at_once = plan.heads * plan.programs
        loaded = plan.rows * plan.heads * power_of_two(half) * 2 * q.element_size()
        # the second half, and the columns that are copied, begin a multiple of half further on
        aligned = [(each, (half, *each.stride()[:-1])) for each in (*heads.values(), *tables.values())]
        return mrope_kernel, {
            **_strides(heads, ("token", "head", "col")),
            **_strides(tables, ("row", "col")),
            "q_heads": heads["q"].shape[1],
            "k_heads": heads["k"].shape[1],
            "max_positions": cos.shape[0],
            **dict(zip(("t_section", "h_section", "w_section"), flags["sections"], strict=True)),
            "AXES": 1 if positions.dim() == 1 else 3,
            "INTERLEAVED": flags["interleaved"],
            "IN_PLACE": self.in_place,
            "ACCESS": access(aligned),
            "HALF": half,
            "REST": head_dim - 2 * half,
            "HALF_BLOCK": power_of_two(half),
            "REST_BLOCK": power_of_two(head_dim - 2 * half),
            "TOKENS": plan.rows,
            "HEADS": plan.heads,
            "Q_BLOCKS": -(-heads["q"].shape[1] // at_once),
            "K_BLOCKS": -(-heads["k"].shape[1] // at_once),
            # threads of a warp: 32, or more
            "AHEAD": max(AHEAD_BYTES * 32 * plan.warps // loaded, 1),
        }

    def results(self, buffers: Buffers) -> Results:
        return tuple(buffers[5:])


class MropeInPlace(Mrope):
    """``mrope_``: q and k are written, and columns beyond the rotated ones are not touched."""

    in_place = True

    def native(self, tensors: Tensors, flags: Flags) -> Results:
        q, k = tensors[:2]
        q_out, k_out = super().native(tensors, flags)
        return q.copy_(q_out), k.copy_(k_out)


def _head_width(operation: str, head_dim: object, q: torch.Tensor) -> int:
    """Return the columns of one head of q, which has two or three dimensions."""
    if q.dim() == 2:
        if not checks.is_count(head_dim) or q.shape[1] % head_dim:  # type: ignore[operator]  # a count: an int
            raise InvalidCall(
                f"{operation}: head_dim={head_dim!r}, must be a divisor of the {q.shape[1]} columns of q"
            )
        return head_dim  # type: ignore[return-value]  # a count: an int
    if head_dim is not None and not (checks.is_count(head_dim) and head_dim == q.shape[2]):
        raise InvalidCall(f"{operation}: head_dim={head_dim!r}, must be None or the {q.shape[2]} columns of q")
    return q.shape[2]


def by_heads(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return a view of ``(tokens, heads * head_dim)`` as ``(tokens, heads, head_dim)``, or that unchanged."""
    return tensor if tensor.dim() == 3 else tensor.view(tensor.shape[0], tensor.shape[1] // head_dim, head_dim)


def _strides(tensors: dict[str, torch.Tensor], axes: tuple[str, ...]) -> dict[str, Any]:
    """Return the kernel arguments about strides, ``<tensor>_<axis>_stride`` each."""
    return {
        f"{name}_{axis}_stride": stride
        for name, tensor in tensors.items()
        for axis, stride in zip(axes, tensor.stride(), strict=True)
    }


def native(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: tuple[int, int, int],
    head_dim: int,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q and k rotated, contiguous and each in its shape and dtype.

    Arithmetic is fp32, or float64 for float64. The rotated columns of a token with a position outside the cache
    are NaN, and nothing outside the cache is read.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    inside = (positions >= 0) & (positions < cos.shape[0])
    rows = torch.where(inside, positions, 0).expand(3, -1)
    all_inside = inside.expand(3, -1).all(0)[:, None]

    def angles(table: torch.Tensor) -> torch.Tensor:
        # an empty cache has no row to read
        table = table if table.shape[0] else table.new_zeros(1, table.shape[1])
        t, h, w = table[rows].to(wide)
        row = _by_axis(t, h, w, sections, interleaved=interleaved)
        return torch.where(all_inside, row, torch.nan)[:, None]

    c, s, half = angles(cos), angles(sin), cos.shape[1]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        heads = by_heads(x, head_dim)
        x1, x2 = (heads[..., columns].to(wide) for columns in (slice(half), slice(half, 2 * half)))
        parts = ((x1 * c - x2 * s).to(x.dtype), (x2 * c + x1 * s).to(x.dtype), heads[..., 2 * half :])
        return torch.cat(parts, -1).view(x.shape)

    return rotated(q), rotated(k)


def _by_axis(
    t: torch.Tensor, h: torch.Tensor, w: torch.Tensor, sections: tuple[int, int, int], *, interleaved: bool
) -> torch.Tensor:
    """Return rows of frequencies, each taken from its axis; by slices, which every type of tensor has."""
    of_t, of_h, of_w = sections
    if not interleaved:
        return torch.cat((t[:, :of_t], h[:, of_t : of_t + of_h], w[:, of_t + of_h :]), -1)
    for first, axis, count in ((1, h, of_h), (2, w, of_w)):
        turns = slice(first, max(first, 3 * count), 3)
        t = torch.slice_scatter(t, axis[:, turns], -1, turns.start, turns.stop, 3)
    return t
