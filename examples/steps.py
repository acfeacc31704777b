"""Calls of a model: prompts, and steps that follow them; recorded as CUDA graphs, and timed in turns."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StaticCache

from benchmarks.timing import Timing, summary, undisturbed
from examples.models import Way

# steps whose logits are compared, and steps between two looks at the clock, in which nothing waits for the device
COMPARED, STEPS = 4, 8
# tokens that fit into the cache after the prompt
ROOM = 16
# seconds that all rounds of a comparison may take, a limit for slow calls, and the numbers of rounds
PATIENCE, FEWEST, MOST = 2.0, 3, 20

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts, the tokens that follow them, a cache for both, and the memory that a step reads its tokens from."""

    prompt: torch.Tensor
    following: torch.Tensor
    cache: StaticCache
    token: torch.Tensor


def batch_of(config: Any, size: int, prompt: int, device: str) -> Batch:  # noqa: ANN401 - transformers has no types
    """Return some sequences of random tokens."""
    tokens = torch.randint(config.vocab_size, (size, prompt + COMPARED), device=device)
    cache = cache_of(config, prompt + ROOM)
    return Batch(tokens[:, :prompt], tokens[:, prompt:], cache, tokens[:, prompt : prompt + 1].clone())


def cache_of(config: Any, tokens: int) -> StaticCache:  # noqa: ANN401 - as above
    """Return a cache whose layers count their tokens in a tensor, so that each replay of a graph goes on.

    A layer that slides counts them in Python, and a graph keeps the number that it was recorded with. Here such a
    layer keeps all tokens, which is the same while they fit into its window. Raises ``ValueError`` otherwise.
    """
    kept = copy.deepcopy(config)
    kinds = getattr(kept, "layer_types", None) or ()
    if "sliding_attention" in kinds:
        if tokens > kept.sliding_window:
            raise ValueError(f"{tokens} tokens: must be at most {kept.sliding_window}, the window of its layers")
        kept.layer_types = ["full_attention" if kind == "sliding_attention" else kind for kind in kinds]
    return StaticCache(config=kept, max_cache_len=tokens)


def calls_of(way: Way, batch: Batch) -> dict[str, Call]:
    """Return the call of each phase."""

    def prefill() -> torch.Tensor:
        batch.cache.reset()
        return way(batch.prompt, batch.cache)

    return {"decode": lambda: way(batch.token, batch.cache), "prefill": prefill}


def rewind(batch: Batch) -> None:
    """Let the next token follow the prompt, so that steps never fill the cache; recurrent states stay."""
    length = batch.prompt.shape[1]
    for layer in batch.cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(length)


def logits_of(phase: str, call: Call, prefill: Call, batch: Batch) -> torch.Tensor:
    """Return the logits of calls, ``[calls, batch, vocabulary]``; steps get the tokens that follow the prompts."""
    if phase == "prefill":
        return call().clone()[None]
    prefill()
    seen = []
    for place in range(COMPARED):
        batch.token.copy_(batch.following[:, place : place + 1])
        seen.append(call().clone())
    return torch.stack(seen)


def captured(calls: Mapping[str, Call]) -> dict[str, Call]:
    """Return the replay of each call as one CUDA graph; the graphs use the same memory, one after another."""
    pool = torch.cuda.graph_pool_handle()

    def recorded(call: Call) -> Call:
        graph = torch.cuda.CUDAGraph()
        # the outer context: a recording that fails would leave its own stream as the current one
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=pool):
            result = call()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    return {name: recorded(call) for name, call in calls.items()}


# --- timing ------------------------------------------------------------------------------------------------------


def timed(calls: Mapping[str, Call], batch: Batch, steps: int) -> dict[str, Timing]:
    """Return the milliseconds of one call of each, timed in turns, in another order each round."""
    order = random.Random(0)  # noqa: S311 - reproducible, not secret
    seen: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.monotonic()
    with undisturbed():
        for number in range(MOST):
            if number >= FEWEST and time.monotonic() - begun > PATIENCE:
                break
            for name in order.sample(list(calls), len(calls)):
                rewind(batch)
                seen[name].append(clock(calls[name], steps))
    return {name: summary(times) for name, times in seen.items()}


def clock(call: Call, steps: int) -> float:
    """Return the milliseconds of one of several calls, from the first to the end of the last on the device."""
    wait()
    begun = time.perf_counter()
    for _ in range(steps):
        call()
    wait()
    return 1e3 * (time.perf_counter() - begun) / steps


def wait() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
