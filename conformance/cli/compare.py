"""``conform compare``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from conformance import report
from conformance.adapter import UsageError
from conformance.cli import options


@click.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the differences into FILE as a page.",
)
def compare(a: Path, b: Path, html: Path | None) -> int:
    """Show in what two reports differ: header, and rows with other verdicts, worst error or exact share.

    A and B are a report.json or the folder that it lies in. Rows that got worse from A to B come first. Exit 1 if
    a row differs, 0 if none does: another commit or machine alone is no difference.
    """
    first, second = options.read_report(a), options.read_report(b)
    results = report.differences.of_results(first, second)
    if html is not None:
        command = shlex.join(["conform", "compare", str(a), str(b), "--html", str(html)])
        try:
            html.write_text(report.compared(first, second, (str(a), str(b)), command), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {html}: cannot be written: {error.strerror}") from error
    table = Table("", str(a), str(b), box=None, header_style="bold")
    for found in (*report.differences.of_headers(first, second), *results):
        table.add_row(found.what, found.first, found.second)
    Console(highlight=False, markup=False).print(table if table.row_count else "no difference")
    return report.Exit.FAILED if results else report.Exit.HOLDS
