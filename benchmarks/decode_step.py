"""``python -m benchmarks.decode_step``: all norms and rotations of one step of a model, without its other kernels.

A decode step has one token of each sequence, a prefill a whole prompt. Ours is compared with ``path="native"`` and
``torch.compile`` of the native formulas, with and without a CUDA graph. Each layer has weights of its own; layers
share their activations, which are in L2 if they fit, as after the multiplication that made them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import torch

import normkernels
from benchmarks.environment import environment, machine
from benchmarks.timing import Uncapturable, device_times, summary
from conformance.cases.corpus import ModelShape, model_shapes
from conformance.runs.host import choose_device, faithful_interpreter
from normkernels.operations import mrope, rms_norm, rms_norm_gated

MODEL = "Qwen3.5-27B"
# n_layers and full_attention_interval of the model (fixtures/models/qwen3_5_27b.toml): every 4th layer attends
LAYERS, INTERVAL = 64, 4
BATCHES = (1, 8, 64)
WAYS = ("ours", "native", "compiled")
# a step of milliseconds on the device, seconds in all
ROUNDS = 10
# the number of calls that CUDA can be behind the host without slowing the host down
WARM_UPS = 3

Call = Callable[[], object]
Compiler = Callable[..., Callable[..., object]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Calls of one kind in a step: their number, rows per token, and columns."""

    name: str
    calls: int
    heads: int
    width: int
    eps: float = 0.0
    k_heads: int = 0
    sections: tuple[int, int, int] = (0, 0, 0)
    half: int = 0


def stack(shapes: Sequence[ModelShape], layers: int = LAYERS, interval: int = INTERVAL) -> tuple[Kind, ...]:
    """Return the calls of a model's layers, from its shapes on one rank.

    Two norms a layer and one after the last, of which only the very first adds no residual. Full attention norms
    the heads of q and of k, then rotates both; every other layer has a gated norm.
    """
    of = {shape.operation: shape for shape in shapes}
    between, gated, rotation = of["gemma_rms_norm"], of["rms_norm_gated"], of["mrope"]
    flags = dict(rotation.flags)
    attending = layers // interval
    heads, k_heads = rotation.heads or 1, _number(flags["k_heads"])
    sections = flags["sections"]
    assert isinstance(sections, tuple)
    t, h, w = (int(each) for each in sections)
    eps = between.eps or 0.0
    return (
        Kind("norm", 1, 1, between.head_dim, eps),
        Kind("norm + residual", 2 * layers, 1, between.head_dim, eps),
        Kind("gated norm", layers - attending, gated.heads or 1, gated.head_dim, gated.eps or 0.0),
        Kind("q norm", attending, heads, rotation.head_dim, eps),
        Kind("k norm", attending, k_heads, rotation.head_dim, eps),
        Kind("rotation", attending, heads, rotation.head_dim, 0.0, k_heads, (t, h, w), t + h + w),
    )


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def small(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    """Return the same kinds with one call each, narrow enough for Triton's interpreter."""
    return tuple(replace(kind, calls=1, heads=min(kind.heads, 2), width=min(kind.width, 256)) for kind in kinds)


# --- the calls of a kind ----------------------------------------------------------------------------------------


def step(kind: Kind, tokens: int, way: str, device: str, compiler: str) -> Call:
    """Return all calls of one kind in a step."""
    make = {"gated norm": _gated, "rotation": _rotation}.get(kind.name, _norm)
    calls = make(kind, tokens, way, functools.partial(torch.compile, backend=compiler), device)

    def run() -> None:
        for call in calls:
            call()

    return run


def _random(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)


def _rows(kind: Kind, tokens: int, device: str) -> torch.Tensor:
    shape = (tokens, kind.width) if kind.heads == 1 else (tokens, kind.heads, kind.width)
    return _random(*shape, device=device)


def _path(way: str) -> str | None:
    return "native" if way == "native" else None


def _norm(kind: Kind, tokens: int, way: str, compiled: Compiler, device: str) -> list[Call]:
    x = _rows(kind, tokens, device)
    residual = _random(*x.shape, device=device) if kind.name == "norm + residual" else None
    weights = [_random(kind.width, device=device) for _ in range(kind.calls)]
    if way != "compiled":
        norm = functools.partial(normkernels.gemma_rms_norm, residual=residual, eps=kind.eps, path=_path(way))
        return [functools.partial(norm, x, weight) for weight in weights]
    formula = compiled(functools.partial(rms_norm.native, eps=kind.eps, offset=1.0, rounding="fp32"))
    return [functools.partial(formula, x, weight, residual) for weight in weights]


def _gated(kind: Kind, tokens: int, way: str, compiled: Compiler, device: str) -> list[Call]:
    x, gate = (_rows(kind, tokens, device) for _ in range(2))
    weights = [_random(kind.width, device=device) for _ in range(kind.calls)]
    if way != "compiled":
        norm = functools.partial(normkernels.rms_norm_gated, eps=kind.eps, path=_path(way))
        return [functools.partial(norm, x, gate, weight) for weight in weights]
    flags: dict[str, Any] = {"width": kind.width, "gated": "after", "activation": "silu", "rounding": "fp32"}
    formula = compiled(functools.partial(rms_norm_gated.native, eps=kind.eps, **flags))
    return [functools.partial(formula, x, gate, weight) for weight in weights]


def _rotation(kind: Kind, tokens: int, way: str, compiled: Compiler, device: str) -> list[Call]:
    """Return the rotations: ours in place, as its users call it; the others return new tensors."""
    q, k = (_random(tokens, heads, kind.width, device=device) for heads in (kind.heads, kind.k_heads))
    positions = torch.arange(tokens, device=device).repeat(3, 1)
    angles = torch.rand((tokens, kind.half), device=device) * 6.28
    given = (q, k, positions, angles.cos(), angles.sin())
    if way == "compiled":
        flags: dict[str, Any] = {"sections": kind.sections, "head_dim": kind.width, "interleaved": True}
        rotate = compiled(functools.partial(mrope.native, **flags))
    elif way == "native":
        rotate = functools.partial(normkernels.mrope, sections=kind.sections, path="native")
    else:
        rotate = functools.partial(normkernels.mrope_, sections=kind.sections)
    return [functools.partial(rotate, *given)] * kind.calls


# --- how long they take -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of a step, for each way and kind: by graph replay, and call by call from the host."""

    graph: Mapping[str, Mapping[str, float]]
    eager: Mapping[str, Mapping[str, float]]


def taken(kinds: Sequence[Kind], tokens: int, device: str, compiler: str, rounds: int) -> Taken:
    """Time every kind of a step of ``tokens`` tokens; a way that does not support a kind has no time for it."""
    graph: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    eager: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for kind in kinds:
        for way in WAYS:
            # one kind after another: a prefill's tensors are gigabytes
            call = step(kind, tokens, way, device, compiler)
            try:
                eager[way][kind.name] = _wall(call, rounds)
                graph[way][kind.name] = device_times({way: [call]}, rounds=rounds)[way].median / 1e3
            except (torch.cuda.OutOfMemoryError, Uncapturable) as error:
                click.echo(f"{kind.name} of {tokens} tokens, {way}: {str(error).partition(chr(10))[0]}")
            del call
            torch.compiler.reset()
            if device != "cpu":
                torch.cuda.empty_cache()
    return Taken(graph, eager)


def _wall(call: Call, rounds: int) -> float:
    """Return the milliseconds from the first call of a step to the end of the last, on host and device."""
    wait: Call = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    for _ in range(WARM_UPS):
        call()
    times = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter_ns()
        call()
        wait()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return summary(times).median


def shares(times: Mapping[str, float]) -> dict[str, float]:
    """Return each kind's share of a step."""
    whole = sum(times.values())
    return {name: each / whole for name, each in times.items()}


def lines(tokens: int, result: Taken, kinds: Sequence[Kind]) -> list[str]:
    """Return a step as text: a line for each way, with and without a graph."""
    said = [f"{tokens} tokens"]
    for title, ways in (("graph", result.graph), ("eager", result.eager)):
        for way, times in ways.items():
            if set(times) != {kind.name for kind in kinds}:
                said.append(f"  {title} {way:9} not all of it ran")
                continue
            parts = ", ".join(f"{name} {part:.0%}" for name, part in shares(times).items())
            said.append(f"  {title} {way:9} {sum(times.values()):10.3f} ms  ({parts})")
    return said


@click.command()
@click.option("--smoke", is_flag=True, help="A call of each kind at tiny sizes, on whatever there is.")
@click.option(
    "--tokens", metavar="N", type=click.IntRange(1), multiple=True, help="Tokens of a step. More than once."
)
@click.option("--rounds", type=click.IntRange(2), default=ROUNDS, show_default=True)
def main(tokens: tuple[int, ...], rounds: int, *, smoke: bool) -> None:
    """Print the milliseconds of a step and each kind's share."""
    device = choose_device("cpu" if smoke else None)
    if device == "cpu":
        faithful_interpreter()
    torch.manual_seed(0)
    shapes = [shape for shape in model_shapes() if (shape.model, shape.tp) == (MODEL, 1)]
    kinds = small(stack(shapes)) if smoke else stack(shapes)
    # eager: checking that everything runs needs no compiler for the CPU
    compiler = "eager" if device == "cpu" else "inductor"
    wanted = tokens or ((2,) if smoke else (*BATCHES, *shapes[0].prefill))
    click.echo(machine(environment(device)))
    click.echo(f"{MODEL}: " + ", ".join(f"{kind.calls} x {kind.name}" for kind in kinds))
    for each in wanted:
        with torch.inference_mode():
            result = taken(kinds, each, device, compiler, rounds)
        click.echo("\n".join(lines(each, result, kinds)))


if __name__ == "__main__":
    main()
