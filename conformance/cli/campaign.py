"""``conform campaign``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from conformance import report
from conformance.adapter import UsageError, split
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.report import chunks, costs, merging, world
from conformance.runs.campaign.executors import Cluster, Executor, Here
from conformance.runs.campaign.queue import Queue, numbers, to_judge
from conformance.runs.campaign.task import Result, Task
from conformance.runs.item import PROFILES
from conformance.runs.options import arguments, command
from conformance.runs.waivers import Run
from conformance.runs.waivers import load as load_waivers


def _numbers(context: click.Context, param: click.Parameter, value: str | None) -> range | None:
    try:
        return None if value is None else numbers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@options.target
@options.option("op", "operations")
@options.places
@options.properties
@options.device
@options.profile
@options.seed
@click.option(
    "--chunks",
    "wanted",
    metavar="N|A-B",
    callback=_numbers,
    help="Judge the first N chunks, or those from A to B: first the profile's, then others with new cases.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="M",
    help="Begin no further chunk after M minutes. Default: without an end.",
)
@click.option("--ray", "address", metavar="ADDRESS", help="Judge on the machines of this Ray cluster, or of auto.")
@click.option(
    "-n",
    "workers",
    type=click.IntRange(min=1),
    help="Processes of each chunk. Default: as conform run has; on a cluster 1.",
)
@options.option("waivers")
@click.option("-x", "--exitfirst", is_flag=True, help="Begin no further chunk after the first that fails.")
@options.import_limit
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/campaign"),
    show_default=True,
    metavar="DIR",
    help="Folder of the campaign: its chunks, and report.json and report.html of all of them.",
)
def campaign(
    target: str,
    operations: tuple[str, ...],
    places: tuple[str, ...],
    properties: tuple[str, ...],
    device: str | None,
    profile: str,
    seed: int,
    wanted: range | None,
    minutes: float | None,
    address: str | None,
    workers: int | None,
    waivers: Path | None,
    import_limit: float,
    directory: Path,
    *,
    exitfirst: bool,
) -> int:
    """Judge numbered chunks of TARGET, here or on a cluster, and add up their reports; go on where it ended.

    Each chunk is a conform run --chunk of its own. Chunks that the folder has are not judged again: to go on after
    an interruption give the same command, for more chunks a larger number. All machines need the same versions,
    and TARGET at the same path.
    """
    if wanted is None and minutes is None:
        raise UsageError(
            "--chunks N says how many chunks are judged, or --minutes M for how long: give one of them"
        )
    options.use(places)
    options.named("--op", operations, OPERATIONS)
    options.named("--property", properties, PROPERTIES)
    executor: Executor = Cluster(address, workers or 1, device) if address else Here(options.chosen_device(device))
    begun: list[Path] = []
    try:
        given: dict[str, object] = {"device": executor.device, "profile": profile, "seed": seed}
        given |= {"op": operations, "property": properties, "operations": places}
        given |= {"waivers": waivers and str(waivers)}
        run = Run(executor.device, profile, operations or tuple(OPERATIONS), properties or tuple(PROPERTIES))
        held = load_waivers(waivers, run).held if waivers else ()
        files = [Path(place) for place in (split(target)[0], *places, str(waivers or "")) if Path(place).is_file()]
        chunks.begin(directory, {"target": target, **given}, files)
        made = [
            target,
            *arguments({**given, "import-limit": import_limit}),
            *(["-n", str(workers or 1)] if address or workers else []),
        ]
        until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        queue = Queue(to_judge(wanted, chunks.done(directory), profile, properties), until)
        interrupted = _judged(executor, queue, tuple(made), directory, begun, exitfirst=exitfirst)
        state = _state(executor, queue, wanted, directory, profile, properties)
    finally:
        executor.close()
        chunks.tidy(directory, begun)
    again = _command(target, given, chunks.done(directory))
    code = _merged(directory, state, held, profile, again)
    return report.Exit.INTERRUPTED if interrupted else code


def _judged(
    executor: Executor,
    queue: Queue,
    made: tuple[str, ...],
    directory: Path,
    begun: list[Path],
    *,
    exitfirst: bool,
) -> bool:
    """Judge chunks until the queue is empty, keep their reports, and return whether that was interrupted.

    The folders of all tasks are added to ``begun``.
    """

    def take() -> Task | None:
        number = queue.take()
        if number is None:
            return None
        begun.append(chunks.place_of(directory, number))
        return Task(number, made, str(Path.cwd()), str(begun[-1]))

    known = chunks.done(directory)
    first = chunks.chunk(directory, min(known)) if known else None
    try:
        for result in executor.results(take):
            found = chunks.accept(directory, result, first)
            click.echo(report.printable(_told(result, found)), err=True)
            if found is None:
                queue.came_back(result.task.chunk)
                continue
            first = first or found
            if exitfirst and found.report.footer.exit_code == report.Exit.FAILED:
                queue.stopped = True
    except KeyboardInterrupt:
        return True
    return False


def _told(result: Result, found: chunks.Chunk | None) -> str:
    """Return the end of a task in words. Raises ``UsageError`` where no chunk can be judged so."""
    name = f"chunk {result.task.chunk}"
    if result.status == report.Exit.USAGE:
        raise UsageError(f"{name}, on {result.node}: {result.said.removeprefix('conform: ')}")
    if found is None:
        return f"{name} has no report: {result.said or 'its machine was lost'}"
    footer = found.report.footer
    return f"{name}, {found.node}: {world.verdict(found.report)}; {footer.cases:,} cases in {found.seconds:g} s"


def _state(
    executor: Executor,
    queue: Queue,
    wanted: range | None,
    directory: Path,
    profile: str,
    properties: tuple[str, ...],
) -> costs.State:
    left = None if wanted is None else len(list(to_judge(wanted, chunks.done(directory), profile, properties)))
    unit = "GPU" if executor.device == "cuda" else "task"
    return costs.State(left, executor.slots(), unit, queue.lost, tuple(queue.given_up))


def _command(target: str, given: Mapping[str, object], numbers: set[int]) -> str:
    """Return the command that judges some chunks; nothing where these are no single range."""
    if not numbers or len(numbers) <= max(numbers) - min(numbers):
        return ""
    return f"{command(target, given, 'campaign')} --chunks {min(numbers)}-{max(numbers)}"


def _merged(directory: Path, state: costs.State, held: tuple[int, ...], profile: str, made_by: str) -> int:
    """Write the report of all chunks and what they cost, show both, and return the exit status."""
    spent: list[costs.Spent] = []

    def each() -> Iterator[tuple[int, report.Report]]:
        # one at a time: a campaign may have thousands
        for chunk in chunks.chunks(directory):
            spent.append(costs.spent(chunk))
            yield chunk.number, chunk.report

    # a part of the profile may lack what waivers expect of the others
    whole = set(range(PROFILES[profile].chunks)) <= chunks.done(directory)
    made = merging.merged(each(), held if whole else (), made_by)
    cost = costs.section(spent, state)
    if made is None:
        click.echo("conform: no chunk was judged", err=True)
        return report.Exit.BROKEN if state.given_up else report.Exit.NOTHING_JUDGED
    path = report.write(directory, made)
    report.write_section(directory, "campaign", cost)
    report.write_page(path)
    report.show(path)
    report.show_section(cost, str(directory / chunks.CHUNKS))
    return report.Exit.BROKEN if state.given_up else made.footer.exit_code
