"""``conform compare``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from conformance import report
from conformance.cli import options


@click.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
def compare(a: Path, b: Path) -> int:
    """Show in what two reports differ: header, and rows with other verdicts, worst error or exact share.

    A and B are a report.json or the folder that it lies in. Exit 1 if a row differs, 0 if none does: another
    commit or machine alone is no difference.
    """
    first, second = options.read_report(a), options.read_report(b)
    results = report.differences.of_results(first, second)
    table = Table("", str(a), str(b), box=None, header_style="bold")
    for found in (*report.differences.of_headers(first, second), *results):
        table.add_row(found.what, found.first, found.second)
    Console(highlight=False, markup=False).print(table if table.row_count else "no difference")
    return report.Exit.FAILED if results else report.Exit.HOLDS
