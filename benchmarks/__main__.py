"""``python -m benchmarks``: judge, time and compare all implementations; ``draw`` makes pictures of a result."""

from __future__ import annotations

import fnmatch
import gc
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks import results as written
from benchmarks.ahead import NOTHING, Ahead, judge_ahead, one_thread, workers_for
from benchmarks.draw import draw as drawn
from benchmarks.environment import clocks, environment, highest
from benchmarks.measure import SMOKE, Effort, implementations, measure
from benchmarks.peers import OURS, PEERS
from benchmarks.results import Results
from benchmarks.shapes import Workload, workloads
from benchmarks.table import line, show
from conformance.runs.host import choose_device, faithful_interpreter

OUT = "build/benchmarks/results.json"
# limits for Triton's interpreter
CPU_BYTES = 10**6
# rows: asking takes a process, and the answer hardly changes
CLOCKS_EVERY = 4


@click.group(invoke_without_command=True)
@click.option("--only", metavar="PATTERN", multiple=True, help="Workloads to run, as 'gated *'. More than once.")
@click.option("--peers", metavar="NAMES", help=f"Whom to run beside ours: {', '.join(PEERS)}. By default all.")
@click.option("--budget", metavar="SECONDS", type=float, help="Begin no workload after that.")
@click.option("--rounds", type=click.IntRange(1), help="How often each graph is replayed.")
@click.option(
    "--ahead", metavar="N", type=click.IntRange(0), help="Processes that judge before anything is timed."
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.pass_context
def cli(
    context: click.Context,
    only: tuple[str, ...],
    peers: str | None,
    budget: float | None,
    rounds: int | None,
    ahead: int | None,
    out: Path,
) -> None:
    """Judge and time every workload, the most telling first, and write the result after each."""
    if context.invoked_subcommand is None:
        run(chosen(only), named(peers), out, budget=budget, rounds=rounds, workers=ahead)


@cli.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--to", "folder", metavar="DIR", type=click.Path(path_type=Path), help="By default beside RESULT.")
def draw(result: Path, folder: Path | None) -> None:
    """Draw a result: time against size, share of the ceiling, host time."""
    for path in drawn(_read(result), folder or result.parent):
        click.echo(path)


@cli.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def table(result: Path) -> None:
    """Show the tables of a result."""
    show(_read(result), _console())


def _read(result: Path) -> Results:
    try:
        return written.read(result)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _console() -> Console:
    """Return a console that is as wide as the tables if the output is a file, so that nothing is cut off."""
    return Console() if sys.stdout.isatty() else Console(width=260)


def chosen(patterns: tuple[str, ...]) -> tuple[Workload, ...]:
    """Return the workloads whose names match one of the patterns; without patterns, all of them."""
    every = workloads()
    found = tuple(w for w in every if not patterns or any(fnmatch.fnmatchcase(w.name, p) for p in patterns))
    if not found:
        names = ", ".join(workload.name for workload in every)
        raise click.UsageError(f"--only {' '.join(patterns)}: matches no workload of {names}")
    return found


def named(peers: str | None) -> tuple[str, ...]:
    """Return the peers of a comma-separated list; without a list, all of them."""
    names = tuple(PEERS) if peers is None else tuple(name.strip() for name in peers.split(",") if name.strip())
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise click.UsageError(f"--peers {', '.join(unknown)}: must be among {', '.join(PEERS)}")
    return names


def run(
    todo: tuple[Workload, ...],
    peers: tuple[str, ...],
    out: Path,
    *,
    budget: float | None = None,
    rounds: int | None = None,
    workers: int | None = None,
) -> Results:
    """Judge in worker processes, then measure workload by workload; ``out`` always has the results so far."""
    device = choose_device()
    effort = Effort() if device != "cpu" else SMOKE
    effort = effort if rounds is None else replace(effort, rounds=rounds)
    if device == "cpu":
        faithful_interpreter()
    results = Results(environment(device), ())
    console = _console()
    began = time.monotonic()
    # two threads that import parts of a package at once may see a partly initialised module
    importlib.import_module("torch._inductor.utils")
    with ThreadPoolExecutor(1) as beside:
        # some packages take as long to import as some judgements to be made
        loading = beside.submit(implementations, peers)
        workers = workers_for(device) if workers is None else workers
        before = _judged_before(todo, peers, device, effort, workers, None if budget is None else budget / 2)
        those = loading.result()
    for lost in before.lost:
        console.print(f"judged again, alone: {lost}", markup=False)
    told = {"workers": before.workers, "seconds": round(before.seconds, 1), "lost": list(before.lost)}
    results = replace(results, header={**results.header, "ahead": told})
    console.print(f"{len(before.judged)} judgements of {before.workers} processes in {before.seconds:.0f} s")
    seen = clocks()
    if device != "cpu":
        # imported modules stay: without freezing, garbage collection takes seconds in all
        gc.freeze()
    for place, workload in enumerate(todo):
        late = budget is not None and time.monotonic() - began > budget
        if late or (device == "cpu" and workload.bytes > CPU_BYTES):
            results = replace(results, left_out=(*results.left_out, workload.name))
            continue
        try:
            row = measure(workload, those, device, effort, before.of(workload))
        except torch.OutOfMemoryError as error:
            console.print(f"{workload.name}: {error}", markup=False)
            results = replace(results, left_out=(*results.left_out, workload.name))
            continue
        if place % CLOCKS_EVERY == 0:
            seen = highest(seen, clocks())
        results = replace(results, header={**results.header, "clocks": seen}, rows=(*results.rows, row))
        written.write(results, out)
        said = " | ".join(line(results.rows, row))
        spent = ", ".join(f"{what} {seconds:.1f}" for what, seconds in row.seconds.items())
        console.print(f"{place + 1}/{len(todo)} {time.monotonic() - began:.0f} s ({spent}): {said}", markup=False)
    written.write(results, out)
    show(results, console)
    return results


def _judged_before(
    todo: tuple[Workload, ...],
    peers: tuple[str, ...],
    device: str,
    effort: Effort,
    workers: int,
    seconds: float | None,
) -> Ahead:
    """Return the judgements of the workers, if there are any; other workloads are judged when they are timed."""
    small = tuple(workload for workload in todo if device != "cpu" or workload.bytes <= CPU_BYTES)
    if not workers or not small:
        return NOTHING
    # little is left to compile here
    one_thread()
    targets = {OURS: OURS, **{name: PEERS[name] for name in peers}}
    return judge_ahead(small, targets, device, effort.crowd, min(workers, len(small)), seconds=seconds)


if __name__ == "__main__":
    cli(prog_name="python -m benchmarks")
