"""The arithmetic of an implementation in plain torch, in other right forms: each is a few functions replaced.

A right implementation calls ``float``, ``sum``, ``mean``, ``square`` and ``rsqrt`` for the steps of a formula.
While a variation is entered, these are other functions, which a contract allows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from conformance.oracle.contract import Depth, round_once
from conformance.selftest.fakes.summation import blocked, pairwise, serial

Step = Callable[..., Any]  # as the function that it replaces
SQUARES: frozenset[Step] = frozenset({torch.Tensor.square, torch.Tensor.pow})
SERIAL_COLUMNS = 1024  # that are added one after the other


@dataclass(frozen=True, slots=True)
class Variation:
    """Functions in place of torch's, and the depth of sums that they have, None for the implementation's own.

    ``telling``: those of them without which it is no form of its own, by default any. ``most``: columns of the
    widest row.
    """

    name: str
    steps: Mapping[Step, Step] = field(repr=False)
    depth: Depth | None = None
    telling: frozenset[Step] = frozenset()
    most: int | None = None


class Replaced(TorchFunctionMode):
    """Replacement of functions of torch while it is entered; ``used`` says whether a telling one was called."""

    def __init__(self, variation: Variation) -> None:
        super().__init__()
        self._steps, self.used = variation.steps, False
        self._telling = variation.telling or frozenset(variation.steps)

    def __torch_function__(
        self,
        func: Step,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or the one in its place."""
        self.used |= func in self._telling
        return self._steps.get(func, func)(*args, **(kwargs or {}))


def _summed(total: Callable[[torch.Tensor], torch.Tensor]) -> Mapping[Step, Step]:
    """Return the steps of sums of the last dimension, kept."""

    def summed(x: torch.Tensor, dim: int, *, keepdim: bool) -> torch.Tensor:
        assert dim == -1, "of rows only"
        assert keepdim, "of rows only"
        return total(x)

    def mean(x: torch.Tensor, dim: int, *, keepdim: bool) -> torch.Tensor:
        return summed(x, dim, keepdim=keepdim) / x.shape[-1]

    return {torch.Tensor.sum: summed, torch.Tensor.mean: mean}


def _exact_square(x: torch.Tensor, power: int = 2) -> torch.Tensor:
    assert power == 2, "squares only"
    return x.double() * x.double()


def _off_by_one(v: torch.Tensor) -> torch.Tensor:
    """Return the nearest fp32 numbers to ``1 / sqrt(v)``, each moved by one, up and down in turns."""
    nearest = v.double().rsqrt().float()
    places = torch.arange(v.numel(), device=v.device).reshape(v.shape)
    return nearest.nextafter(torch.where(places % 2 == 0, torch.inf, 0.0))


def _to(x: torch.Tensor, *kinds: Any, **more: Any) -> torch.Tensor:
    wide = x.dtype == torch.float64 and kinds and isinstance(kinds[0], torch.dtype)
    return (round_once(x, kinds[0]) if wide else x).to(*kinds, **more)


def _copied(over: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return over.copy_(_once(given, over.dtype))


def _put(over: torch.Tensor, places: Any, given: torch.Tensor) -> None:
    over[places] = _once(given, over.dtype)


def _once(given: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 numbers where a cast would round to fp32 first."""
    return round_once(given, dtype) if given.dtype == torch.float64 else given


VARIATIONS = (
    Variation("pairwise sums", _summed(pairwise), "tile"),
    Variation("blocked sums", _summed(blocked), "lanes"),
    Variation("serial sums", _summed(serial), "serial", most=SERIAL_COLUMNS),
    Variation(
        "blocked sums of fused squares",
        {**_summed(blocked), **dict.fromkeys(SQUARES, _exact_square)},
        "lanes",
        SQUARES,
    ),
    Variation("rsqrt one ulp off", {torch.rsqrt: _off_by_one, torch.Tensor.rsqrt: _off_by_one}),
    Variation(
        "float64 rounded once",
        {
            torch.Tensor.float: torch.Tensor.double,
            torch.Tensor.to: _to,
            torch.Tensor.copy_: _copied,
            torch.Tensor.__setitem__: _put,
        },
    ),
)
