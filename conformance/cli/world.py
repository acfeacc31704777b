"""``conform world``."""

from __future__ import annotations

from pathlib import Path

import click

from conformance import report
from conformance.adapter import KNOWN
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.report import world as matrix
from conformance.runs import lanes


@click.command()
@click.argument("adapters", nargs=-1, metavar="[ADAPTER]...", shell_complete=options.completing(KNOWN))
@options.option("op", "operations")
@options.properties
@click.option(
    "--lane",
    "devices",
    type=click.Choice(("cpu", "cuda")),
    multiple=True,
    help="Where to judge. Default: on the CPU, and on a GPU where there is one.",
)
@options.profile
@click.option("-n", "workers", type=click.IntRange(min=1), help="Processes of each run.")
@options.seed
@click.option(
    "--waivers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder with a file of known failures for each adapter that has some, called ADAPTER.toml.",
)
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/world"),
    show_default=True,
    metavar="DIR",
    help="Folder of the reports, ADAPTER_LANE.json.",
)
@click.option(
    "--page", type=click.Path(dir_okay=False, path_type=Path), help="Page to write. Default: DIR/world.md."
)
@click.option("--read", is_flag=True, help="Judge nothing: write the page from the reports of the folder.")
def world(
    adapters: tuple[str, ...],
    operations: tuple[str, ...],
    properties: tuple[str, ...],
    devices: tuple[str, ...],
    profile: str,
    workers: int | None,
    seed: int,
    waivers: Path | None,
    directory: Path,
    page: Path | None,
    *,
    read: bool,
) -> int:
    """Judge known adapters, each in a run of its own on each lane, and write them side by side into one page.

    Without ADAPTER all those are judged whose package is installed. Exit 1 if a run found something that no
    waiver expects, 3 if nothing was judged.
    """
    options.named("ADAPTER", adapters, KNOWN)
    options.named("--op", operations, OPERATIONS)
    options.named("--property", properties, PROPERTIES)
    missing = lanes.missing(adapters or tuple(KNOWN))
    chosen = [name for name in adapters or tuple(KNOWN) if name not in missing]
    statuses: list[int] = []
    if not read:
        here = options.chosen_device(None)
        given = ["--profile", profile, "--seed", str(seed), *(("-n", str(workers)) if workers else ())]
        given += [text for name in operations for text in ("--op", name)]
        given += [text for name in properties for text in ("--property", name)]
        files = {path.stem: path for path in waivers.glob("*.toml")} if waivers else {}
        options.prepared(directory)
        planned = lanes.planned(chosen, devices or tuple(dict.fromkeys(("cpu", here))), given, directory, files)
        # what an earlier command left of the other lanes stays
        for lane in planned:
            (directory / f"{lane.folder.name}.json").unlink(missing_ok=True)
        for ended in lanes.ran(planned):
            statuses.append(ended.status)
            made, kept = ended.lane.folder / "report.json", directory / f"{ended.lane.folder.name}.json"
            if made.exists():
                made.replace(kept)
            # without a report the last line says why
            said = matrix.verdict(options.read_report(kept)) if kept.exists() else ended.said
            click.echo(report.printable(f"{ended.lane.adapter}, {ended.lane.device}: {said}"))
        for name, reason in missing.items():
            click.echo(f"{name}: {reason}")
    found = reports_of_lanes(directory)
    without = missing if not read else {n: "no report" for n in KNOWN if n not in {each.name for each in found}}
    written = page or directory / "world.md"
    written.write_text(matrix.page(found, without), encoding="utf-8")
    click.echo(f"{written}: {len(found)} reports")
    wrong = [status for status in statuses if status not in {report.Exit.HOLDS, report.Exit.NOTHING_JUDGED}]
    if wrong:
        return report.Exit.BROKEN if report.Exit.BROKEN in wrong else report.Exit.FAILED
    return report.Exit.HOLDS if found else report.Exit.NOTHING_JUDGED


def reports_of_lanes(directory: Path) -> list[matrix.Judged]:
    """Return the reports of a folder that are called after a known adapter and a lane, in the list's order."""
    return [
        matrix.Judged(name, lane, options.read_report(path))
        for name in KNOWN
        for lane in ("cpu", "cuda")
        if (path := directory / f"{name}_{lane}.json").is_file()
    ]
