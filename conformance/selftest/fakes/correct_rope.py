"""Rotary embedding, with norms of q and k and without, right and in plain torch, cut into steps for fakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract, round_once
from conformance.selftest.fakes.correct_norm import FLOATS

Pair = tuple[torch.Tensor, torch.Tensor]
Results = tuple[torch.Tensor, ...]
KINDS = ("halves", "neighbours")


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """The norm of one argument: its weight, and the settings of the call."""

    weight: torch.Tensor
    offset: float
    eps: float


class CorrectRope(Adapter):
    """A rotation whose products and sum are in fp32, rounded once at the store, and the same after norms."""

    name = "correct_rope"
    operations: ClassVar[tuple[str, ...]] = ("rope", "qk_norm_rope")
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in operations}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rope": "fp32", "qk_norm_rope": Contract(depth="tile")}
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
    ) -> Results:
        """Check the call, then take the steps in order."""
        self.check(q, k, positions, cos, sin, head_dim, pairs)
        size = head_dim or q.shape[-1]
        angles = self.angles(cos, sin, self.index(positions, len(q)), q)
        return self.both(self.turn(q, size, angles, pairs), self.turn(k, size, angles, pairs))

    def qk_norm_rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        positions: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        eps: float,
        weight_offset: float,
        head_dim: int | None,
        pairs: str,
    ) -> Results:
        """Check the call, then take the steps in order."""
        self.check(q, k, positions, cos, sin, head_dim, pairs)
        size = head_dim or q.shape[-1]
        self.check_weights(q, size, q_weight, k_weight)
        angles = self.angles(cos, sin, self.index(positions, len(q)), q)
        norms = self.norms(q_weight, k_weight, weight_offset, eps)
        turned = (self.turn(x, size, angles, pairs, norm) for x, norm in zip((q, k), norms, strict=True))
        return self.both(*turned)

    def rope_(self, q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object) -> None:
        """Write the results over q and k."""
        self.write(self.rope, q, k, *given, **flags)

    def qk_norm_rope_(self, q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object) -> None:
        """Write the results over q and k."""
        self.write(self.qk_norm_rope, q, k, *given, **flags)

    def write(
        self, form: Callable[..., Results], q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object
    ) -> None:
        """Write the results of a functional form over q and k."""
        for x, rotated in zip((q, k), form(q, k, *given, **flags), strict=True):
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

    def check_weights(self, q: torch.Tensor, size: int, *weights: torch.Tensor) -> None:
        """Refuse weights that are no vector of a head's size in q's dtype or in fp32."""
        fit = (each.shape == (size,) and each.dtype in {q.dtype, torch.float32} for each in weights)
        if not all(fit):
            raise ValueError("qk_norm_rope: the call has no meaning")

    def norms(
        self, q_weight: torch.Tensor, k_weight: torch.Tensor, offset: float, eps: float
    ) -> tuple[Norm, Norm]:
        """Return the norms of q and of k."""
        return Norm(q_weight, offset, eps), Norm(k_weight, offset, eps)

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

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str, norm: Norm | None = None) -> torch.Tensor:
        """Rotate every head of q or k, after its norm if it has one."""
        heads = self.heads(x, size)
        heads = heads if norm is None else self.normalise(heads, norm, x)
        first, second = self.places(angles[0].shape[-1], size, pairs)
        parts = self.load((heads[..., first], heads[..., second]))
        return self.store(heads, self.rotate(parts, angles, x), (first, second), x)

    def normalise(self, heads: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of every head in fp32."""
        given = heads.float()
        return self.weigh(given * self.inv_rms(given, norm, x), self.scale(norm), x)

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Return the factor of every head."""
        return torch.rsqrt(given.square().mean(-1, keepdim=True) + norm.eps)

    def scale(self, norm: Norm) -> torch.Tensor:
        """Return the weight with its offset, in fp32."""
        return norm.offset + norm.weight.float()

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Multiply every column by its weight."""
        return normalised * scale

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

    def normalise(self, heads: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of every head in float64; kernels take offset and eps as fp32."""
        given = heads.double()
        offset, eps = (torch.tensor(number).double() for number in (norm.offset, norm.eps))
        return given * torch.rsqrt(given.square().mean(-1, keepdim=True) + eps) * (offset + norm.weight.double())

    def load(self, parts: Pair) -> Pair:
        """Return both numbers in float64."""
        return parts[0].double(), parts[1].double()

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Round once, where a cast would round to fp32 first."""
        y1, y2 = super().rotate(parts, angles, x)
        return round_once(y1, x.dtype), round_once(y2, x.dtype)

    def store(
        self, heads: torch.Tensor, rotated: Pair, places: tuple[slice, slice], x: torch.Tensor
    ) -> torch.Tensor:
        """Round normalised numbers that are not rotated once as well."""
        normalised = heads.dtype == torch.float64
        return super().store(round_once(heads, x.dtype) if normalised else heads, rotated, places, x)


class FusedRope(CorrectRope):
    """A rotation by fused multiply-adds, which do not round the first product of each sum."""

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Add one exact product to a rounded one."""
        (x1, x2), (c, s) = parts, angles
        y1 = x1.double() * c.double() - (x2 * s).double()
        return y1.float(), (x2.double() * c.double() + (x1 * s).double()).float()


class GatheredRope(CorrectRope):
    """A rotation of whole heads: every number times its cosine, and its partner, gathered, times a signed sine."""

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str, norm: Norm | None = None) -> torch.Tensor:
        """Gather the partner of every number; the unrotated ones turn by nothing."""
        heads = self.heads(x, size)
        heads = heads if norm is None else self.normalise(heads, norm, x)
        places = self.places(angles[0].shape[-1], size, pairs)
        partner, c, s = torch.arange(size), heads.new_ones(1).float(), heads.new_zeros(1).float()
        c, s = (each.expand(len(x), 1, size).clone() for each in (c, s))
        for here, there, sign in ((*places, -1.0), (*places[::-1], 1.0)):
            partner[here] = torch.arange(size)[there]
            c[..., here], s[..., here] = angles[0], sign * angles[1]
        given = heads.float()
        turned = given * c + given[..., partner] * s
        rest = torch.arange(size) >= 2 * angles[0].shape[-1]
        return torch.where(rest, heads.to(x.dtype), turned.to(x.dtype)).reshape(x.shape)


class LowRope(CorrectRope):
    """A rotation computed in the dtype of cos and sin, which it declares."""

    operations: ClassVar[tuple[str, ...]] = ("rope",)
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

    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rope": "eager",
        "qk_norm_rope": Contract(frozenset({"normed", "angle", "turned"}), "tile"),
    }

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Round every angle, product and sum."""
        c, s = (angle.to(x.dtype) for angle in angles)
        x1, x2 = (part.to(x.dtype) for part in parts)
        return x1 * c - x2 * s, x2 * c + x1 * s


class ModelsRope(EagerRope):
    """Plain PyTorch as in Qwen3, which rounds before the weight as well; the adapter declares it."""

    operations: ClassVar[tuple[str, ...]] = ("qk_norm_rope",)
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "qk_norm_rope": Contract(frozenset({"normalised", "offset", "normed", "angle", "turned"}), "tile")
    }

    def scale(self, norm: Norm) -> torch.Tensor:
        """Add the offset in the weight's dtype."""
        return (norm.offset + norm.weight).float()

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round to x's dtype first."""
        return normalised.to(x.dtype) * scale


RIGHT = (CorrectRope, RopeInFloat64, FusedRope, GatheredRope, LowRope, EagerRope)
RIGHT_WITH_NORMS = (CorrectRope, RopeInFloat64, FusedRope, GatheredRope, EagerRope, ModelsRope)
