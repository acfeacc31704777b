"""``conform run``."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

import conformance
from conformance import report
from conformance.adapter import UsageError
from conformance.calls.budget import FOR_EACH, MOST_WORKERS, default_workers, gib
from conformance.calls.child import single_threaded
from conformance.cli import options
from conformance.cli.display import Display
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.runs import again, forkserver, settings
from conformance.runs.host import preload
from conformance.runs.item import PROFILES, Profile, items
from conformance.runs.options import arguments
from conformance.runs.waivers import Run
from conformance.runs.waivers import load as load_waivers

MANY = 48  # chunks of a session: to list more takes longer than to start again


@click.command()
@options.target
@options.option("op", "operations")
@options.places
@options.properties
@options.device
@options.profile
@click.option(
    "-n",
    "workers",
    type=click.IntRange(min=1),
    help=f"Processes. Default: one a core, at most {MOST_WORKERS}; more with {gib(FOR_EACH)} of a GPU for each.",
)
@options.seed
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="M",
    help="After the profile judge chunks of cases beyond it; none begins after M minutes. "
    f"Default: {PROFILES['nightly'].minutes:g} for nightly, otherwise 0.",
)
@options.option("chunk")
@options.option("waivers")
@click.option("-x", "--exitfirst", is_flag=True, help="Stop at the first failure.")
@click.option("--last-failed", is_flag=True, help="Judge only what fails in the report of the folder, that first.")
@options.import_limit
@options.report_folder
def run(
    target: str,
    operations: tuple[str, ...],
    places: tuple[str, ...],
    properties: tuple[str, ...],
    device: str | None,
    profile: str,
    workers: int | None,
    seed: int,
    minutes: float | None,
    chunk: int | None,
    waivers: Path | None,
    import_limit: float,
    directory: Path,
    *,
    exitfirst: bool,
    last_failed: bool,
) -> int:
    """Judge TARGET: a known adapter (conform list), package.module:Class or file.py:Class.

    :Class may be left out where there is one adapter. What is not given here is read from conform.toml, or from
    [tool.conform] in pyproject.toml, of the current folder: the keys are target, device, import-limit, op,
    operations, profile, property, report, seed and waivers.
    """
    chosen = options.chosen_device(device)
    options.use(places)
    options.named("--op", operations, OPERATIONS)
    options.named("--property", properties, PROPERTIES)
    if waivers is not None:
        load_waivers(waivers, Run(chosen, profile))
    if chunk is not None and minutes:
        raise UsageError("--chunk and --minutes: a single chunk has its own end, give one of them")
    if last_failed and (chunk is not None or minutes):
        raise UsageError("--last-failed: judges a profile again; leave --chunk and --minutes out")
    failed = _failed_before(directory) if last_failed else None
    if workers != 1:
        single_threaded()
        preload(chosen)
    host = options.host(target, chosen, operations, PROFILES[profile].limit, import_limit, seed)
    if not items(host.subject, profile, operations=operations, properties=properties, chunk=chunk):
        raise UsageError(f"--chunk {chunk}: nothing to judge, what was chosen has no cases in that chunk")
    options.prepared(directory)
    number_of_workers = workers or default_workers(len(os.sched_getaffinity(0)), host.greeting.gpu_memory)
    given = {"adapter": target, "device": chosen, "profile": profile, "seed": seed, "report": directory}
    given |= {"import-limit": import_limit, "op": operations, "property": properties, "waivers": waivers}
    given |= {"operations": places, "options-from": _file_of_options()}
    os.environ.pop("PYTEST_ADDOPTS", None)
    with contextlib.ExitStack() as ending:
        processes = list[str]()
        if number_of_workers > 1:
            # each worker has its own
            host.close()
            processes = ending.enter_context(forkserver.workers(number_of_workers))
        display = Display(Console(stderr=True))
        journals = ending.enter_context(tempfile.TemporaryDirectory(prefix="journal-", dir=directory))
        if failed is not None:
            named = Path(journals) / "again.json"
            again.write(failed, named)
            given["again"] = named
        for number, count, until in _sessions(PROFILES[profile], chunk, minutes):
            of_session = {"journal": journals, "chunk": number, "chunks": count, "until": until}
            asked_for = arguments({**given, **of_session})
            command = [*_pytest(processes, directory, number), *["-x"] * exitfirst, *asked_for]
            status = pytest.main(command, plugins=[display.of_chunks(number, count), host])
            if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
                break
    return _ended(directory / "report.json", status, display)


def _file_of_options() -> str | None:
    """Return the name of the file that options were read from."""
    found = click.get_current_context().find_object(settings.Settings)
    return found.file or None if found else None


def _failed_before(directory: Path) -> again.Again:
    """Return what fails in the report of a folder. Raises ``UsageError`` where there is none, or no failure."""
    path = directory / "report.json"
    failed = again.of_failures(options.read_report(path).failures)
    if not failed:
        raise UsageError(f"--last-failed: nothing fails in {path}, leave it out to judge everything")
    return failed


def _sessions(
    profile: Profile, only: int | None, minutes: float | None
) -> Iterator[tuple[int | None, int, float | None]]:
    """Yield the first chunk of every session of pytest, how many it has at most, and the moment of its last begin.

    This is the chunk asked for; or None for a whole profile, which is judged to its end, then chunks beyond it
    until the time is up. A session begins with processes that import everything, and therefore has many chunks.
    """
    until = time.time() + 60 * (profile.minutes if minutes is None else minutes)
    yield only, 1, None
    number = profile.chunks
    while only is None and time.time() < until:
        yield number, MANY, until
        number += MANY


def _pytest(processes: list[str], directory: Path, chunk: int | None) -> list[str]:
    """Return arguments that make pytest run the suite alone: no other configuration, plugin or conftest.py.

    ``processes`` are those that start workers, none in one process.
    """
    suite = Path(conformance.__file__).parent / "suite"
    arguments = ["--pyargs", "conformance.suite", "-c", os.devnull, "--rootdir", str(suite), "--noconftest"]
    arguments += ["--disable-plugin-autoload", "-p", "conformance.plugin", "-p", "no:cacheprovider"]
    # the suite prints its own summary
    arguments += ["-p", "no:terminalreporter", "--assert=plain"]
    arguments.append(f"--junitxml={directory / ('junit.xml' if chunk is None else f'junit-{chunk}.xml')}")
    if processes:
        arguments += ["-p", "xdist.plugin", *processes, "--maxschedchunk=1"]
    return arguments


def _ended(path: Path, status: int, display: Display) -> int:
    """Show the report and return its exit code; without a report the suite itself failed."""
    display.close()
    if not path.exists():
        if status == pytest.ExitCode.INTERRUPTED:
            click.echo("conform: interrupted before anything was judged", err=True)
            return report.Exit.INTERRUPTED
        click.echo("\n".join([*display.errors([]), "conform: the run ended without a report"]), err=True)
        return report.Exit.USAGE if status == pytest.ExitCode.USAGE_ERROR else report.Exit.BROKEN
    made = report.read(path)
    # an item that a failure stopped is unfinished, and its failure is in the report
    failed = again.of_failures(made.failures)
    unfinished = [each.item for each in made.footer.unfinished if each.item.rpartition("/")[0] not in failed]
    for error in display.errors(unfinished):
        click.echo(error, err=True)
    report.show(path)
    return made.footer.exit_code
