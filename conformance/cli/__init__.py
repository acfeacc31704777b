"""``conform``: judge an implementation, replay a case, compare reports, begin an adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

try:
    import click
    import hypothesis  # noqa: F401 - the suite needs it and the next ones; where one is missing, a line says so
    import jinja2  # noqa: F401
    import packaging  # noqa: F401
    import pytest  # noqa: F401
    import rich  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    wanted = "torch" if error.name == "torch" else "'normkernels[conformance]'"
    print(f"conform: {error.name} is not installed here, run: pip install {wanted}", file=sys.stderr)  # noqa: T201
    sys.exit(2)

from conformance import report
from conformance.adapter import UsageError
from conformance.cli import annotate, campaign, compare, init, listing, prove, replay, run, survey, world
from conformance.runs import settings

COMMANDS = (
    run.run,
    campaign.campaign,
    replay.replay,
    survey.survey,
    listing.listing,
    compare.compare,
    annotate.annotate,
    world.world,
    init.init,
    prove.prove,
)


def main() -> NoReturn:
    """Run the command line. Bad usage gives one line on stderr and exit status 2."""
    try:
        code = cli.main(prog_name="conform", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = report.Exit.USAGE
    except (click.ClickException, UsageError) as error:
        said = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(report.printable(f"conform: {' '.join(said.split())}"), err=True)
        code = report.Exit.USAGE
    except click.Abort:
        code = report.Exit.INTERRUPTED
    sys.exit(code or 0)


# \b keeps click from filling the paragraph that follows
_HELP = """Decide whether an implementation of fused normalisation operations is right.

\b
Examples:
  conform run                              judge normkernels, the package this suite comes with
  conform init my_adapter.py               write an adapter to fill in
  conform run my_adapter.py                judge your own kernels
  conform run my.package:MyNorms --op rms_norm_gated --property layout
  conform run my_adapter.py --last-failed -x
                                           once more what failed, until something fails
  conform survey my_adapter.py             find out which calls it takes, as a claim to paste
  conform list rms_norm_gated              the method to write, and the words of a claim
  conform replay 1f0c3a9b42 my_adapter.py  run a failed case again, and explain
  conform compare old/report.json build/conformance/report.json
  conform campaign my_adapter.py --chunks 500 --ray auto
                                           as many new cases again, 500 times, on the machines of a Ray cluster
  conform world                            judge every known implementation that is installed here

\b
Exit status: 0 every judged property holds; 1 something failed, crashed or hung,
or a waiver is out of date; 2 bad usage; 3 nothing was judged, or nothing is known of
the values in a dtype that is taken; 4 the suite itself failed; 130 interrupted, with
a report of what was judged until then.

Options that a project always gives may stand in conform.toml, or under [tool.conform] in pyproject.toml, of the
current folder: conform run --help says which. A shell completes names after

\b
  eval "$(_CONFORM_COMPLETE=bash_source conform)"
"""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="normkernels", prog_name="conform")
@click.option("--isolated", is_flag=True, help="Read no options from conform.toml or pyproject.toml.")
@click.pass_context
def cli(context: click.Context, *, isolated: bool) -> None:
    """Hold the commands together, and give them the options of the project's file as defaults."""
    if isolated or context.invoked_subcommand not in SETTLED:
        return
    found = settings.read(Path())
    context.obj = found
    context.default_map = {name: _defaults(cli.commands[name], found.values) for name in SETTLED}
    if found.file:
        context.with_resource(_naming(found.file))


# commands that take what a project's file says
SETTLED = ("run", "campaign", "survey", "replay", "annotate", "list", "init")


def _defaults(command: click.Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a project's values by the names of a command's parameters.

    A replay shows every property, and a campaign has a folder of its own.
    """
    named = {param.opts[0].removeprefix("--"): param.name for param in command.params if param.name}
    left_out = {"replay": "property", "campaign": "report"}.get(command.name or "")
    return {named[name]: value for name, value in values.items() if name in named and name != left_out}


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Name the file that options were read from in what is said about options."""
    try:
        yield
    except (click.BadParameter, UsageError) as error:
        said = error.format_message() if isinstance(error, click.BadParameter) else str(error)
        raise UsageError(f"{said} (options are also read from {file})") from error


for command in COMMANDS:
    cli.add_command(command)
