"""``conform annotate``."""

from __future__ import annotations

from pathlib import Path

import click

from conformance import report
from conformance.adapter import UsageError
from conformance.cli import options
from conformance.report import github


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--target",
    metavar="TARGET",
    help="The adapter, as conform run was told it: its file is annotated.",
    shell_complete=options.completing(files=True),
)
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the report in Markdown to FILE, such as $GITHUB_STEP_SUMMARY.",
)
def annotate(folder: Path, target: str | None, summary: Path | None) -> None:
    """Print the report of DIR as commands of a workflow, by which GitHub annotates files."""
    made = options.read_report(folder)
    for line in github.commands(made, target, github.text_of):
        click.echo(report.printable(line))
    if summary is not None:
        try:
            with summary.open("a", encoding="utf-8") as file:
                file.write(github.summary(made))
        except OSError as error:
            raise UsageError(f"--summary {summary}: cannot be written: {error.strerror}") from error
