"""``conform prove``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from conformance.adapter import UsageError


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="build/prove/rows.jsonl", show_default=True)
@click.option("--files", multiple=True, metavar="GLOB", help="Mutate these files of normkernels only; repeatable.")
@click.option("--id", "ids", multiple=True, help="Judge this mutant only; repeatable.")
@click.option(
    "--only",
    "what",
    multiple=True,
    type=click.Choice(["mutants", "planted", "unchanged"]),
    help="Default: mutants and planted bugs. The unchanged package must survive.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(["quick", "ci", "package"]),
    help="Default: all, in order.",
)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Judge N mutants only.")
@click.option("--seed", default="0", show_default=True, help="The same seed, the same sample.")
@click.option("--lane", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is a GPU.")
@click.option("-n", "workers", type=click.IntRange(min=1), help="Processes. Default: one a core.")
@click.option("--minutes", type=click.FloatRange(min=0), default=0.0, help="End after M minutes. Default: never.")
@click.option("--limit", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Seconds a stage.")
@click.option("--recorded", type=click.Path(path_type=Path), help="Rows: what killed is judged first.")
@click.option("--each-stage", is_flag=True, help="Judge what another stage killed, too: for the share of a stage.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="DIR", help="Draw the score, too.")
def prove(**given: Any) -> int:  # noqa: ANN401 - options as they are
    """Judge mutants of normkernels, a row each, and print the score. Needs the checkout."""
    try:
        from conformance.prove import command
    except ModuleNotFoundError as error:
        if error.name != "conformance.prove":
            raise
        raise UsageError("prove: mutates the sources of this repository, run it in a checkout") from error

    return command.main(**given)
