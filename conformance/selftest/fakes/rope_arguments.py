"""Fakes that mistake the dtype, the memory or the meaning of the arguments of a rotary embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_rope import CorrectRope, EagerRope, LowRope, Pair, Results
from conformance.selftest.fakes.memory import spill, writable
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")
Places = tuple[slice, slice]


class PositionsReadAsInt32(CorrectRope):
    """A kernel for int32 gets int64 positions, and reads zeros in between."""

    caught_by = ALL

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Reinterpret the first bytes."""
        if positions is not None and positions.dtype == torch.int64:
            positions = positions.contiguous().view(torch.int32)[:tokens]
        return super().index(positions, tokens)


class StepOfPositionsLost(CorrectRope):
    """Positions are read one after the other, whatever their stride."""

    caught_by = WRONG_MEMORY

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Read in storage order, and stay inside the tables."""
        if positions is None or not tokens:
            return super().index(positions, tokens)
        return super().index(reread(positions, (1,)).clamp(0, int(positions.max())), tokens)


class RowsOfTablesDense(CorrectRope):
    """The tables are addressed by their width, and are the two halves of one cache."""

    caught_by = WRONG_MEMORY

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Read in storage order."""
        return super().look_up(reread(table, dense(table.shape)) if table.numel() else table, index)


class SinInTheStridesOfCos(CorrectRope):
    """The sines are addressed by the row stride of the cosines."""

    caught_by = WRONG_MEMORY

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Read the sines with the other strides."""
        return super().angles(cos, reread(sin, cos.stride()) if sin.numel() else sin, index, q)


class QkvTakenForQ(CorrectRope):
    """The token stride of q is its width: a slice of a projection is read as if it were alone."""

    caught_by = WRONG_MEMORY

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Read in storage order."""
        return super().heads(reread(x, dense(x.shape)) if x.numel() else x, size)


class HeadStrideIsTheSize(CorrectRope):
    """Heads begin a head size apart, and their numbers stand next to each other, whatever the strides."""

    caught_by = WRONG_MEMORY

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Ignore the other strides."""
        return super().heads(reread(x, (x.stride(0), *dense(x.shape)[1:])) if x.numel() else x, size)


class KInTheStridesOfQ(CorrectRope):
    """k is addressed by the token stride of q."""

    caught_by = WRONG_MEMORY

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember q."""
        self.q = q
        return super().fitting_heads(q, k, head_dim)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Read k a token at a time as q is, where q is not dense."""
        known = x is self.q or self.q.is_contiguous() or not x.numel()
        return super().heads(x if known else reread(x, (self.q.stride(0), *x.stride()[1:])), size)


class TablesCastToXs(CorrectRope):
    """Tables in fp32 are cast to q's dtype at the look-up, undeclared."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Round the tables."""
        return super().angles(cos.to(q.dtype), sin.to(q.dtype), index, q)


class TablesReadInXs(CorrectRope):
    """The bytes of fp32 tables are read in q's dtype: a check looks at the shape alone."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Reinterpret the first bytes of every row."""
        c, s = (table.contiguous().view(q.dtype)[:, : cos.shape[1]] for table in (cos, sin))
        return super().angles(c, s, index, q)


class EagerRopeUndeclared(EagerRope):
    """Everything happens in x's dtype, and one rounding is declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(("rope", "qk_norm_rope"), "fp32")
    caught_by = ALL


class LowRopeUndeclared(LowRope):
    """Products are rounded to the tables' dtype, and one rounding is declared."""

    operations: ClassVar[tuple[str, ...]] = ("rope",)
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rope": "fp32"}
    caught_by = ALL


class RopeTruncated(CorrectRope):
    """The store of the rotated numbers truncates."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Clear the bits that a bf16 does not have."""
        y1, y2 = super().rotate(parts, angles, x)
        if x.dtype != torch.bfloat16:
            return y1, y2
        cut = [(y.view(torch.int32) & -0x10000).view(torch.float32) for y in (y1, y2)]
        return cut[0], cut[1]


class KStoredInQs(CorrectRope):
    """k is stored in q's dtype."""

    operations: ClassVar[tuple[str, ...]] = ("rope",)
    caught_by = ("metadata", *ALL)

    def both(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cast k."""
        return q, k.to(q.dtype)


class RopeStrided(CorrectRope):
    """The results are allocated like their arguments, in transposed strides."""

    caught_by = ("metadata", *WRONG_MEMORY)

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Keep the strides."""
        return torch.empty_like(x).copy_(super().store(heads, rotated, places, x))


class RestLeftOut(CorrectRope):
    """The fresh result gets the rotated numbers alone."""

    caught_by = ("written", *ALL)

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Store no other number."""
        out = torch.empty(heads.shape, dtype=x.dtype)
        for place, part in zip(places, rotated, strict=True):
            out[..., place] = part
        return out.reshape(x.shape)


class RestTurnedByNothing(CorrectRope):
    """The other numbers turn by an angle of zero: their zeros lose the sign, and infinities give NaN."""

    operations: ClassVar[tuple[str, ...]] = ("rope",)
    caught_by = ("copied", "specials")

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Add zero."""
        return rest * 1.0 + 0.0


class SpillsAfterTheLastHead(CorrectRope):
    """The store of the last head ends one element too late."""

    caught_by = ("memory",)

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Write one element too many."""
        out = super().store(heads, rotated, places, x)
        spill(out, out.numel())
        return out


class RopeOverItsArguments(CorrectRope):
    """Called for new tensors, the rotation leaves its results in q and k as well."""

    caught_by = ("memory",)

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Leave the result in the argument as well."""
        out = super().store(heads, rotated, places, x)
        if writable(x):
            x.copy_(out)
        return out


class QInPlaceAlone(CorrectRope):
    """The in-place form writes q, and leaves k, which the caller goes on with, as it was."""

    caught_by = ("in_place",)

    def write(
        self, form: Callable[..., Results], q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object
    ) -> None:
        """Write one of both."""
        q.copy_(form(q, k, *given, **flags)[0])


class TurnedInPlaceTwice(CorrectRope):
    """A graph is captured after a call that warms up, which has turned k in place already."""

    caught_by = ("in_place",)

    def write(
        self, form: Callable[..., Results], q: torch.Tensor, k: torch.Tensor, *given: torch.Tensor, **flags: object
    ) -> None:
        """Turn k by twice the angle."""
        super().write(form, q, k, *given, **flags)
        k.copy_(form(q, k, *given, **flags)[1])


class FirstTablesKept(CorrectRope):
    """The tables are looked up once a shape: a longer context, loaded later, is never seen."""

    caught_by = ("state", "kept_results", "values", "layout", "specials", "determinism")

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Keep the first table of an address."""
        kept = self.kept.setdefault((table.data_ptr(), table.shape, table.dtype), table.clone())
        return super().look_up(kept, index)


class NoTokensRefused(CorrectRope):
    """A batch without tokens raises."""

    caught_by = ("empty",)

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Raise as a launcher does."""
        if not x.numel():
            raise RuntimeError("invalid grid (0,)")
        return super().heads(x, size)


class PositionsBeyondTheTables(CorrectRope):
    """A position behind the last row of the tables takes a row from their start."""

    caught_by = ("errors",)

    def inside(self, positions: torch.Tensor, cache: int) -> bool:
        """Check nothing."""
        self.cache = cache
        return True

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Wrap around."""
        index = super().index(positions, tokens)
        return index if positions is None else index % self.cache


class UnknownPairsAreNeighbours(CorrectRope):
    """A name that is not ``halves`` is taken for the other."""

    caught_by = ("errors",)

    def known(self, pairs: str) -> bool:
        """Check nothing."""
        return True


class MoreRowsThanTokens(CorrectRope):
    """Tables that are longer than the batch are taken without positions: every token gets some row."""

    caught_by = ("errors",)

    def fitting_positions(self, positions: torch.Tensor | None, tokens: int, cache: int) -> bool:
        """Check that there are enough rows."""
        return tokens <= cache if positions is None else super().fitting_positions(positions, tokens, cache)
