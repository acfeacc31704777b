"""``python -m examples.decode``: models of transformers before and after their norms and rotations are swapped.

Each model has random weights, so that it needs no network. A step of ``decode`` gives each sequence of a batch one
token, ``prefill`` empties the cache and runs a prompt. Both are timed eagerly and as one CUDA graph, by a clock of
the host around calls and a wait for the device. Before, after, and before once more (the control) are timed in
turns, in an order that changes. Logits are compared with those of the model before the swap, run eagerly.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
import transformers

from benchmarks.environment import environment, machine
from conformance.calls.child import single_threaded
from conformance.runs.host import choose_device, faithful_interpreter
from examples.models import BEFORE, OURS, SHAPES, Swapped, build, swapped
from examples.steps import STEPS, Batch, batch_of, calls_of, captured, logits_of, timed
from examples.table import HEADINGS, Row, distance, in_columns, line

OUT = "build/examples/decode.jsonl"
BATCHES = (1, 8, 64)
PHASES, MODES = ("decode", "prefill"), ("eager", "graph")
PROMPT = 128
# calls before the clock or a graph, for compilation, tuning and allocations that happen once
WARM_UPS = 2
LATE = "no time left"


def measured(row: Row, models: Swapped, batch: Batch) -> Row:
    """Return a row with its times and the distance of its logits, or with the reason why it has none."""
    calls = {name: calls_of(way, batch) for name, way in models.ways.items()}
    prefill = {name: each["prefill"] for name, each in calls.items()}
    run = {name: each[row.phase] for name, each in calls.items()}
    try:
        theirs = logits_of(row.phase, run[BEFORE], prefill[BEFORE], batch)
        for name in (BEFORE, OURS):
            prefill[name]()
            for _ in range(WARM_UPS):
                run[name]()
        if row.mode == "graph":
            run = captured(run)
        ours = logits_of(row.phase, run[OURS], prefill[OURS], batch)
        times = timed(run, batch, 1 if row.phase == "prefill" else STEPS)
    except Exception as error:  # noqa: BLE001 - code of other libraries, and a device whose memory ends
        return replace(row, reason=reason(error))
    if not (theirs.isfinite().all() and ours.isfinite().all()):
        return replace(row, reason="logits that are not finite")
    return replace(row, times=times, distance=distance(ours, theirs))


def reason(error: BaseException) -> str:
    """Return an error in a line, with the place in the code where it began."""
    while error.__context__ is not None:
        error = error.__context__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = None if trace is None else trace.tb_frame.f_code
    place = "" if code is None else f" in {code.co_name} ({Path(code.co_filename).name})"
    return f"{type(error).__name__}{place}: {str(error).partition(chr(10))[0]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Choices of a run."""

    models: Sequence[str]
    batches: Sequence[int]
    layers: int | None
    prompt: int
    seconds: float
    tiny: bool


def modes(device: str) -> tuple[str, ...]:
    """Return the modes that a device has."""
    return MODES if device != "cpu" else MODES[:1]


def rows(plan: Plan, device: str) -> Iterator[Row]:
    """Measure model by model; rows for which no time was left say so."""
    begun = time.monotonic()
    for name in plan.models:
        of_layers = SHAPES[name].arguments["num_hidden_layers"]
        planned = [
            Row(name, 0, of_layers, 0, {}, phase, mode, size, plan.prompt, {}, reason=LATE)
            for size in plan.batches
            for phase in PHASES
            for mode in modes(device)
        ]
        if time.monotonic() - begun > plan.seconds:
            yield from planned
            continue
        model = build(name, device, layers=plan.layers, tiny=plan.tiny)
        with torch.inference_mode(), swapped(model) as models:
            batch = None
            for row in planned:
                if time.monotonic() - begun > plan.seconds:
                    yield row
                    continue
                if batch is None or len(batch.prompt) != row.batch:
                    batch = batch_of(model.body.config, row.batch, plan.prompt, device)
                of = replace(
                    row,
                    layers=model.body.config.num_hidden_layers,
                    norms=len(models.swap.replaced),
                    unknown=models.swap.unknown,
                    reason="",
                )
                yield measured(of, models, batch)
                let_go()
        del model, models, batch
        let_go()


def let_go() -> None:
    """Return the memory of graphs and caches that are no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@click.command()
@click.option("--model", "models", type=click.Choice([*SHAPES]), multiple=True, help="By default all.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Sequences. More than once.")
@click.option("--layers", type=click.IntRange(4), help="Layers of each model, if it has more.")
@click.option("--prompt", type=click.IntRange(1), default=PROMPT, show_default=True, help="Tokens of each prompt.")
@click.option("--seconds", default=240.0, show_default=True, help="Begin no row after that.")
@click.option("--tiny", is_flag=True, help="Narrow models, on whatever there is: shows that all of it runs.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=OUT, show_default=True)
def main(models: Sequence[str], batches: Sequence[int], out: Path, *, tiny: bool, **rest: Any) -> None:  # noqa: ANN401
    """Print a table of milliseconds and distances, and write its rows as JSON, a line each, after a header."""
    device = choose_device()
    if device == "cpu":
        faithful_interpreter()
        # narrow models: threads would wait for each other most of the time
        single_threaded()
    plan = Plan(models or tuple(SHAPES), batches or ((2,) if tiny else BATCHES), tiny=tiny, **rest)
    header = environment(device) | {"transformers": transformers.__version__, "clock": "the host's, around waits"}
    out.parent.mkdir(parents=True, exist_ok=True)
    click.echo(f"{machine(header)}, transformers {transformers.__version__}; prompts of {plan.prompt} tokens, ms")
    click.echo(in_columns(HEADINGS))
    with out.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"header": header}) + "\n")
        for row in rows(plan, device):
            file.write(json.dumps(asdict(row), allow_nan=False) + "\n")
            file.flush()
            click.echo(line(row))


if __name__ == "__main__":
    main()
