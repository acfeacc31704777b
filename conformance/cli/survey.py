"""``conform survey``."""

from __future__ import annotations

import click

from conformance import report
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.runs import describe
from conformance.runs.item import PROFILES
from conformance.runs.judging import surveyed_by


@click.command()
@options.target
@options.option("op", "operations", "Survey this operation only; repeatable.")
@options.places
@options.profile
@options.seed
@options.device
@options.import_limit
def survey(
    target: str,
    operations: tuple[str, ...],
    places: tuple[str, ...],
    profile: str,
    seed: int,
    device: str | None,
    import_limit: float,
) -> int:
    """Find out which calls TARGET takes, and print that as a claim to paste into the adapter; judge nothing."""
    chosen = options.chosen_device(device)
    options.use(places)
    options.named("--op", operations, OPERATIONS)
    host = options.host(target, chosen, operations, PROFILES["ci"].limit, import_limit, seed)
    implemented = [name for name in operations or OPERATIONS if host.subject.traits(name).implemented]
    for name in implemented:
        found = surveyed_by(host, profile, seed, name)
        click.echo(report.printable(describe.found(name, found)))
    host.close()
    return report.Exit.HOLDS if implemented else report.Exit.NOTHING_JUDGED
