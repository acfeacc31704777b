"""Tuned kernels without measuring: of the configurations of ``triton.autotune`` one is drawn.

What is quickest depends on the GPU and on the day: a caller may get any configuration that runs, so that all
must be right. Measuring would compile all of them for every key, and judge the few that are quickest here. A draw
follows from the run's seed, the name of the kernel, the key and the configuration: a call runs the same kernel in
every process of a run, and another seed draws others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

Untyped = Any  # an autotuner, its configurations, arguments of kernels


def draw(seed: int) -> None:
    """Draw configurations from now on in this process. Needs Triton; its parts are replaced for good.

    A process that interprets draws as well, among all that pruning leaves: it can run each of them.
    """
    from triton.runtime.autotuner import Autotuner

    Autotuner.prune_configs = _drawn(Autotuner.prune_configs, seed)
    Autotuner._bench = _tried(Autotuner._bench)  # noqa: SLF001 - no public hook has the configuration
    Autotuner.check_disk_cache = _not_on_disk


def _drawn(shipped: Callable[..., list[Untyped]], seed: int) -> Callable[..., list[Untyped]]:
    """Return a pruning that leaves one configuration: the first in an order by draws that the GPU can run."""

    def prune_configs(tuner: Untyped, kwargs: Mapping[str, Untyped]) -> list[Untyped]:
        left = shipped(tuner, kwargs)
        if len(left) < 2 or kwargs.get("warmup", True):  # compiled ahead, without arguments to run it with
            return left
        key = f"{seed} {_key(tuner, kwargs)}"
        ordered = sorted(left, key=lambda config: hashlib.sha256(f"{key} {config}".encode()).digest())
        given = tuner.nargs.values()
        running = (
            config
            for config in ordered
            if math.isfinite(tuner._bench(*given, config=config, **kwargs)[0])  # noqa: SLF001 - as it calls itself
        )
        return [next(running, ordered[0])]

    return prune_configs


def _key(tuner: Untyped, kwargs: Mapping[str, Untyped]) -> str:
    """Return the name of a kernel, and what Triton tunes it anew for: the arguments in its key, and all dtypes."""
    given = {**tuner.nargs, **kwargs}
    numbers = [given[name] for name in tuner.keys if name in given]
    dtypes = [str(value.dtype) for value in given.values() if hasattr(value, "dtype")]
    return f"{tuner.base_fn.__module__}.{tuner.base_fn.__qualname__} {numbers} {dtypes}"


def _tried(shipped: Callable[..., list[float]]) -> Callable[..., list[float]]:
    """Return a measurement that runs a configuration once; what a GPU cannot run takes for ever, as in Triton."""

    def bench(tuner: Untyped, *args: Untyped, config: Untyped, **meta: Untyped) -> list[float]:
        tuner.do_bench = _once
        return shipped(tuner, *args, config=config, **meta)

    return bench


def _once(call: Callable[[], object], **_options: Untyped) -> list[float]:
    call()
    return [0.0, 0.0, 0.0]


def _not_on_disk(_tuner: Untyped, _key: Untyped, _configs: Untyped, bench: Callable[[], None]) -> bool:
    """Neither take what was measured before, nor leave for others what was drawn."""
    bench()
    return False
