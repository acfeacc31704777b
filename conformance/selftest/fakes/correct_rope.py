"""Rotary embedding, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract, round_once
from conformance.selftest.fakes.correct_norm import FLOATS

Pair = tuple[torch.Tensor, torch.Tensor]
KINDS = ("halves", "neighbours")


class CorrectRope(Adapter):
    """A rotation whose products and sum are in fp32, rounded once at the store; the rest is copied."""

    name = "correct_rope"
    operations: ClassVar[tuple[str, ...]] = ("rope",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"rope": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rope": "fp32"}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        head_dim: int | None,
        pairs: str,
    ) -> tuple[torch.Tensor, ...]:
        """Check the call, then take the steps in order."""
        self.check(q, k, positions, cos, sin, head_dim, pairs)
        size = head_dim or q.shape[-1]
        angles = self.angles(cos, sin, self.index(positions, len(q)), q)
        return self.both(self.turn(q, size, angles, pairs), self.turn(k, size, angles, pairs))

    def rope_(self, q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object) -> None:
        """Write the results over q and k."""
        for x, rotated in zip((q, k), self.rope(q, k, *given, **flags), strict=True):  # type: ignore[arg-type]
            x.copy_(rotated)

    def check(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        head_dim: int | None,
        pairs: str,
    ) -> None:
        """Refuse an invalid call."""
        valid = (
            self.fitting_heads(q, k, head_dim)
            and self.fitting_tables(cos, sin, head_dim or q.shape[-1])
            and cos.dtype in ({torch.float32} | ({q.dtype} & {k.dtype}))
            and self.fitting_positions(positions, len(q), len(cos))
            and self.known(pairs)
        )
        if not valid:
            raise ValueError("rope: the call has no meaning")

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Return whether q and k are whole heads of the same tokens."""
        if q.dim() != k.dim() or q.dtype not in FLOATS or k.dtype not in FLOATS or len(q) != len(k):
            return False
        if q.dim() == 3:
            return q.shape[-1] == k.shape[-1] == (head_dim or q.shape[-1])
        return q.dim() == 2 and head_dim is not None and q.shape[1] % head_dim == k.shape[1] % head_dim == 0

    def fitting_tables(self, cos: torch.Tensor, sin: torch.Tensor, size: int) -> bool:
        """Return whether cos and sin are tables of one form that a head is wide enough for."""
        alike = cos.shape == sin.shape and cos.dtype == sin.dtype
        return alike and cos.dim() == 2 and 2 * cos.shape[1] <= size

    def fitting_positions(self, positions: torch.Tensor | None, tokens: int, cache: int) -> bool:
        """Return whether there is a row of the tables for every token."""
        if positions is None:
            return tokens == cache
        integers = positions.dtype in {torch.int32, torch.int64}
        return integers and positions.shape == (tokens,) and self.inside(positions, cache)

    def inside(self, positions: torch.Tensor, cache: int) -> bool:
        """Return whether the tables have every position."""
        return bool(((positions >= 0) & (positions < cache)).all())

    def known(self, pairs: str) -> bool:
        """Return whether the order of a head has a name."""
        return pairs in KINDS

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Return the row of the tables for every token."""
        return torch.arange(tokens) if positions is None else positions.long()

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Return the cosine and the sine of every token and frequency, the same for all heads."""
        return self.look_up(cos, index)[:, None], self.look_up(sin, index)[:, None]

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return rows of a table in fp32."""
        return table[index].float()

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str) -> torch.Tensor:
        """Rotate every head of q or k."""
        heads = self.heads(x, size)
        first, second = self.places(angles[0].shape[-1], size, pairs)
        parts = self.load((heads[..., first], heads[..., second]))
        return self.store(heads, self.rotate(parts, angles, x), (first, second), x)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Return x as ``(tokens, heads, size)``."""
        return x.reshape(len(x), math.prod(x.shape[1:]) // size, size)

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Return the places of the first and of the second numbers of all pairs."""
        if pairs == "halves":
            return slice(0, half), slice(half, 2 * half)
        return slice(0, 2 * half, 2), slice(1, 2 * half, 2)

    def load(self, parts: Pair) -> Pair:
        """Return both numbers in fp32."""
        return parts[0].float(), parts[1].float()

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Turn each pair by its angle."""
        (x1, x2), (c, s) = parts, angles
        return x1 * c - x2 * s, x2 * c + x1 * s

    def store(
        self, heads: torch.Tensor, rotated: Pair, places: tuple[slice, slice], x: torch.Tensor
    ) -> torch.Tensor:
        """Round once, to nearest even, into a fresh contiguous tensor; copy the rest."""
        out = torch.empty(heads.shape, dtype=x.dtype)
        for place, part in zip(places, rotated, strict=True):
            out[..., place] = part
        rest = 2 * rotated[0].shape[-1]
        out[..., rest:] = self.keep(heads[..., rest:])
        return out.reshape(x.shape)

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Return the unrotated numbers unchanged."""
        return rest

    def both(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return both results in their order."""
        return q, k


class RopeInFloat64(CorrectRope):
    """The whole computation in float64, rounded once."""

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return a table's numbers in float64."""
        return table[index].double()

    def load(self, parts: Pair) -> Pair:
        """Return both numbers in float64."""
        return parts[0].double(), parts[1].double()

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Round once, where a cast would round to fp32 first."""
        y1, y2 = super().rotate(parts, angles, x)
        return round_once(y1, x.dtype), round_once(y2, x.dtype)


class FusedRope(CorrectRope):
    """A rotation by fused multiply-adds, which do not round the first product of each sum."""

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Add one exact product to a rounded one."""
        (x1, x2), (c, s) = parts, angles
        y1 = x1.double() * c.double() - (x2 * s).double()
        return y1.float(), (x2.double() * c.double() + (x1 * s).double()).float()


class GatheredRope(CorrectRope):
    """A rotation of whole heads: every number times its cosine, and its partner, gathered, times a signed sine."""

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str) -> torch.Tensor:
        """Gather the partner of every number; the unrotated ones turn by nothing."""
        heads = self.heads(x, size)
        places = self.places(angles[0].shape[-1], size, pairs)
        partner, c, s = torch.arange(size), heads.new_ones(1).float(), heads.new_zeros(1).float()
        c, s = (each.expand(len(x), 1, size).clone() for each in (c, s))
        for here, there, sign in ((*places, -1.0), (*places[::-1], 1.0)):
            partner[here] = torch.arange(size)[there]
            c[..., here], s[..., here] = angles[0], sign * angles[1]
        given = heads.float()
        turned = given * c + given[..., partner] * s
        rest = torch.arange(size) >= 2 * angles[0].shape[-1]
        out = torch.empty(heads.shape, dtype=x.dtype).copy_(turned)
        return torch.where(rest, heads, out).reshape(x.shape)


class LowRope(CorrectRope):
    """A rotation computed in the dtype of cos and sin, which it declares."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rope": "low"}

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Keep the dtype."""
        c, s = super().angles(cos, sin, index, q)
        return c.to(cos.dtype), s.to(sin.dtype)

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Convert q or k to the tables' dtype."""
        kind = angles[0].dtype
        return super().rotate((parts[0].to(kind), parts[1].to(kind)), angles, x)


class EagerRope(CorrectRope):
    """Plain PyTorch on tensors of x's dtype, to which models cast the tables; the adapter declares it."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"rope": "eager"}

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Round every angle, product and sum."""
        c, s = (angle.to(x.dtype) for angle in angles)
        x1, x2 = (part.to(x.dtype) for part in parts)
        return x1 * c - x2 * s, x2 * c + x1 * s


RIGHT = (CorrectRope, RopeInFloat64, FusedRope, GatheredRope, LowRope, EagerRope)
