"""Rotary embedding on three axes, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract, round_once

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
Halves = tuple[torch.Tensor, torch.Tensor]
Sections = tuple[int, ...]


class CorrectRotation(Adapter):
    """A rotation whose products and sum are in fp32, rounded once at the store; the rest is copied."""

    name = "correct_rotation"
    operations: ClassVar[tuple[str, ...]] = ("mrope",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in operations}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "fp32"}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def mrope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        sections: Sections,
        head_dim: int | None,
        interleaved: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Check the call, then take the steps in order."""
        self.check(q, k, positions, cos, sin, sections, head_dim)
        size = head_dim or q.shape[-1]
        index = self.index(positions, self.axes(sections, interleaved=interleaved))
        angles = self.angles(cos, sin, index, q)
        return self.pair(self.turn(q, size, angles), self.turn(k, size, angles))

    def check(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        sections: Sections,
        head_dim: int | None,
    ) -> None:
        """Refuse an invalid call."""
        size = head_dim or q.shape[-1]
        valid = (
            self.fitting_heads(q, k, head_dim)
            and self.fitting_positions(positions, len(q))
            and self.fitting_tables(cos, sin, size)
            and cos.dtype in ({torch.float32} | ({q.dtype} & {k.dtype}))
            and self.fitting_sections(sections, cos.shape[1])
            and self.inside(positions, len(cos))
        )
        if not valid:
            raise ValueError("mrope: the call has no meaning")

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Return whether q and k are whole heads of the same tokens."""
        if q.dim() != k.dim() or q.dtype not in FLOATS or k.dtype not in FLOATS or len(q) != len(k):
            return False
        if q.dim() == 3:
            return q.shape[-1] == k.shape[-1] == (head_dim or q.shape[-1])
        return q.dim() == 2 and head_dim is not None and q.shape[1] % head_dim == k.shape[1] % head_dim == 0

    def fitting_positions(self, positions: torch.Tensor, tokens: int) -> bool:
        """Return whether positions are integers, one per token or one per token and axis."""
        integers = positions.dtype in {torch.int32, torch.int64}
        return integers and tuple(positions.shape) in {(tokens,), (3, tokens)}

    def fitting_tables(self, cos: torch.Tensor, sin: torch.Tensor, size: int) -> bool:
        """Return whether cos and sin are tables of one form that a head is wide enough for."""
        alike = cos.shape == sin.shape and cos.dtype == sin.dtype
        return alike and cos.dim() == 2 and 2 * cos.shape[1] <= size

    def fitting_sections(self, sections: Sections, half: int) -> bool:
        """Return whether every frequency has an axis."""
        return len(sections) == 3 and min(sections) >= 0 and sum(sections) == half

    def inside(self, positions: torch.Tensor, cache: int) -> bool:
        """Return whether the tables have every position."""
        return bool(((positions >= 0) & (positions < cache)).all())

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Return the axis of every frequency."""
        if not interleaved:
            return [axis for axis, length in enumerate(sections) for _ in range(length)]
        turns = [i % 3 for i in range(sum(sections))]
        return [turn if i < 3 * sections[turn] else 0 for i, turn in enumerate(turns)]

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Return the row of the tables for every token and frequency."""
        return positions.long().expand(3, positions.shape[-1])[axes].t()

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Return the cosine and the sine of every token and frequency, the same for all heads."""
        return self.look_up(cos, index)[:, None], self.look_up(sin, index)[:, None]

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return a table's numbers in fp32."""
        return table[index, torch.arange(table.shape[1])].float()

    def turn(self, x: torch.Tensor, size: int, angles: Halves) -> torch.Tensor:
        """Rotate every head of q or k."""
        heads = self.heads(x, size)
        parts = self.halves(heads, angles[0].shape[-1])
        return self.store(heads, self.rotate(self.load(parts), angles, x), x)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Return x as ``(tokens, heads, size)``."""
        return x.reshape(len(x), math.prod(x.shape[1:]) // size, size)

    def halves(self, heads: torch.Tensor, half: int) -> Halves:
        """Return the pairs: the first half of the rotated dimensions with the second."""
        return heads[..., :half], heads[..., half : 2 * half]

    def load(self, parts: Halves) -> Halves:
        """Return both halves in fp32."""
        return parts[0].float(), parts[1].float()

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Turn each pair by its angle."""
        (x1, x2), (c, s) = parts, angles
        return x1 * c - x2 * s, x2 * c + x1 * s

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor; copy the rest."""
        half = rotated[0].shape[-1]
        out = torch.empty(heads.shape, dtype=x.dtype)
        out[..., :half], out[..., half : 2 * half] = rotated
        out[..., 2 * half :] = self.keep(heads[..., 2 * half :])
        return out.reshape(x.shape)

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Return the unrotated dimensions unchanged."""
        return rest

    def pair(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return both results in their order."""
        return q, k


class RotationInFloat64(CorrectRotation):
    """The whole computation in float64, rounded once."""

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return a table's numbers in float64."""
        return table.double()[index, torch.arange(table.shape[1])]

    def load(self, parts: Halves) -> Halves:
        """Return both halves in float64."""
        return parts[0].double(), parts[1].double()

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Round once, where a cast would round to fp32 first."""
        y1, y2 = super().rotate(parts, angles, x)
        return round_once(y1, x.dtype), round_once(y2, x.dtype)


class FusedRotation(CorrectRotation):
    """A rotation by fused multiply-adds, which do not round the first product of each sum."""

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Add one exact product to a rounded one."""
        (x1, x2), (c, s) = parts, angles
        y1 = x1.double() * c.double() - (x2 * s).double()
        return y1.float(), (x2.double() * c.double() + (x1 * s).double()).float()


class LowRotation(CorrectRotation):
    """A rotation computed in the dtype of cos and sin, which it declares."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "low"}

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Keep the dtype."""
        c, s = super().angles(cos, sin, index, q)
        return c.to(cos.dtype), s.to(sin.dtype)

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Convert q or k to the tables' dtype."""
        kind = angles[0].dtype
        return super().rotate((parts[0].to(kind), parts[1].to(kind)), angles, x)


class EagerRotation(CorrectRotation):
    """Plain PyTorch on tensors of x's dtype, to which models cast the tables; the adapter declares it."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "eager"}

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Return ``x * cos + rotate_half(x) * sin``."""
        c, s = (torch.cat((angle, angle), -1).to(x.dtype) for angle in angles)
        x1, x2 = (part.to(x.dtype) for part in parts)
        y1, y2 = (torch.cat((x1, x2), -1) * c + torch.cat((-x2, x1), -1) * s).chunk(2, -1)
        return y1, y2


RIGHT = (CorrectRotation, RotationInFloat64, FusedRotation, LowRotation, EagerRotation)
