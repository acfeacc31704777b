"""Fakes that mistake the dtype, the memory or the meaning of a rotation's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_rotation import (
    CorrectRotation,
    EagerRotation,
    Halves,
    LowRotation,
    Sections,
)
from conformance.selftest.fakes.memory import spill, writable
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class PositionsTakenForContiguous(CorrectRotation):
    """Positions are read at ``axis * tokens + token``: a slice or a transposed tensor gives other positions."""

    caught_by = WRONG_MEMORY

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Read in storage order, and stay inside the tables."""
        found = reread(positions, dense(positions.shape))
        return super().index(found.clamp(0, int(positions.max()) if positions.numel() else 0), axes)


class Int64ReadAsInt32(CorrectRotation):
    """The bytes of int64 positions are read as int32: every second one is zero."""

    caught_by = ALL

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Reinterpret the first bytes."""
        if positions.dtype == torch.int64:
            positions = (
                positions.contiguous().view(-1).view(torch.int32)[: positions.numel()].view(positions.shape)
            )
        return super().index(positions, axes)


class QTakenForContiguous(CorrectRotation):
    """Strides are never looked at."""

    caught_by = WRONG_MEMORY

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Read in storage order."""
        return super().heads(reread(x, dense(x.shape)), size)


class TokenStrideAlone(CorrectRotation):
    """Tokens are addressed by their stride, the numbers of a token as if they were dense."""

    caught_by = WRONG_MEMORY

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Ignore the other strides."""
        return super().heads(reread(x, (x.stride(0), *dense(x.shape)[1:])), size)


class KHasStridesOfQ(CorrectRotation):
    """One token stride, q's, addresses k as well."""

    caught_by = WRONG_MEMORY

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember q's strides."""
        self.q = q
        return super().fitting_heads(q, k, head_dim)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Read k a token at a time as q is."""
        shared = 1 if self.q.is_contiguous() else self.q.stride(0)
        return super().heads(x if x is self.q or shared == 1 else reread(x, (shared, *x.stride()[1:])), size)


class CosTakenForContiguous(CorrectRotation):
    """The row stride of the tables is their width: halves of one cache overlap."""

    caught_by = WRONG_MEMORY

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().look_up(reread(table, dense(table.shape)), index)


class SinHasStridesOfCos(CorrectRotation):
    """One row stride, the cosines', addresses the sines as well."""

    caught_by = WRONG_MEMORY

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Read the sines with the other strides."""
        return super().angles(cos, reread(sin, cos.stride()), index, q)


class OutputsHaveStridesOfArguments(CorrectRotation):
    """Allocates with ``empty_like``, which keeps the strides of a transposed q."""

    caught_by = ("metadata", *WRONG_MEMORY)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Keep the strides."""
        return torch.empty_like(x).copy_(super().store(heads, rotated, x))


class RotatesInPlace(CorrectRotation):
    """The functional form writes over q and k."""

    caught_by = ("memory",)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Leave the result in the argument as well."""
        out = super().store(heads, rotated, x)
        if writable(x):
            x.copy_(out)
        return out


class TablesRoundedInPlace(CorrectRotation):
    """fp32 tables are rounded to q's dtype in place at the first call: their digits are lost for good."""

    caught_by = ("memory", *ALL)

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Use the tables, then spoil one."""
        found = super().angles(cos, sin, index, q)
        cos.copy_(cos.to(q.dtype))
        return found


class WritesPastTheLastHead(CorrectRotation):
    """One element after the last head is written: the store of a head has no mask."""

    caught_by = ("memory",)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Write one element too many."""
        out = super().store(heads, rotated, x)
        spill(out, out.numel())
        return out


class TablesInDtypeOfX(CorrectRotation):
    """fp32 tables are cast to q's dtype first, undeclared: the digits of a far position are lost."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Round the tables."""
        return super().angles(cos.to(q.dtype), sin.to(q.dtype), index, q)


class TableBytesReadAsXs(CorrectRotation):
    """The bytes of fp32 tables are read in q's dtype: a guard looks at the shape alone."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Reinterpret the first bytes of every row."""
        half = cos.shape[1]
        read_cos, read_sin = (table.contiguous().view(q.dtype)[:, :half] for table in (cos, sin))
        return super().angles(read_cos, read_sin, index, q)


class LowArithmeticUndeclared(LowRotation):
    """Products are rounded to the tables' dtype, and fp32 is declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "fp32"}
    caught_by = ALL


class EagerArithmeticUndeclared(EagerRotation):
    """Everything happens in x's dtype, and arithmetic in the tables' dtype is declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "low"}
    caught_by = ALL


class OneRoundingDeclaredLow(CorrectRotation):
    """Rounds once, and declares arithmetic in the tables' dtype."""

    contracts: ClassVar[Mapping[str, str | Contract]] = {"mrope": "low"}
    caught_by = ALL


class RotationTruncated(CorrectRotation):
    """The store cuts digits off: a bias towards zero."""

    caught_by = ALL

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Clear the bits that a bf16 does not have."""
        y1, y2 = super().rotate(parts, angles, x)
        if x.dtype != torch.bfloat16:
            return y1, y2
        cut = [(y.view(torch.int32) & -0x10000).view(torch.float32) for y in (y1, y2)]
        return cut[0], cut[1]


class OutputsInFloat32(CorrectRotation):
    """fp32 tables promote the results."""

    caught_by = ("metadata", *ALL)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Return results in the promoted dtype."""
        return super().store(heads, rotated, x.float())


class KInDtypeOfQ(CorrectRotation):
    """Both results are allocated in q's dtype."""

    caught_by = ("metadata", *ALL)

    def pair(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cast k."""
        return q, k.to(q.dtype)


class RotationBuffersKept(CorrectRotation):
    """Every call of a shape returns the same buffers: a later call changes the result of an earlier one."""

    caught_by = ("determinism", "memory")

    def __init__(self) -> None:
        self.buffers: dict[object, torch.Tensor] = {}

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Keep the buffer."""
        out = super().store(heads, rotated, x)
        return self.buffers.setdefault((x.shape, x.dtype), out).copy_(out)


class NoTokensFail(CorrectRotation):
    """A launch for no tokens is refused."""

    caught_by = ("empty",)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Raise as a launcher does."""
        if not heads.numel():
            raise RuntimeError("invalid grid (0,)")
        return super().store(heads, rotated, x)


class TwoAxesAccepted(CorrectRotation):
    """A guard looks at the number of dimensions alone: positions on two axes are taken, the third is made up."""

    caught_by = ("errors",)

    def fitting_positions(self, positions: torch.Tensor, tokens: int) -> bool:
        """Count dimensions."""
        return positions.dim() <= 2 and not positions.is_floating_point() and positions.shape[-1] == tokens

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Repeat the last axis."""
        if positions.dim() == 1:
            return super().index(positions, axes)
        return super().index(positions[[min(axis, len(positions) - 1) for axis in range(3)]], axes)


class PositionsWrap(CorrectRotation):
    """A position outside the tables reads another row."""

    caught_by = ("errors",)

    def inside(self, positions: torch.Tensor, cache: int) -> bool:
        """Check nothing."""
        return True

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Wrap around."""
        return super().look_up(table, index % len(table))


class SectionsUnchecked(CorrectRotation):
    """Sections are not checked: frequencies without an axis take t."""

    caught_by = ("errors",)

    def fitting_sections(self, sections: Sections, half: int) -> bool:
        """Check nothing."""
        self.half = half
        return True

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Cut the list of axes, or fill it up."""
        three = (*(max(length, 0) for length in sections), 0, 0)[:3]
        axes = super().axes(three, interleaved=interleaved)
        return [*axes, *[0] * self.half][: self.half]


class HeadsRoundedDown(CorrectRotation):
    """A width that is no whole number of heads is cut to a whole number."""

    caught_by = ("errors",)

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Trust the caller's sizes."""
        believed = q.dim() == 2 and k.dim() == 2 and q.is_floating_point() and k.is_floating_point()
        return super().fitting_heads(q, k, head_dim) or (believed and len(q) == len(k) and head_dim is not None)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Cut off the rest of the width."""
        return super().heads(x if x.dim() == 3 else x[:, : x.shape[1] // size * size], size)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Shape the remaining heads."""
        shape = x.shape if x.numel() == heads.numel() else (len(x), heads[0].numel())
        return super().store(heads, rotated, x.new_empty(shape))
