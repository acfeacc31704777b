"""Options that commands share, and what is checked and prepared before any of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from conformance import report
from conformance.adapter import KNOWN, UsageError
from conformance.calls.child import single_threaded
from conformance.calls.claim import known
from conformance.operations import OPERATIONS
from conformance.properties import PASSIVE, PROPERTIES
from conformance.runs import journal, outside
from conformance.runs.host import Host, choose_device
from conformance.runs.options import NAMED as NAMED_OPTIONS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completing(*tables: Iterable[str], files: bool = False) -> Completing:
    """Return what completes a word on a command line: the names of some tables, and files."""

    def complete(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for table in tables for name in table if name.startswith(begun)]
        return [*found, CompletionItem(begun, type="file")] if files else found

    return complete


COMPLETED = {"op": completing(OPERATIONS), "property": completing(PROPERTIES)}


def option(name: str, parameter: str | None = None, text: str | None = None) -> Callable[[Decorated], Decorated]:
    """Return the click option of an option of a run; ``parameter`` and ``text`` replace its name and help."""
    option = NAMED_OPTIONS[name]
    kind: Any = {int: click.IntRange, float: click.FloatRange}.get(option.type)
    if option.choices:
        kind = click.Choice(option.choices)
    elif option.type is Path:
        kind = click.Path(path_type=Path, file_okay=name != "report")
    elif kind is not None:
        kind = kind(min=option.least, min_open=option.above)
    return click.option(
        option.flag,
        parameter or name.replace("-", "_"),
        type=kind,
        default=option.default,
        multiple=option.many,
        metavar=option.metavar,
        shell_complete=COMPLETED.get(name),
        show_default=option.default is not None,
        help=text or option.help,
    )


target = click.argument("target", default="normkernels", shell_complete=completing(KNOWN, files=True))
device, import_limit, report_folder = option("device"), option("import-limit"), option("report", "directory")
profile, seed = option("profile"), option("seed")
properties = option("property", "properties")
places = option("operations", "places")


def named(option: str, given: Sequence[str], names: Iterable[str]) -> None:
    """Raise ``UsageError`` where a name that was given to an option is unknown."""
    for name in given:
        if name in PASSIVE and option == "--property":
            raise UsageError(
                f"{option} {name}: is judged together with values, layout and specials; ask for those"
            )
        known(option, name, names)


def use(places: Sequence[str]) -> None:
    """Register operations from outside: modules in the current folder can be named, as those of adapters."""
    sys.path.append(str(Path.cwd()))
    outside.use(places)


def chosen_device(wanted: str | None) -> str:
    """Return the device, and make Triton interpret where there is no GPU; call before anything imports Triton."""
    chosen = choose_device()
    if wanted == "cuda" and chosen != "cuda":
        raise UsageError("--device cuda: this machine shows no GPU; leave --device out to judge on the CPU")
    return choose_device(wanted) if wanted else chosen


def host(
    target: str, device: str, operations: Sequence[str], limit: float, import_limit: float, seed: int
) -> Host:
    """Return the host of a target, its adapter imported and checked as far as that goes without a call."""
    # a child forked after torch has started threads never returns
    single_threaded()
    return Host(target, device, limit, tuple(operations), import_limit, seed)


def prepared(directory: Path) -> None:
    """Make the folder of a report, and remove the journals that an earlier run left there."""
    try:
        journal.prepare(directory)
    except OSError as error:
        raise UsageError(f"--report {directory}: cannot be written: {error.strerror}") from error


def read_report(path: Path) -> report.Report:
    """Return the report that a file holds, or the one of a folder."""
    try:
        return report.read(path / "report.json" if path.is_dir() else path)
    except report.NoReport as error:
        raise UsageError(str(error)) from error
