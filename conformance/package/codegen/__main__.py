"""``python -m conformance.package.codegen``: compile the kernels of ``normkernels``, and judge the code."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import click

from conformance import report
from conformance.package.codegen import document
from conformance.package.codegen.collect import collect
from conformance.package.codegen.targets import TARGETS
from conformance.runs.options import OUT


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--target",
    "targets",
    type=click.Choice(list(TARGETS)),
    multiple=True,
    help="Compile for this GPU only; repeatable.",
)
@click.option("-n", "workers", type=click.IntRange(min=1), help="Processes. Default: one a core.")
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(OUT),
    show_default=True,
    help=f"Folder for {document.FILE}.",
)
@click.pass_context
def main(context: click.Context, targets: tuple[str, ...], workers: int | None, directory: Path) -> None:
    """Compile the kernels of normkernels for GPUs that are not there, and judge the code.

    Writes codegen.json, and adds its tables to the folder's report.html, now or with the next report.
    """
    if find_spec("triton") is None:
        raise click.UsageError("needs triton, which is not installed here")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--report {directory}: cannot be written: {error.strerror}") from error
    chosen, began = targets or tuple(TARGETS), time.monotonic()
    made = document.document(collect(chosen, workers), chosen, report.origin(), time.monotonic() - began)
    path = directory / document.FILE
    path.write_text(report.in_lines(made), encoding="utf-8")
    section = document.section(made)
    report.write_section(directory, path.stem, section)
    if (directory / "report.json").is_file():
        try:
            report.write_page(directory / "report.json")
        except report.NoReport as error:
            click.echo(str(error), err=True)
    report.show_section(section, str(path))
    context.exit(int(made["footer"]["exit_code"]))


if __name__ == "__main__":
    main(prog_name="python -m conformance.package.codegen")
