"""``python -m benchmarks.sweep``: every feasible launch plan compared with the one that runs today.

A plan whose bits differ from today's is a bug, and is not timed. Times are of cold inputs, by graph replay,
together with those of ceilings. The result is written after each size.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import ceilings
from benchmarks.candidates import QUANT_GROUP, Series, Size, candidates, chosen, label, sizes
from benchmarks.environment import clocks, environment, highest
from benchmarks.measure import set_count
from benchmarks.timing import Timing, device_times
from conformance.runs.host import choose_device, faithful_interpreter
from normkernels.launch import Launches
from normkernels.operations.operation import OPERATIONS
from normkernels.plans import Plan

OUT = "build/benchmarks/sweep.json"
EPS = 1e-6
# ratio that counts as equally fast: the difference between several runs of one plan
NOISE = 1.02
QUANTISED: Mapping[str, Any] = {"quant_group": QUANT_GROUP, "fp8_dtype": torch.float8_e4m3fn}
SECTIONS = {32: (11, 11, 10), 64: (16, 24, 24)}

Launch = Callable[[Plan], object]
Tried = tuple[Series, str]  # plans by label, for all sizes that share a kernel


@dataclass(frozen=True, slots=True)
class Problem:
    """One set of inputs and outputs of a kernel, with its launch and its results."""

    launch: Launch
    written: tuple[torch.Tensor, ...]
    originals: tuple[torch.Tensor, ...] = ()  # originals of inputs that the kernel overwrites

    def reset(self) -> None:
        """Restore the inputs; fill outputs, of which every element must be written, with NaN."""
        for place, tensor in enumerate(self.written):
            if self.originals:
                tensor.copy_(self.originals[place])
            else:
                tensor.view(torch.uint8).fill_(255)


@dataclass(frozen=True, slots=True)
class Swept:
    """Cold times of each plan at a size, by label, and of the ceilings; plans that changed bits."""

    size: Size
    today: str
    times: Mapping[str, Timing]
    ceilings: Mapping[str, Timing]
    differing: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """Return the fastest plan."""
        return min(self.times, key=lambda name: self.times[name].median)

    @property
    def loss(self) -> float:
        """Return today's time over the best one."""
        return self.times[self.today].median / self.times[self.best].median

    @property
    def share(self) -> float:
        """Return the share of its ceiling's bandwidth that the best plan reaches."""
        return self.ceilings[self.size.ceiling].median / self.times[self.best].median


# --- what is launched -------------------------------------------------------------------------------------------


def problem(size: Size, device: str) -> Problem:
    """Make random inputs of a size, without special values, and the launch of its kernel."""
    make = {
        "gated 128": _gated,
        "gated": _gated,
        "gated fp8": _gated_fp8,
        "norm": _norm,
        "norm fp8": _norm_fp8,
        "mrope": _rotation,
    }
    return make[size.kernel](size, device)


def _random(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)


# Any: the arguments of any operation
def _launched(name: str, *tensors: torch.Tensor, in_place: bool = False, **others: Any) -> Problem:  # noqa: ANN401
    """Return the launch of an operation's kernel, by Triton, on ``tensors`` and newly allocated results."""
    operation = OPERATIONS[name]
    bound = operation.signature.bind(*tensors, **others)
    bound.apply_defaults()
    flags = operation.resolve(bound.arguments)
    buffers = operation.buffers([bound.arguments[each] for each in operation.tensors], flags)
    counts, arguments = operation.counts(buffers, flags), functools.partial(operation.arguments, flags)
    results = operation.results(buffers)
    written = (results,) if isinstance(results, torch.Tensor) else tuple(results)
    device = written[0].device

    def launch(plan: Plan) -> None:
        Launches(device, lambda _rows: plan, arguments, operation.anywhere).start(buffers, counts)

    return Problem(launch, written, tuple(each.clone() for each in written) if in_place else ())


def _gated(size: Size, device: str) -> Problem:
    # a slice of a projection: rows with gaps that keep 16-byte loads
    gap = 8 if size.form == "strided" else 0
    x, gate = (_random(size.rows, size.width + gap, device=device)[:, : size.width] for _ in range(2))
    return _launched("rms_norm_gated", x, gate, _random(size.width, device=device), eps=EPS)


def _gated_fp8(size: Size, device: str) -> Problem:
    x, gate = (_random(size.rows, size.width, device=device) for _ in range(2))
    return _launched("rms_norm_gated_fp8", x, gate, _random(size.width, device=device), eps=EPS, **QUANTISED)


def _norm(size: Size, device: str) -> Problem:
    return _launched("gemma_rms_norm", *_rows(size, device), **_residual(size, device), eps=EPS)


def _norm_fp8(size: Size, device: str) -> Problem:
    others = {**_residual(size, device), **QUANTISED}
    return _launched("rms_norm_fp8", *_rows(size, device), weight_offset=1.0, eps=EPS, **others)


def _rows(size: Size, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    return _random(size.rows, size.width, device=device), _random(size.width, device=device)


def _residual(size: Size, device: str) -> dict[str, Any]:
    return {"residual": _random(size.rows, size.width, device=device)} if size.form == "residual" else {}


def _rotation(size: Size, device: str) -> Problem:
    q, k = (_random(size.rows, heads, size.width, device=device) for heads in size.heads)
    # positions of text; each axis has its own tensor of positions
    positions = torch.arange(size.rows, device=device).repeat(3, 1)
    angles = torch.rand((size.rows, size.half), device=device) * 6.28
    given = (q, k, positions, angles.cos(), angles.sin())
    in_place = size.form == "in place"
    return _launched("mrope_" if in_place else "mrope", *given, in_place=in_place, sections=SECTIONS[size.half])


# --- what is measured -------------------------------------------------------------------------------------------


def compile_ahead(wanted: Sequence[Size], device: str, threads: int | None = None) -> dict[Tried, str]:
    """Compile every candidate; return the reasons of those that could not be launched, by series and label.

    Triton's passes and the assembler run in parallel, Python does not. Sizes that differ only in rows share
    their kernels.
    """
    smallest = {size.series: size for size in sorted(wanted, key=lambda one: -one.rows)}
    problems = {series: problem(size, device) for series, size in smallest.items()}
    work = {(size.series, label(plan)): plan for size in wanted for plan in candidates(size)}

    def build(one: tuple[Tried, Plan]) -> str:
        (series, _), plan = one
        try:
            problems[series].launch(plan)
        except Exception as error:  # noqa: BLE001 - a plan that a compiler or a driver refuses is left out
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return ""

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        said = dict(zip(work, pool.map(build, work.items()), strict=True))
    return {one: why for one, why in said.items() if why}


def sweep(size: Size, device: str, rounds: int, refused: Collection[Tried] = ()) -> Swept:
    """Time every candidate of one size that was not refused and whose bits are today's."""
    # one pass must last long enough: in a second pass small inputs would not be cold
    sets = set_count(size.bytes) if device != "cpu" else 2
    problems = [problem(size, device) for _ in range(sets)]
    tried = {label(plan): plan for plan in candidates(size) if (size.series, label(plan)) not in refused}
    today = chosen(size)
    same = same_bits(problems[0], today, tried)
    calls: dict[str, list[Callable[[], object]]] = {
        name: [functools.partial(each.launch, plan) for each in problems]
        for name, plan in tried.items()
        if same[name]
    }
    limits = ceilings.memory(size.bytes, sets, device)
    times = device_times(calls | limits, rounds=rounds)
    differing = tuple(name for name in tried if not same[name])
    measured = {name: times[name] for name in calls}
    limited = ceilings.highest({name: times[name] for name in limits})
    return Swept(size, label(today), measured, limited, differing)


def same_bits(one: Problem, today: Plan, tried: Mapping[str, Plan]) -> dict[str, bool]:
    """Return for each plan whether it writes the bits of today's plan."""
    want = _written(one, today)
    return {name: all(map(torch.equal, want, _written(one, plan))) for name, plan in tried.items()}


def _written(one: Problem, plan: Plan) -> list[torch.Tensor]:
    """Return a plan's results as bytes: NaN equals itself, and zeros differ by their signs."""
    one.reset()
    one.launch(plan)
    return [tensor.clone().view(torch.uint8) for tensor in one.written]


# --- what follows from it --------------------------------------------------------------------------------------


def proposed(swept: Iterable[Swept]) -> dict[str, list[tuple[int, str]]]:
    """Propose row thresholds and plans: as few per kernel and width as stay within the noise of the best.

    From the fewest rows on, take the plan that stays within the noise longest; among equals, the least loss.
    """
    ordered = sorted(swept, key=lambda one: (one.size.series, one.size.rows))
    tables = {}
    for _, group in groupby(ordered, key=lambda one: one.size.series):
        rest, table = list(group), []
        name = rest[0].size.name.replace(f"{rest[0].size.rows}x", "rows x ", 1)
        while rest:
            reach = {plan: _reach(plan, rest) for plan in rest[0].times}
            plan = max(reach, key=lambda one: (reach[one], -_losses(one, rest[: reach[one]])))
            table.append((rest[0].size.rows, plan))
            rest = rest[reach[plan] :]
        tables[name] = table
    return tables


def _reach(plan: str, rest: Sequence[Swept]) -> int:
    """Count the sizes, from the first on, at which a plan is as fast as the best."""
    for place, one in enumerate(rest):
        if plan not in one.times or one.times[plan].median > NOISE * one.times[one.best].median:
            return place
    return len(rest)


def _losses(plan: str, those: Sequence[Swept]) -> float:
    return sum(one.times[plan].median / one.times[one.best].median for one in those)


def line(one: Swept) -> str:
    """Return one size as a line of the table."""
    best, now = one.times[one.best].median, one.times[one.today].median
    other = f"  BITS DIFFER: {', '.join(one.differing)}" if one.differing else ""
    return (
        f"{one.size.name:38} {one.best:14} {best:9.2f}  {one.today:14} {now:9.2f} "
        f"{one.loss:7.3f} {one.share:6.1%} of {one.size.ceiling}{other}"
    )


def summary(swept: Sequence[Swept]) -> str:
    """Return the sizes at which today's plan loses more than the noise, and the plans that would not."""
    losing = [line(one) for one in swept if one.loss > NOISE]
    tables = [
        f"{name}: " + ", ".join(f"from {rows} {plan}" for rows, plan in table)
        for name, table in proposed(swept).items()
    ]
    return "\n".join(["", f"today's plan loses more than {NOISE - 1:.0%}:", *losing, "", "proposed:", *tables])


def to_data(header: Mapping[str, Any], swept: Sequence[Swept]) -> dict[str, Any]:
    """Return the result as JSON values."""
    return {"header": dict(header), "swept": [asdict(one) for one in swept], "proposed": proposed(swept)}


# --- the command ------------------------------------------------------------------------------------------------


@click.command()
@click.option("--only", metavar="PATTERN", multiple=True, help="Sizes, as 'gated 128 *'. More than once.")
@click.option("--budget", metavar="SECONDS", type=float, help="Begin no size after that.")
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(only: tuple[str, ...], budget: float | None, rounds: int, out: Path) -> None:
    """Time every feasible plan at every size, and propose a table."""
    device = choose_device()
    if device == "cpu":
        faithful_interpreter()
    torch.manual_seed(0)
    begun = time.monotonic()
    wanted = [size for size in sizes() if not only or any(fnmatch.fnmatch(size.name, each) for each in only)]
    if not wanted:
        raise click.BadParameter(f"{only} matches none of {', '.join(size.name for size in sizes())}")
    header = environment(device)
    refused = compile_ahead(wanted, device) if device != "cpu" else {}
    click.echo(f"compiled in {time.monotonic() - begun:.0f} s")
    for (series, plan), why in refused.items():
        click.echo(f"{series} {plan}: not tried, {why}")
    out.parent.mkdir(parents=True, exist_ok=True)
    click.echo(f"{'size':38} {'best':14} {'µs':>9}  {'today':14} {'µs':>9} {'ratio':>7}")
    swept: list[Swept] = []
    for size in wanted:
        if budget is not None and time.monotonic() - begun > budget:
            click.echo(f"{size.name} and what follows: not begun, the budget of {budget:.0f} s is spent")
            break
        swept.append(sweep(size, device, rounds, refused))
        click.echo(line(swept[-1]))
        header["clocks"] = highest(header["clocks"], clocks())
        out.write_text(json.dumps(to_data(header, swept)), encoding="utf-8")
    click.echo(summary(swept))


if __name__ == "__main__":
    main()
