"""Invalid calls of ``mrope``: a right call with one mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from conformance.operations.operation import Arguments

Mistake = Callable[[Arguments], Arguments]


def _with(name: str, change: Callable[[Any], Any]) -> Mistake:
    """Return a mistake that changes one argument."""
    return lambda call: {**call, name: change(call[name])}


def _integers(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tensor, dtype=torch.int32)


def _another_float(call: Arguments) -> Arguments:
    """Pass tables that are neither float32 nor in q's dtype."""
    other = torch.float16 if call["q"].dtype == torch.bfloat16 else torch.bfloat16
    return {**call, "cos": call["cos"].to(other), "sin": call["sin"].to(other)}


def _rotary_wider_than_the_head(call: Arguments) -> Arguments:
    size = call["head_dim"] or call["q"].shape[-1]
    wide = {name: call[name][:, :1].expand(-1, size) for name in ("cos", "sin")}
    return {**call, **wide, "sections": (size, 0, 0)}


def _unknown_head_dim(call: Arguments) -> Arguments:
    rows = {name: call[name].reshape(len(call[name]), -1) for name in ("q", "k")}
    return {**call, **rows, "head_dim": None}


def _another_head_dim(call: Arguments) -> Arguments:
    """Pass a head size that q and k do not have, and that divides neither."""
    return {**call, "head_dim": max(call["q"].shape[-1], call["k"].shape[-1]) - 1}


def _moved(call: Arguments, position: int) -> Arguments:
    """Move the last token to another position."""
    positions = call["positions"].clone()
    positions[..., -1] = position
    return {**call, "positions": positions}


def _beyond_the_cache(call: Arguments) -> Arguments:
    return _moved(call, len(call["cos"]))


def _negative_position(call: Arguments) -> Arguments:
    return _moved(call, -1)


# mistakes in values, which a call on a GPU does not read
UNSEEN = {"position beyond the cache": _beyond_the_cache, "negative position": _negative_position}

INVALID = {
    "q of integers": _with("q", _integers),
    "k of integers": _with("k", _integers),
    "q of one dimension": _with("q", torch.flatten),
    "k of one dimension": _with("k", torch.flatten),
    "q without its last token": _with("q", lambda q: q[:-1]),
    "k without its last token": _with("k", lambda k: k[:-1]),
    "k of another head size": _with("k", lambda k: k[..., :-1]),
    "k of another rank": _with("k", lambda k: k.reshape(len(k), -1) if k.dim() == 3 else k[:, None]),
    "2-D without a head size": _unknown_head_dim,
    "head size that does not fit": _another_head_dim,
    "positions without the last token": _with("positions", lambda p: p[..., :-1]),
    "positions of one token": _with("positions", lambda p: p[..., :1]),
    "positions on two axes": _with("positions", lambda p: p[:2]),
    "positions on four axes": _with("positions", lambda p: torch.cat([p, p[:1]])),
    "positions of three dimensions": _with("positions", lambda p: p[:, None]),
    "positions of floats": _with("positions", torch.Tensor.float),
    "cos of integers": _with("cos", _integers),
    "tables of another float": _another_float,
    "cos of one dimension": _with("cos", lambda cos: cos[0]),
    "cos of three dimensions": _with("cos", lambda cos: cos[:, None]),
    "sin with a frequency less": _with("sin", lambda sin: sin[:, :-1]),
    "sin with a position less": _with("sin", lambda sin: sin[:-1]),
    "rotary wider than the head": _rotary_wider_than_the_head,
    "two sections": _with("sections", lambda given: (given[0] + given[1], given[2])),
    "four sections": _with("sections", lambda given: (*given, 0)),
    "sections of another sum": _with("sections", lambda given: (given[0] + 1, *given[1:])),
    "negative section": _with("sections", lambda given: (given[0] + given[1] + 1, -1, given[2])),
    **UNSEEN,
}
