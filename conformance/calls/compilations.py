"""Kernels that Triton compiles in this process, counted by the listener that Triton calls after each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Compiled:
    """Kernels that were compiled, the seconds that this took, and kernels that lay in Triton's cache."""

    kernels: int = 0
    seconds: float = 0.0
    cached: int = 0

    def __add__(self, other: Compiled) -> Compiled:
        return Compiled(self.kernels + other.kernels, self.seconds + other.seconds, self.cached + other.cached)


NOTHING = Compiled()


class Listener:
    """Count of what Triton compiles, from one :meth:`taken` to the next; an earlier listener is called as well."""

    def __init__(self, earlier: Any = None) -> None:  # noqa: ANN401 - Triton's protocol, or None
        self._earlier = earlier
        self._seen = NOTHING

    def __call__(self, *, times: Any, cache_hit: bool, **rest: Any) -> None:  # noqa: ANN401 - as Triton calls it
        """Count a kernel; ``times`` are in microseconds."""
        self._seen += Compiled(cached=1) if cache_hit else Compiled(1, times.total / 1e6)
        if self._earlier is not None:
            self._earlier(times=times, cache_hit=cache_hit, **rest)

    def taken(self) -> Compiled:
        """Return what was counted since the last call."""
        seen, self._seen = self._seen, NOTHING
        return seen


def listen() -> Listener:
    """Count from now on in this process. Needs Triton."""
    from triton import knobs

    listener = Listener(knobs.compilation.listener)
    knobs.compilation.listener = listener
    return listener
