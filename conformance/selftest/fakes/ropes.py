"""Fakes that mistake the pairs, the angles, the heads or the tokens of a rotary embedding."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_rope import CorrectRope, Norm, Pair

ALL: tuple[str, ...] = ("values", "layout", "specials")


class AlwaysHalves(CorrectRope):
    """GPT-NeoX's pairs for every model: the flag is never read."""

    caught_by = ALL

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Pair halves."""
        return super().places(half, size, "halves")


class AlwaysNeighbours(CorrectRope):
    """GPT-J's pairs for every model: the flag is never read."""

    caught_by = ALL

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Pair neighbours."""
        return super().places(half, size, "neighbours")


class HalvesOfTheHead(CorrectRope):
    """Halves of the whole head are paired, however much of it is rotated."""

    caught_by = ALL

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Pair with the head's second half."""
        first, second = super().places(half, size, pairs)
        return (first, slice(size // 2, size // 2 + half)) if pairs == "halves" else (first, second)


class HalvesOfABlock(CorrectRope):
    """Halves are loaded as blocks of a power of two, and the second begins where the block of the first ends."""

    caught_by = ALL

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Pair with the elements one block further on."""
        block = min(1 << (half - 1).bit_length(), size - half)
        return (
            (slice(0, half), slice(block, block + half))
            if pairs == "halves"
            else super().places(half, size, pairs)
        )


class LastNumbersRotated(CorrectRope):
    """The rotated numbers are the last of a head, where multi-head latent attention has them."""

    caught_by = (*ALL, "copied")

    def places(self, half: int, size: int, pairs: str) -> tuple[slice, slice]:
        """Count from the end."""
        first, second = super().places(half, size, pairs)
        more = size - 2 * half
        return slice(first.start + more, first.stop + more, first.step), slice(
            second.start + more, second.stop + more, second.step
        )

    def store(
        self, heads: torch.Tensor, rotated: Pair, places: tuple[slice, slice], x: torch.Tensor
    ) -> torch.Tensor:
        """Copy the first numbers."""
        out = torch.empty(heads.shape, dtype=x.dtype).copy_(heads)
        for place, part in zip(places, rotated, strict=True):
            out[..., place] = part
        return out.reshape(x.shape)


class TableRepeatedAsHalves(CorrectRope):
    """Neighbours turn by ``cat((cos, cos))``, which is for halves: two numbers of a pair have other angles."""

    caught_by = ALL

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str, norm: Norm | None = None) -> torch.Tensor:
        """Remember the pairs."""
        self.neighbours = pairs == "neighbours"
        return super().turn(x, size, angles, pairs, norm)

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Take every second angle of both copies."""
        if not self.neighbours:
            return super().rotate(parts, angles, x)
        c, s = (torch.cat((angle, angle), -1) for angle in angles)
        x1, x2 = parts
        return x1 * c[..., ::2] - x2 * s[..., ::2], x2 * c[..., 1::2] + x1 * s[..., 1::2]


class RopeTurnsBack(CorrectRope):
    """Every pair turns back."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Negate the sine."""
        c, s = super().angles(cos, sin, index, q)
        return c, -s


class SinIsCos(CorrectRope):
    """The line that loads the sine was copied from that of the cosine."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Load the cosine twice."""
        c, _ = super().angles(cos, sin, index, q)
        return c, c


class SinFromCos(CorrectRope):
    """The sine is computed from the cosine: its sign is lost, and scaled angles are no angles."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Take the root of what is left of one."""
        c, _ = super().angles(cos, sin, index, q)
        return c, (1 - c * c).clamp(min=0).sqrt()


class FirstNumberReused(CorrectRope):
    """``x1`` is overwritten before ``x2`` is turned: the second sum takes the turned ``x1``."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Reuse the name of the first number."""
        (x1, x2), (c, s) = parts, angles
        x1 = x1 * c - x2 * s
        return x1, x2 * c + x1 * s


class StoredInOtherPlaces(CorrectRope):
    """Both sums are right, and each is stored in the place of the other."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Swap the stores."""
        return super().rotate(parts, angles, x)[::-1]


class RopeTwice(CorrectRope):
    """The model has rotated q and k already, and the operation does it again."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Turn by twice the angle."""
        return super().rotate(super().rotate(parts, angles, x), angles, x)


class LastPairLeft(CorrectRope):
    """The mask of the pairs ends one early: the last one stays as it was."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Put the last numbers back."""
        y1, y2 = super().rotate(parts, angles, x)
        return (
            torch.cat((y1[..., :-1], parts[0][..., -1:].to(y1.dtype)), -1),
            torch.cat((y2[..., :-1], parts[1][..., -1:].to(y2.dtype)), -1),
        )


class QAlone(CorrectRope):
    """k comes back as it was."""

    caught_by = ALL

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember k."""
        self.k = k
        return super().fitting_heads(q, k, head_dim)

    def both(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return k unturned."""
        return q, self.k.clone(memory_format=torch.contiguous_format)


class KBeforeQ(CorrectRope):
    """k is returned before q."""

    caught_by = ("metadata", *ALL)

    def both(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the second result first."""
        return k, q


class HeadsOfQForK(CorrectRope):
    """The heads of k beyond q's number of heads stay as they were."""

    caught_by = ALL

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember how many heads q has."""
        self.q_heads = q[0].numel() // (head_dim or q.shape[-1]) if len(q) else 0
        return super().fitting_heads(q, k, head_dim)

    def store(
        self, heads: torch.Tensor, rotated: Pair, places: tuple[slice, slice], x: torch.Tensor
    ) -> torch.Tensor:
        """Leave k's other heads."""
        out = super().store(heads, rotated, places, x).reshape(heads.shape)
        out[:, self.q_heads :] = heads[:, self.q_heads :]
        return out.reshape(x.shape)


class SecondNumbersOfTheFirstHead(CorrectRope):
    """A shuffle under a mask gives every head the partners of a token's first head."""

    caught_by = ALL

    def rotate(self, parts: Pair, angles: Pair, x: torch.Tensor) -> Pair:
        """Take the first head's second numbers for all."""
        x1, x2 = parts
        return super().rotate((x1, x2[:, :1].expand_as(x1)), angles, x)


class LastTokenLeft(CorrectRope):
    """The mask of the tokens ends one early: the last one is copied."""

    caught_by = ALL

    def store(
        self, heads: torch.Tensor, rotated: Pair, places: tuple[slice, slice], x: torch.Tensor
    ) -> torch.Tensor:
        """Copy the last token."""
        out = super().store(heads, rotated, places, x)
        out[-1:] = x[-1:]
        return out


class PositionsFromOne(CorrectRope):
    """The first position is one."""

    caught_by = ALL

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Take the next row, and stay inside."""
        index = super().index(positions, tokens)
        return (index + 1).clamp(max=int(index.max()) if tokens else 0)


class TokensForPositions(CorrectRope):
    """A prompt begins at zero: the number of a token is taken for its position."""

    caught_by = ALL

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Count tokens."""
        return super().look_up(table, torch.arange(len(index)) % max(len(table), 1))


class PositionOfTheTile(CorrectRope):
    """A tile of four tokens loads the position of its first one."""

    caught_by = (*ALL, "row_independence")

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Load once per four tokens."""
        index = super().index(positions, tokens)
        return index[torch.arange(tokens) // 4 * 4]


class LastPositionPlusSteps(CorrectRope):
    """Decoding adds one a token to the first position: sequences of a batch are elsewhere."""

    caught_by = ALL

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Count from the first position, and stay inside."""
        index = super().index(positions, tokens)
        return (index[:1] + torch.arange(tokens)).clamp(max=int(index.max()) if tokens else 0)


class OneRowWithoutPositions(CorrectRope):
    """Without positions the first row of the tables is broadcast over all tokens."""

    caught_by = ALL

    def index(self, positions: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Take row zero for all."""
        return torch.zeros(tokens, dtype=torch.long) if positions is None else positions.long()
