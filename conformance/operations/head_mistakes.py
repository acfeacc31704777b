"""Invalid calls on heads: a right call with one mistake in q and k, in positions, or in the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from conformance.operations.operation import Arguments
from conformance.operations.tensors import Mistake, elsewhere


def changed(name: str, change: Callable[[Any], Any]) -> Mistake:
    """Return a mistake that changes one argument."""
    return lambda call: {**call, name: change(call[name])}


def positions_of(call: Arguments) -> torch.Tensor:
    """Return the positions of a call; where it has none, those that say the same."""
    given: torch.Tensor | None = call["positions"]
    return torch.arange(len(call["q"]), device=call["q"].device) if given is None else given


def moved(change: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    """Return a mistake in the positions."""
    return lambda call: {**call, "positions": change(positions_of(call))}


def _integers(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tensor, dtype=torch.int32)


def _unknown_head_dim(call: Arguments) -> Arguments:
    rows = {name: call[name].reshape(len(call[name]), -1) for name in ("q", "k")}
    return {**call, **rows, "head_dim": None}


def _another_head_dim(call: Arguments) -> Arguments:
    """Pass a head size that q and k do not have, and that divides neither."""
    return {**call, "head_dim": max(call["q"].shape[-1], call["k"].shape[-1]) - 1}


HEADS: dict[str, Mistake] = {
    "q of integers": changed("q", _integers),
    "k of integers": changed("k", _integers),
    "q that is sparse": changed("q", torch.Tensor.to_sparse),
    "k on another device": changed("k", elsewhere),
    "q of one dimension": changed("q", torch.flatten),
    "k of one dimension": changed("k", torch.flatten),
    "q without its last token": changed("q", lambda q: q[:-1]),
    "k without its last token": changed("k", lambda k: k[:-1]),
    "k of another head size": changed("k", lambda k: k[..., :-1]),
    "k of another rank": changed("k", lambda k: k.reshape(len(k), -1) if k.dim() == 3 else k[:, None]),
    "2-D without a head size": _unknown_head_dim,
    "head size that does not fit": _another_head_dim,
}


def _another_float(call: Arguments) -> Arguments:
    """Pass tables that are neither float32 nor in q's dtype."""
    other = torch.float16 if call["q"].dtype == torch.bfloat16 else torch.bfloat16
    return {**call, "cos": call["cos"].to(other), "sin": call["sin"].to(other)}


def rotary_wider_than_the_head(call: Arguments) -> Arguments:
    """Pass tables for more columns than a head has."""
    size = call["head_dim"] or call["q"].shape[-1]
    return {**call, **{name: call[name][:, :1].expand(-1, size) for name in ("cos", "sin")}}


TABLES: dict[str, Mistake] = {
    "cos of integers": changed("cos", _integers),
    "sin on another device": changed("sin", elsewhere),
    "tables of another float": _another_float,
    "cos of one dimension": changed("cos", lambda cos: cos[0]),
    "cos of three dimensions": changed("cos", lambda cos: cos[:, None]),
    "sin with a frequency less": changed("sin", lambda sin: sin[:, :-1]),
    "sin with a position less": changed("sin", lambda sin: sin[:-1]),
    "rotary wider than the head": rotary_wider_than_the_head,
}

POSITIONS: dict[str, Mistake] = {
    "positions without the last token": moved(lambda p: p[..., :-1]),
    "positions of one token": moved(lambda p: p[..., :1]),
    "positions of floats": moved(torch.Tensor.float),
}


def _no_positions(call: Arguments) -> Arguments:
    """Pass tables of one row more than there are tokens, and no positions."""
    rows = (len(call["q"]) + 1, call["cos"].shape[1])
    return {**call, "positions": None, **{name: call[name][:1].expand(rows) for name in ("cos", "sin")}}


# mistakes in positions on one axis, which a call may leave out
NO_POSITIONS: dict[str, Mistake] = {
    "positions of two dimensions": moved(lambda p: p[:, None]),
    "tables of more rows than tokens": _no_positions,
}


def _last_at(call: Arguments, position: int) -> Arguments:
    positions = positions_of(call).clone()
    positions[..., -1] = position
    return {**call, "positions": positions}


def _beyond_the_cache(call: Arguments) -> Arguments:
    return _last_at(call, len(call["cos"]))


def _negative_position(call: Arguments) -> Arguments:
    return _last_at(call, -1)


# mistakes in values, which a call on a GPU does not read
UNSEEN: dict[str, Mistake] = {
    "position beyond the cache": _beyond_the_cache,
    "negative position": _negative_position,
}
