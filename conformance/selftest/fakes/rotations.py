"""Fakes that turn by the wrong angle, the wrong numbers, or the wrong way."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_rotation import CorrectRotation, Halves, Sections

ALL: tuple[str, ...] = ("values", "layout", "specials")


class TextPositions(CorrectRotation):
    """One position a token is loaded: height and width are lost, and no text shows it."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Take t for every frequency."""
        return [0] * sum(sections)


class TwoAxesTakenForText(CorrectRotation):
    """Text is recognised by a position in time equal to that of height or width, which image tokens may have."""

    caught_by = ALL

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Take the shortcut of text where two axes are equal."""
        t, h, w = positions.expand(3, positions.shape[-1])
        apart = (t != h) & (t != w)
        return super().index(torch.where(apart, positions, t), axes)


class FirstTokenTakenForAll(CorrectRotation):
    """The first token decides whether a prompt is text: the images that follow have no height and width."""

    caught_by = ALL

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Take the shortcut of text where the first token has one position."""
        text = positions.dim() == 2 and bool((positions[:, :1] == positions[:1, :1]).all())
        return super().index(positions[0] if text else positions, axes)


class HeightAndWidthSwapped(CorrectRotation):
    """The second axis is taken for width, the third for height."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Swap two axes."""
        return [(0, 2, 1)[axis] for axis in super().axes(sections, interleaved=interleaved)]


class AlwaysSectioned(CorrectRotation):
    """Qwen2-VL's order for every model: the flag is ignored."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Take section after section."""
        return super().axes(sections, interleaved=False)


class AlwaysInterleaved(CorrectRotation):
    """Qwen3-VL's order for every model: the flag is ignored."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Take turns."""
        return super().axes(sections, interleaved=True)


class SectionsIgnored(CorrectRotation):
    """Interleaved axes take turns to the end, however long their sections are."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Count to three."""
        axes = super().axes(sections, interleaved=interleaved)
        return [i % 3 for i in range(len(axes))] if interleaved else axes


class SectionsOneShort(CorrectRotation):
    """The last frequency of height falls to time: ``<`` where ``<=`` was meant."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """End a section early."""
        axes = super().axes(sections, interleaved=interleaved)
        last = max((i for i, axis in enumerate(axes) if axis == 1), default=-1)
        return [0 if i == last else axis for i, axis in enumerate(axes)]


class TurnsTooLong(CorrectRotation):
    """Turns end at four times the length of a section: sections of a third of the frequencies do not show it."""

    caught_by = ALL

    def axes(self, sections: Sections, *, interleaved: bool) -> list[int]:
        """Count the axes and one more."""
        if not interleaved:
            return super().axes(sections, interleaved=False)
        turns = [i % 3 for i in range(sum(sections))]
        return [turn if i < 4 * sections[turn] else 0 for i, turn in enumerate(turns)]


class SinNegated(CorrectRotation):
    """Turns the other way."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Negate the sine."""
        c, s = super().angles(cos, sin, index, q)
        return c, -s


class CosForSin(CorrectRotation):
    """The line that loads the sine was copied from the one above."""

    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Load the cosine twice."""
        c, _ = super().angles(cos, sin, index, q)
        return c, c


class NeighboursPaired(CorrectRotation):
    """GPT-J's pairs: dimensions 2i and 2i + 1, where halves are paired."""

    caught_by = ALL

    def halves(self, heads: torch.Tensor, half: int) -> Halves:
        """Pair neighbours."""
        return heads[..., 0 : 2 * half : 2], heads[..., 1 : 2 * half : 2]


class RotaryIsTheHead(CorrectRotation):
    """The second half begins in the middle of the head, as if all of it were rotated."""

    caught_by = ALL

    def halves(self, heads: torch.Tensor, half: int) -> Halves:
        """Pair with the head's second half."""
        middle = heads.shape[-1] // 2
        return heads[..., :half], heads[..., middle : middle + half]


class PowerOfTwoHalves(CorrectRotation):
    """The second half begins at the next power of two, where the block of the first ends."""

    caught_by = ALL

    def halves(self, heads: torch.Tensor, half: int) -> Halves:
        """Pair with the elements one block further on."""
        block = min(1 << (half - 1).bit_length(), heads.shape[-1] - half)
        return heads[..., :half], heads[..., block : block + half]


class SecondHalfOfTheFirst(CorrectRotation):
    """``x1`` is overwritten before ``x2`` is turned: the second sum takes the rotated ``x1``."""

    caught_by = ALL

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Reuse the name of the first half."""
        (x1, x2), (c, s) = parts, angles
        x1 = x1 * c - x2 * s
        return x1, x2 * c + x1 * s


class HalvesSwapped(CorrectRotation):
    """Both sums are right and stored in each other's place."""

    caught_by = ALL

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Swap the stores."""
        return super().rotate(parts, angles, x)[::-1]


class RotatedTwice(CorrectRotation):
    """The model has rotated q and k already, and the fused operation does it again."""

    caught_by = ALL

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Turn by twice the angle."""
        return super().rotate(super().rotate(parts, angles, x), angles, x)


class KNotRotated(CorrectRotation):
    """The second result is k as it was."""

    caught_by = ALL

    def pair(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Turn k back."""
        return q, self.k.clone(memory_format=torch.contiguous_format)

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember k."""
        self.k = k
        return super().fitting_heads(q, k, head_dim)


class ResultsSwapped(CorrectRotation):
    """Returns k and q."""

    caught_by = ("metadata", *ALL)

    def pair(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the second result first."""
        return k, q


class KHasTheHeadsOfQ(CorrectRotation):
    """One count of heads, q's, ends the loop over k as well: k's further heads stay as they were."""

    caught_by = ALL

    def fitting_heads(self, q: torch.Tensor, k: torch.Tensor, head_dim: int | None) -> bool:
        """Remember how many heads q has."""
        self.q_heads = q[0].numel() // (head_dim or q.shape[-1]) if len(q) else 0
        return super().fitting_heads(q, k, head_dim)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Leave k's other heads."""
        out = super().store(heads, rotated, x).reshape(heads.shape)
        out[:, self.q_heads :] = heads[:, self.q_heads :]
        return out.reshape(x.shape)


class FirstHeadAlone(CorrectRotation):
    """A shuffle inside a branch spoils every head after the first of a token."""

    caught_by = ALL

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Turn the other heads by the numbers of the first."""
        y1, y2 = super().rotate(parts, angles, x)
        return torch.cat([y1[:, :1], y1[:, :1].expand_as(y1[:, 1:])], 1), y2


class LastTokenMasked(CorrectRotation):
    """The mask ends one token early: the last one is copied."""

    caught_by = ALL

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Copy the last token."""
        out = super().store(heads, rotated, x)
        out[-1:] = x[-1:]
        return out


class PartialTileMasked(CorrectRotation):
    """Tokens behind the last whole tile of 16 are copied."""

    caught_by = ALL

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Copy the tokens that fill no tile."""
        out = super().store(heads, rotated, x)
        if len(x) > 16:
            whole = len(x) // 16 * 16
            out[whole:] = x[whole:]
        return out


class OnePositionFurther(CorrectRotation):
    """Counts positions from one."""

    caught_by = ALL

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Begin at the second row, and stay inside."""
        return super().index((positions + 1).clamp(max=int(positions.max()) if len(positions) else 0), axes)


class TokenForPosition(CorrectRotation):
    """A prefill starts at zero: the token's number is taken for its position."""

    caught_by = ALL

    def look_up(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Count tokens."""
        tokens = torch.arange(len(index))[:, None].expand_as(index) % len(table)
        return super().look_up(table, tokens)


class FirstTokensPositions(CorrectRotation):
    """A tile of tokens loads the positions of its first one."""

    caught_by = ("row_independence", *ALL)

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Load once per four tokens."""
        index = super().index(positions, axes)
        return index[torch.arange(len(index)) // 4 * 4]


class TablesCached(CorrectRotation):
    """Tables are cached by their size: another model's tables are never used."""

    caught_by = ALL

    def __init__(self) -> None:
        self.tables: dict[object, Halves] = {}

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Halves:
        """Keep the first tables of each size."""
        cos, sin = self.tables.setdefault(cos.shape, (cos.clone(), sin.clone()))
        return super().angles(cos, sin, index, q)


class RestLeftOut(CorrectRotation):
    """The unrotated dimensions are never written."""

    caught_by = ("written", "copied", *ALL)

    def store(self, heads: torch.Tensor, rotated: Halves, x: torch.Tensor) -> torch.Tensor:
        """Write the rotated part alone."""
        half = rotated[0].shape[-1]
        out = torch.empty(heads.shape, dtype=x.dtype)
        out[..., :half], out[..., half : 2 * half] = rotated
        return out.reshape(x.shape)


class RestCleared(CorrectRotation):
    """The unrotated dimensions come back as zeros."""

    caught_by = ("copied", *ALL)

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Copy nothing."""
        return torch.zeros_like(rest)


class RestInBfloat16(CorrectRotation):
    """The unrotated dimensions are copied through bf16, whatever their dtype."""

    caught_by = ("copied", *ALL)

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Round a copy."""
        return rest.bfloat16()


class RestThroughArithmetic(CorrectRotation):
    """The unrotated dimensions are turned by an angle of zero: a negative zero comes back positive."""

    caught_by = ("copied",)

    def keep(self, rest: torch.Tensor) -> torch.Tensor:
        """Add zero."""
        return rest + 0.0


class NanSpreadsToOtherTokens(CorrectRotation):
    """Cosines are gathered by a product with ones and zeros: NaN times zero reaches every token."""

    caught_by = ("row_independence", "specials")

    def rotate(self, parts: Halves, angles: Halves, x: torch.Tensor) -> Halves:
        """Add every other token, times zero."""
        y1, y2 = super().rotate(parts, angles, x)
        return y1 + 0.0 * y1.sum(), y2


class ManyTokensAreText(CorrectRotation):
    """From 16 tokens on another kernel runs, which knows one axis."""

    caught_by = ALL

    def index(self, positions: torch.Tensor, axes: list[int]) -> torch.Tensor:
        """Take t for many tokens."""
        return super().index(positions, [0] * len(axes) if positions.shape[-1] >= 16 else axes)
