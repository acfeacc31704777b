"""Rows of a comparison: what was run, its times, the distance of its logits; and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.timing import Timing
from examples.models import BEFORE, CONTROL, OURS


@dataclass(frozen=True, slots=True)
class Distance:
    """Logits beside those of the model before: largest difference, least cosine, share of equal first choices."""

    largest: float
    cosine: float
    same_choice: float


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> Distance:
    """Return the distance of logits from others."""
    ours, theirs = ours.float(), theirs.float()
    return Distance(
        float((ours - theirs).abs().max()),
        float(functional.cosine_similarity(ours, theirs, dim=-1).min()),
        float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: milliseconds of a call by way, and the distance of the logits; or the reason for neither."""

    model: str
    layers: int
    of_layers: int
    norms: int  # that were replaced
    unknown: Mapping[str, str]  # other norms of the model, with the reason why each stays
    phase: str
    mode: str
    batch: int
    prompt: int
    times: Mapping[str, Timing]
    distance: Distance | None = None
    reason: str = ""

    def ratio(self, way: str) -> float | None:
        """Return the time of a way over the time before, or None where there is none."""
        return self.times[way].median / self.times[BEFORE].median if self.times else None


HEADINGS = ("model", "layers", "", "batch", "", "before", "ours", "ratio", "control", "largest", "cosine", "same")


def line(row: Row) -> str:
    """Return a row of the table."""
    begun = [row.model, f"{row.layers}/{row.of_layers}", row.phase, str(row.batch), row.mode]
    if not row.times or row.distance is None:
        return in_columns(begun) + row.reason
    far = row.distance
    times = [f"{row.times[way].median:.3f}" for way in (BEFORE, OURS)]
    ratios = [f"{row.ratio(way):.3f}" for way in (OURS, CONTROL)]
    return in_columns(
        [*begun, *times, *ratios, f"{far.largest:.3f}", f"{far.cosine:.5f}", f"{far.same_choice:.0%}"]
    )


def in_columns(words: Sequence[str]) -> str:
    """Return words in the columns of the table."""
    widths = (12, 7, 8, 6, 6, *[9] * 7)
    return "".join(word.ljust(width) for word, width in zip(words, widths, strict=False))
