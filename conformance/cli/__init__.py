"""``conform``: judge an implementation, replay a case, compare reports, begin an adapter."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

try:
    import click
    import hypothesis  # noqa: F401 - the suite needs it and the next ones; where one is missing, a line says so
    import jinja2  # noqa: F401
    import packaging  # noqa: F401
    import pytest
    import rich  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    wanted = "torch" if error.name == "torch" else "'normkernels[conformance]'"
    print(f"conform: {error.name} is not installed here, run: pip install {wanted}", file=sys.stderr)  # noqa: T201
    sys.exit(2)

from click.shell_completion import CompletionItem
from rich.console import Console
from rich.table import Table

import conformance
from conformance import report
from conformance.adapter import KNOWN, UsageError
from conformance.calls.call import Subject
from conformance.calls.child import single_threaded
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.oracle.contract import NAMED, Contract, in_braces, in_words
from conformance.properties import PASSIVE, PROMISES, PROPERTIES
from conformance.properties.discovery import Evidence
from conformance.properties.passive import property_of
from conformance.report import github
from conformance.report import world as matrix
from conformance.runs import again, describe, journal, lanes, outside, settings
from conformance.runs.host import Follow, Host, Judge, choose_device
from conformance.runs.item import PROFILES, Item, Profile, items
from conformance.runs.judge import Answer, Ask, asked, unjudged
from conformance.runs.judging import surveyed_by
from conformance.runs.options import NAMED as NAMED_OPTIONS
from conformance.runs.options import arguments
from conformance.runs.waivers import Run
from conformance.runs.waivers import load as load_waivers

MOST_WORKERS = 8
_Command = TypeVar("_Command", bound=Callable[..., Any])
Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
SKELETON = '''\
"""Lets `conform run` judge my implementation: replace the bodies below by calls of it."""

import torch

from conformance import Adapter, Declined


class MyNorms(Adapter):
    """One method per operation; what is missing is not implemented, which is no failure."""

    name = "mynorms"
    # where the implementation rounds: fp32 (nowhere but at the store), hf, two_step, eager, or a Contract
    contracts = {"rms_norm_gated": "fp32"}
    # raises on calls without a meaning: then that is demanded as well
    validates = False

    def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
        """norm(x) * weight * act(gate), or norm(x * act(gate)) * weight."""
        if group_size is not None:
            raise Declined("no groups")
        y = x.float()
        act = torch.ones(()) if gate is None else torch.sigmoid(gate.float())
        if gate is not None and activation != "sigmoid":
            act = act * gate.float()
        if not norm_before_gate:
            y, act = y * act, torch.ones(())
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (y * weight.float() * act.to(y.device)).to(x.dtype).contiguous()
'''


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
SETTLED = ("run", "survey", "replay", "annotate", "list", "init")


def _defaults(command: click.Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a project's values by the names of a command's parameters. A replay shows every property."""
    named = {param.opts[0].removeprefix("--"): param.name for param in command.params if param.name}
    left_out = "property" if command.name == "replay" else None
    return {named[name]: value for name, value in values.items() if name in named and name != left_out}


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Name the file that options were read from in what is said about options."""
    try:
        yield
    except (click.BadParameter, UsageError) as error:
        said = error.format_message() if isinstance(error, click.BadParameter) else str(error)
        raise UsageError(f"{said} (options are also read from {file})") from error


def _completing(*tables: Iterable[str], files: bool = False) -> Completing:
    """Return what completes a word on a command line: the names of some tables, and files."""

    def complete(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for table in tables for name in table if name.startswith(begun)]
        return [*found, CompletionItem(begun, type="file")] if files else found

    return complete


COMPLETED = {"op": _completing(OPERATIONS), "property": _completing(PROPERTIES)}
_target = click.argument("target", default="normkernels", shell_complete=_completing(KNOWN, files=True))


def _option(name: str, parameter: str | None = None, text: str | None = None) -> Callable[[_Command], _Command]:
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


_device, _import_limit, _report = _option("device"), _option("import-limit"), _option("report", "directory")
_profile, _seed = _option("profile"), _option("seed")
_properties = _option("property", "properties")
_places = _option("operations", "places")


@cli.command()
@_target
@_option("op", "operations")
@_places
@_properties
@_device
@_profile
@click.option(
    "-n", "workers", type=click.IntRange(min=1), help=f"Processes. Default: one a core, at most {MOST_WORKERS}."
)
@_seed
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="M",
    help="After the profile judge chunk after chunk beyond it, until M minutes are over at the end of one. "
    f"Default: {PROFILES['nightly'].minutes:g} for nightly, otherwise 0.",
)
@_option("chunk")
@_option("waivers")
@click.option("-x", "--exitfirst", is_flag=True, help="Stop at the first failure.")
@click.option("--last-failed", is_flag=True, help="Judge only what fails in the report of the folder, that first.")
@_import_limit
@_report
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
    chosen = _chosen_device(device)
    _use(places)
    _named("--op", operations, OPERATIONS)
    _named("--property", properties, PROPERTIES)
    if waivers is not None:
        load_waivers(waivers, Run(chosen, profile))
    if chunk is not None and minutes:
        raise UsageError("--chunk and --minutes: a single chunk has its own end, give one of them")
    if last_failed and (chunk is not None or minutes):
        raise UsageError("--last-failed: judges a profile again; leave --chunk and --minutes out")
    failed = _failed_before(directory) if last_failed else None
    host = _host(target, chosen, operations, PROFILES[profile].limit, import_limit)
    items(host.subject, profile, operations=operations, properties=properties)
    _prepared(directory)
    number_of_workers = workers or _cores()
    if number_of_workers > 1:
        # each worker has its own
        host.close()
    given = {"adapter": target, "device": chosen, "profile": profile, "seed": seed, "report": directory}
    given |= {"import-limit": import_limit, "op": operations, "property": properties, "waivers": waivers}
    given |= {"operations": places, "options-from": _file_of_options()}
    display = _Display(Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix="journal-", dir=directory) as journals:
        if failed is not None:
            named = Path(journals) / "again.json"
            again.write(failed, named)
            given["again"] = named
        for number in _chunks(PROFILES[profile], chunk, minutes):
            asked_for = arguments({**given, "journal": journals, "chunk": number})
            command = [*_pytest(number_of_workers, directory, number), *["-x"] * exitfirst, *asked_for]
            status = pytest.main(command, plugins=[display.of_chunk(number), host])
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
    failed = again.of_failures(_read(path).failures)
    if not failed:
        raise UsageError(f"--last-failed: nothing fails in {path}, leave it out to judge everything")
    return failed


def _chunks(profile: Profile, only: int | None, minutes: float | None) -> Iterator[int | None]:
    """Yield the chunk asked for; or None for a whole profile, then chunks beyond it until the time is up."""
    until = time.monotonic() + 60 * (profile.minutes if minutes is None else minutes)
    yield only
    for number in itertools.count(profile.chunks):
        if only is not None or time.monotonic() >= until:
            return
        yield number


def _named(option: str, given: Sequence[str], known: dict[str, Any]) -> None:
    for name in given:
        if name in PASSIVE and option == "--property":
            raise UsageError(
                f"{option} {name}: is judged together with values, layout and specials; ask for those"
            )
        if name not in known:
            raise UsageError(f"{option} {name}: unknown, must be one of {', '.join(known)}")


def _use(places: Sequence[str]) -> None:
    """Register operations from outside: modules in the current folder can be named, as those of adapters."""
    sys.path.append(str(Path.cwd()))
    outside.use(places)


def _chosen_device(wanted: str | None) -> str:
    """Return the device, and make Triton interpret where there is no GPU; call before anything imports Triton."""
    chosen = choose_device()
    if wanted == "cuda" and chosen != "cuda":
        raise UsageError("--device cuda: this machine shows no GPU; leave --device out to judge on the CPU")
    return choose_device(wanted) if wanted else chosen


def _host(target: str, device: str, operations: Sequence[str], limit: float, import_limit: float) -> Host:
    """Return the host of a target, its adapter imported and checked as far as that goes without a call."""
    # a child forked after torch has started threads never returns
    single_threaded()
    return Host(target, device, limit, tuple(operations), import_limit)


def _prepared(directory: Path) -> None:
    try:
        journal.prepare(directory)
    except OSError as error:
        raise UsageError(f"--report {directory}: cannot be written: {error.strerror}") from error


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def _pytest(workers: int, directory: Path, chunk: int | None) -> list[str]:
    """Return arguments that make pytest run the suite alone: no other configuration, plugin or conftest.py."""
    os.environ.pop("PYTEST_ADDOPTS", None)
    suite = Path(conformance.__file__).parent / "suite"
    arguments = ["--pyargs", "conformance.suite", "-c", os.devnull, "--rootdir", str(suite), "--noconftest"]
    arguments += ["--disable-plugin-autoload", "-p", "conformance.plugin", "-p", "no:cacheprovider"]
    # the suite prints its own summary
    arguments += ["-p", "no:terminalreporter", "--assert=plain"]
    arguments.append(f"--junitxml={directory / ('junit.xml' if chunk is None else f'junit-{chunk}.xml')}")
    if workers > 1:
        arguments += ["-p", "xdist.plugin", "-n", str(workers), "--maxschedchunk=1"]
    return arguments


class _Display:
    """Display of progress that also keeps errors of the suite itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: report.Progress | None = None
        self._title = ""
        self._failed: dict[str, str] = {}  # test, or the part that broke -> text

    def of_chunk(self, number: int | None) -> _Display:
        """Begin again for the next chunk; errors of earlier chunks are kept."""
        self.close()
        self._title = "" if number is None else f"chunk {number}: "
        return self

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the items, where this process runs them."""
        self._begin(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """Count the items, where workers run them."""
        self._begin(len(ids))

    def _begin(self, items: int) -> None:
        if items and self._progress is None:
            self._progress = report.Progress(self._console, items, self._title)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show that an item was judged, or could not be."""
        judged = dict(report.user_properties).get("conform")
        if isinstance(judged, dict) and self._progress is not None:
            self._progress.item(judged)
        if report.failed:
            self._failed[report.nodeid] = report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the error that prevented the suite from starting."""
        if report.failed:
            self._failed["collection"] = report.longreprtext

    def pytest_internalerror(self, excrepr: object) -> None:
        """Keep the error that broke pytest."""
        self._failed["pytest"] = str(excrepr)

    def close(self) -> None:
        """End the line of progress."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def errors(self, unfinished: Sequence[str]) -> list[str]:
        """Return errors outside of verdicts: a finished item's failure is in the report."""
        judged = {
            name for name in self._failed if "[" in name and not name.endswith(tuple(f"[{i}]" for i in unfinished))
        }
        return [text for name, text in self._failed.items() if name not in judged]


def _ended(path: Path, status: int, display: _Display) -> int:
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


@cli.command()
@click.argument("case")
@_target
@_places
@_properties
@_device
@_import_limit
@_report
def replay(
    case: str,
    target: str,
    places: tuple[str, ...],
    properties: tuple[str, ...],
    device: str | None,
    import_limit: float,
    directory: Path,
) -> int:
    """Run one CASE again on TARGET, and explain: JSON text, a file, or the id of a case of the last report."""
    chosen = _chosen_device(device)
    _use(places)
    _named("--property", [name for name in properties if name not in PASSIVE], PROPERTIES)
    read = _case(case, directory)
    host = _host(target, chosen, [read.operation], PROFILES["ci"].limit, import_limit)
    subject = host.subject

    def ask(prop: str, case: Case) -> Answer:
        answer: Answer = host.ask(Judge(prop, case))
        return answer

    verdicts = _only(properties, _judged(subject, read, ask, properties))
    outside = any(verdict.comparison.outside for verdict in verdicts)
    said = host.ask(Follow(Evidence((read,)))) if outside else ""
    host.close()
    click.echo(f"{read.id}: {read}")
    contract = in_words(subject.contract(read.operation), OPERATIONS[read.operation].rounds)
    lines = [f"{subject.declared.name} declares {contract}", ""]
    lines += [f"{verdict.property:20} {verdict.status:10} {verdict.reason}".rstrip() for verdict in verdicts]
    lines += [verdict.trace for verdict in verdicts if verdict.trace][:1]
    lines += ["", said] if isinstance(said, str) and said else []
    click.echo(report.printable("\n".join(lines)))
    counts = Counter[str](verdict.status for verdict in verdicts)
    return report.exit_code(counts, complete=True)


def _case(given: str, directory: Path) -> Case:
    """Return the case that a JSON text, a file or an id stands for."""
    text, place = given, "CASE"
    if not given.lstrip().startswith("{"):
        places = (Path(given), directory / "cases" / f"{given}.json")
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise UsageError(f"CASE {given}: no JSON, no file, and no id in {directory / 'cases'}")
        text, place = found.read_text(encoding="utf-8"), str(found)
    try:
        case = Case.from_json(text)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    if case.operation not in OPERATIONS:
        raise UsageError(
            f"{place}: operation {case.operation!r} is unknown, must be one of {', '.join(OPERATIONS)}"
        )
    return case


def _only(properties: Sequence[str], verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts asked for; where the calls gave none of those, all verdicts that are not passed."""
    judged = list(verdicts)
    passive = any(name in PROPERTIES and PROPERTIES[name].passive for name in properties)
    asked_for = {*properties, *(property_of(verdict.case) for verdict in judged if passive)}
    found = [verdict for verdict in judged if not properties or verdict.property in asked_for]
    return found or [verdict for verdict in judged if verdict.status is not Status.PASSED]


def _judged(subject: Subject, case: Case, ask: Ask, properties: Sequence[str]) -> Iterator[Verdict]:
    """Yield verdicts of all properties that fit the case, or of those asked for: ``values`` shows passive ones."""
    empty = not all(case.tensors[0][1].shape)
    names = ["errors"] if case.invalid else ["empty"] if empty else _of_ordinary_cases()
    if properties:
        names = [name for name in properties if name in PROPERTIES] or ["values"]
    for name in names:
        if reason := unjudged(Item(case.operation, name, case.dtype), subject):
            yield Verdict(name, case, *reason)
            continue
        yield from asked(ask, PROPERTIES[name], case)


def _of_ordinary_cases() -> list[str]:
    """Return the properties of calls that have elements and a meaning; one of those that share a judge."""
    judges = {PROPERTIES[name].judge: name for name in reversed(PROPERTIES) if name not in {"errors", "empty"}}
    return list(reversed(judges.values()))


@cli.command()
@_target
@_option("op", "operations", "Survey this operation only; repeatable.")
@_places
@_profile
@_seed
@_device
@_import_limit
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
    chosen = _chosen_device(device)
    _use(places)
    _named("--op", operations, OPERATIONS)
    host = _host(target, chosen, operations, PROFILES["ci"].limit, import_limit)
    implemented = [name for name in operations or OPERATIONS if host.subject.traits(name).implemented]
    for name in implemented:
        found = surveyed_by(host, profile, seed, name)
        click.echo(report.printable(describe.found(name, found)))
    host.close()
    return report.Exit.HOLDS if implemented else report.Exit.NOTHING_JUDGED


@cli.command(name="list")
@click.argument(
    "name", metavar="[OPERATION|ADAPTER]", required=False, shell_complete=_completing(OPERATIONS, KNOWN)
)
@_places
def listing(name: str | None, places: tuple[str, ...]) -> None:
    """Operations, properties with their promise, known adapters with their package, contracts, profiles.

    Of one OPERATION: the method to write with its arguments, rounding points, the words of a claim, what a wrong
    formula may lack. Of one known ADAPTER: by operation its contract and the calls that it takes.
    """
    _use(places)
    if name in KNOWN:
        click.echo(f"{name}: {describe.implementation(name)}\n")
        _section("takes", describe.claims(name))
        return
    if name is not None:
        operation = name
        _named("OPERATION", [operation], {**OPERATIONS, **KNOWN})
        click.echo(f"{describe.method(operation)}\n")
        _section("arguments", describe.arguments(operation))
        _section("rounding points", {"at": describe.points(operation)})
        _section("takes, by factor or size", describe.claimed_with(operation))
        _section("judged as well", {"terms": describe.terms(operation)})
        return
    _section("operations", {name: _signature(name) for name in OPERATIONS})
    _section("properties", PROMISES)
    _section("adapters", {known: describe.implementation(known) for known in KNOWN})
    named = {name: in_braces(Contract(rounds), sorted(rounds)) for name, rounds in NAMED.items()}
    _section("contracts", {**named, "eager": "every point of the operation"})
    _section("profiles", {name: _effort(name) for name in PROFILES})


def _section(title: str, lines: dict[str, str]) -> None:
    click.echo(f"{title}:")
    for name, text in lines.items():
        click.echo(f"  {name:20} {text}")


def _signature(name: str) -> str:
    operation = OPERATIONS[name]
    arguments = ", ".join((*operation.positional, *operation.keywords))
    return f"{arguments}; wrong in {len(operation.invalid)} ways on purpose"


def _effort(name: str) -> str:
    profile = PROFILES[name]
    return f"every {profile.strength} levels together, a call may take {profile.limit:g} s"


@cli.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
def compare(a: Path, b: Path) -> int:
    """Show in what two reports differ: header, and rows with other verdicts, worst error or exact share.

    A and B are a report.json or the folder that it lies in. Exit 1 if a row differs, 0 if none does: another
    commit or machine alone is no difference.
    """
    first, second = _read(a), _read(b)
    results = report.differences.of_results(first, second)
    table = Table("", str(a), str(b), box=None, header_style="bold")
    for found in (*report.differences.of_headers(first, second), *results):
        table.add_row(found.what, found.first, found.second)
    Console(highlight=False, markup=False).print(table if table.row_count else "no difference")
    return report.Exit.FAILED if results else report.Exit.HOLDS


def _read(path: Path) -> report.Report:
    try:
        return report.read(path / "report.json" if path.is_dir() else path)
    except report.NoReport as error:
        raise UsageError(str(error)) from error


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--target",
    metavar="TARGET",
    help="The adapter, as conform run was told it: its file is annotated.",
    shell_complete=_completing(files=True),
)
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the report in Markdown to FILE, such as $GITHUB_STEP_SUMMARY.",
)
def annotate(folder: Path, target: str | None, summary: Path | None) -> None:
    """Print the report of DIR as commands of a workflow, by which GitHub annotates files."""
    made = _read(folder)
    for line in github.commands(made, target, github.text_of):
        click.echo(report.printable(line))
    if summary is not None:
        try:
            with summary.open("a", encoding="utf-8") as file:
                file.write(github.summary(made))
        except OSError as error:
            raise UsageError(f"--summary {summary}: cannot be written: {error.strerror}") from error


@cli.command()
@click.argument("adapters", nargs=-1, metavar="[ADAPTER]...", shell_complete=_completing(KNOWN))
@_option("op", "operations")
@_properties
@click.option(
    "--lane",
    "devices",
    type=click.Choice(("cpu", "cuda")),
    multiple=True,
    help="Where to judge. Default: on the CPU, and on a GPU where there is one.",
)
@_profile
@click.option("-n", "workers", type=click.IntRange(min=1), help="Processes of each run.")
@_seed
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
    _named("ADAPTER", adapters, KNOWN)
    _named("--op", operations, OPERATIONS)
    _named("--property", properties, PROPERTIES)
    missing = lanes.missing(adapters or tuple(KNOWN))
    chosen = [name for name in adapters or tuple(KNOWN) if name not in missing]
    statuses: list[int] = []
    if not read:
        here = _chosen_device(None)
        options = ["--profile", profile, "--seed", str(seed), *(("-n", str(workers)) if workers else ())]
        options += [text for name in operations for text in ("--op", name)]
        options += [text for name in properties for text in ("--property", name)]
        files = {path.stem: path.resolve() for path in waivers.glob("*.toml")} if waivers else {}
        _prepared(directory)
        planned = lanes.planned(chosen, devices or tuple(dict.fromkeys(("cpu", here))), options, directory, files)
        # what an earlier command left of the other lanes stays
        for lane in planned:
            (directory / f"{lane.folder.name}.json").unlink(missing_ok=True)
        for ended in lanes.ran(planned):
            statuses.append(ended.status)
            made, kept = ended.lane.folder / "report.json", directory / f"{ended.lane.folder.name}.json"
            if made.exists():
                made.replace(kept)
            # without a report the last line says why
            said = matrix.verdict(_read(kept)) if kept.exists() else ended.said
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
        matrix.Judged(name, lane, _read(path))
        for name in KNOWN
        for lane in ("cpu", "cuda")
        if (path := directory / f"{name}_{lane}.json").is_file()
    ]


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--op",
    "operation",
    metavar="NAME",
    help="The operation that the adapter is for.",
    shell_complete=COMPLETED["op"],
)
@_places
def init(file: Path, operation: str | None, places: tuple[str, ...]) -> None:
    """Write an adapter to FILE, to fill in. It never replaces a file, and without --op works as it stands."""
    _use(places)
    _named("--op", [] if operation is None else [operation], OPERATIONS)
    if file.suffix != ".py":
        raise UsageError(f"{file}: must end in .py")
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(SKELETON if operation is None else describe.adapter(operation))
    except FileExistsError as error:
        raise UsageError(f"{file}: exists already, give another name") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from error
    options = "".join(f" --operations {shlex.quote(place)}" for place in places)
    click.echo(f"{file} written; fill it in, then: conform run {shlex.quote(str(file))}{options}")


@cli.command()
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
