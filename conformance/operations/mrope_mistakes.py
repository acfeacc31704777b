"""Invalid calls of ``mrope`` alone: a right call with one mistake in the axes of positions, or in the sections."""

from __future__ import annotations

import torch

from conformance.operations.head_mistakes import changed, rotary_wider_than_the_head
from conformance.operations.operation import Arguments
from conformance.operations.tensors import Mistake

ON_AXES: dict[str, Mistake] = {
    "positions on two axes": changed("positions", lambda p: p[:2]),
    "positions on four axes": changed("positions", lambda p: torch.cat([p, p[:1]])),
    "positions of three dimensions": changed("positions", lambda p: p[:, None]),
}


def _rotary_wider_than_the_head(call: Arguments) -> Arguments:
    wide = rotary_wider_than_the_head(call)
    return {**wide, "sections": (wide["cos"].shape[1], 0, 0)}


SECTIONS: dict[str, Mistake] = {
    "rotary wider than the head": _rotary_wider_than_the_head,
    "two sections": changed("sections", lambda given: (given[0] + given[1], given[2])),
    "four sections": changed("sections", lambda given: (*given, 0)),
    "sections of another sum": changed("sections", lambda given: (given[0] + 1, *given[1:])),
    "negative section": changed("sections", lambda given: (given[0] + given[1] + 1, -1, given[2])),
}
