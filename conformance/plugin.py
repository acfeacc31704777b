"""pytest wiring only: where the suite runs, which adapter is judged, how many cases, which files are written.

``pytest --pyargs conformance.suite --adapter TARGET`` judges, in a checkout with ``-p conformance.plugin``;
``conform run`` calls that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conformance import report
from conformance.adapter import UsageError
from conformance.calls.budget import GIB, Allowance, fair_memory
from conformance.calls.child import single_threaded
from conformance.cases.case import Case
from conformance.runs import again, journal, outside, sharing
from conformance.runs.deadline import Deadline
from conformance.runs.host import Host, choose_device, gpus
from conformance.runs.item import PROFILES, Item, items
from conformance.runs.judging import Judging, surveyed_by
from conformance.runs.options import IN_HEADER, OF_PYTEST, OPTIONS, Option, command
from conformance.runs.surveys import Surveys
from conformance.runs.surveys import read as read_surveys
from conformance.runs.waivers import NONE, Run, Waivers
from conformance.runs.waivers import load as load_waivers

COMPILES = 6  # factor on the time limit of a call where a GPU's kernels are compiled and tuned within calls
BEGUN = "begun"  # an empty file in the folder of the journals, as old as the first of them
PLANNED = "planned"  # the items of all chunks so far, a line each


def _one_gpu_a_worker(worker: str) -> None:
    """Narrow what a worker sees to one GPU, before any code has counted the GPUs."""
    visible = gpus()
    if worker.startswith("gw") and len(visible) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(worker[2:]) % len(visible)]


_JUDGING = pytest.StashKey[Judging]()
_ALLOWANCE = pytest.StashKey[Allowance]()
_REPORT = pytest.StashKey[Path]()
_HOST = pytest.StashKey[Host]()
_SIGTERM = pytest.StashKey[Any]()
_SERVICE = pytest.StashKey[sharing.Service | None]()
_WAIVERS = pytest.StashKey[Waivers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``conform run`` that pytest takes as well."""
    group = parser.getgroup("conformance")
    for option in (*OPTIONS, *OF_PYTEST):
        shown = "" if option.default is None else f" Default: {option.default}."
        group.addoption(
            option.flag,
            action="append" if option.many else "store",
            default=[] if option.many else option.default,
            type=_reader(option),
            metavar=option.metavar or ("{" + ",".join(option.choices) + "}" if option.choices else None),
            help=f"{option.help}{shown}",
        )


def _reader(option: Option) -> Callable[[str], object]:
    """Return what reads the value of an option, with errors in argparse's form."""

    def read(text: str) -> object:
        try:
            return option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the device before anything imports Triton."""
    given = config.option.gpu_memory
    config.stash[_ALLOWANCE] = Allowance.of(_workers(config), len(gpus()), int(given * GIB) if given else None)
    _one_gpu_a_worker(_worker(config))
    config.option.device = choose_device(config.option.device)
    single_threaded()
    try:
        outside.use(config.option.operations)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    if config.option.device != "cpu" and _worker(config) == "main" and _workers(config) > max(len(gpus()), 1):
        config.stash[_SERVICE] = sharing.start()
    if threading.current_thread() is threading.main_thread():
        config.stash[_SIGTERM] = signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """End a run as Ctrl-C does, which leaves a report."""
    raise KeyboardInterrupt


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process of the adapter, however the session ended."""
    if _HOST in config.stash:
        config.stash[_HOST].close()
    if service := config.stash.get(_SERVICE, None):
        service.stop()
    if _SIGTERM in config.stash:
        signal.signal(signal.SIGTERM, config.stash[_SIGTERM])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's, untyped
    """Tell a worker of xdist where this run's journals are."""
    node.workerinput["conform_shards"] = str(_shards(node.config))


def _worker(config: pytest.Config) -> str:
    # set by xdist in its workers
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return str(given.get("workerid", "main"))


def _workers(config: pytest.Config) -> int:
    """Return the number of workers, in each of them and in the process that started them."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return int(given.get("workercount", len(getattr(config.option, "tx", None) or ()) or 1))


def _shards(config: pytest.Config) -> Path:
    """Return the folder of this run's journals: another run that reports to the same folder has another one."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    alone = config.getoption("journal") or _directory(config) / f"journal-{os.getpid()}"
    return Path(given.get("conform_shards", alone))


def _directory(config: pytest.Config) -> Path:
    return Path(config.getoption("report"))


def host_of(config: pytest.Config) -> Host:
    """Return the host of the adapter, which imports it once. Raises ``pytest.UsageError`` that says what to do.

    The command line has imported the adapter already, and passes its own host as a plugin.
    """
    if _HOST not in config.stash:
        given = (plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Host))
        config.stash[_HOST] = next(given, None) or _host(config)
    return config.stash[_HOST]


def _host(config: pytest.Config) -> Host:
    try:
        return Host(
            config.getoption("adapter"),
            config.getoption("device"),
            PROFILES[config.getoption("profile")].limit,
            tuple(config.getoption("op")),
            config.getoption("import_limit"),
            config.getoption("seed"),
        )
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error


def waivers_of(config: pytest.Config) -> Waivers:
    """Return the waivers of this run, read once. Raises ``pytest.UsageError`` as :func:`subject_of`."""
    if _WAIVERS not in config.stash:
        chosen = {name: tuple(config.getoption(option)) for name, option in _CHOICES.items()}
        run = Run(
            config.getoption("device"), config.getoption("profile"), **{n: v for n, v in chosen.items() if v}
        )
        file = config.getoption("waivers")
        try:
            config.stash[_WAIVERS] = load_waivers(file, run) if file else NONE
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_WAIVERS]


_CHOICES = {"operations": "op", "properties": "property"}  # part of a profile -> option


def _items(config: pytest.Config, *, whole: bool = False) -> tuple[Item, ...]:
    """Return the items of this session, or of the whole profile; all void is an error of usage."""
    chosen = {name: tuple(config.getoption(option)) for name, option in _CHOICES.items()}
    subject, profile, seed = host_of(config).subject, config.getoption("profile"), config.getoption("seed")
    first = None if whole else config.getoption("chunk")
    numbers = [None] if first is None else range(first, first + config.getoption("chunks"))
    try:
        found = tuple(item for number in numbers for item in items(subject, profile, seed, chunk=number, **chosen))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    file = config.getoption("again")
    return found if file is None else tuple(item for item in found if item.cell() in again.read(file))


def _first(config: pytest.Config) -> Mapping[str, tuple[Case, ...]]:
    """Return the cases that are judged before all others, by the items of a profile's first chunk."""
    file = config.getoption("again")
    return {f"{cell}/0": cases for cell, cases in (again.read(file) if file else {}).items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise one test per item."""
    if "judging" in metafunc.fixturenames:
        waivers_of(metafunc.config)
        metafunc.parametrize("item", _items(metafunc.config), ids=str)


def _deadline(config: pytest.Config) -> Deadline | None:
    """Return the end of a run of so many minutes; None where all items of this session are judged."""
    until = config.getoption("until")
    return None if until is None else Deadline(_shards(config), until)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leave an item out whose chunk no worker began in time, as if it had not been collected."""
    deadline, called = _deadline(item.config), getattr(item, "callspec", None)
    judged = called.params.get("item") if called is not None else None
    late = deadline is not None and isinstance(judged, Item) and not deadline.begins(judged.chunk)
    return True if late else None


def _stops(config: pytest.Config) -> bool:
    """Return whether the session ends with its first failure (``-x``)."""
    return bool(config.getoption("maxfail") == 1)


@pytest.fixture(name="judging", scope="session")
def _judging(request: pytest.FixtureRequest) -> Iterator[Judging]:
    config = request.config
    directory = _directory(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").unlink(missing_ok=True)
    profile = PROFILES[config.getoption("profile")]
    limit = config.getoption("limit") or profile.limit * (COMPILES if config.option.device == "cuda" else 1)
    shards = _shards(config)
    if not (shards / BEGUN).exists():
        # when judging began: other tests of the same session may have run before
        shards.mkdir(exist_ok=True)
        (shards / BEGUN).touch()
    written = journal.Journal(shards, _worker(config))
    memory = config.getoption("memory")
    host = host_of(config)
    host.judge_for(
        directory,
        limit,
        int(memory * GIB) if memory else fair_memory(_workers(config)),
        config.stash[_ALLOWANCE],
    )
    make = partial(
        surveyed_by, host, config.getoption("profile"), config.getoption("seed"), waivers=waivers_of(config)
    )
    surveys = Surveys(shards, make)
    judging = Judging(host, written, waivers_of(config), surveys, _stops(config), _first(config))
    if _worker(config) in {"main", "gw0"}:
        judging.smoke(_items(config))
    config.stash[_JUDGING] = judging
    yield judging
    judging.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Send the counts of an item to the display of progress."""
    made = yield
    judging = item.config.stash.get(_JUDGING, None)
    if call.when == "call" and judging is not None and "judging" in getattr(item, "fixturenames", ()):
        # plain strings: xdist cannot send enums
        counts = {str(status.value): number for status, number in judging.counts.items()}
        made.user_properties.append(("conform", counts))  # type: ignore[attr-defined]  # the report
    return made


# last, when neither this process nor a worker writes any more
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Merge the journals into the report; a property that does not hold decides the exit status."""
    config = session.config
    directory, shards = _directory(config), _shards(config)
    if _worker(config) != "main" or not (shards / BEGUN).exists():
        return
    begun = (shards / BEGUN).stat().st_mtime
    seconds = journal.ended(shards, begun) - begun
    planned = _planned(config, shards)
    profile = {str(item) for item in _items(config, whole=True)}
    waivers = waivers_of(config)
    if not profile <= set(planned):
        # a chunk may lack what others show
        waivers = replace(waivers, held=())
    header = report.header(
        host_of(config).subject,
        **{name: config.getoption(name) for name in IN_HEADER},
        chunks=None if profile == set(planned) else _numbers(planned),
        command=command(host_of(config).target, vars(config.option)),
        options_from=config.getoption("options_from"),
        allowance=config.stash[_ALLOWANCE],
        greeting=host_of(config).greeting,
    )
    records = journal.read(shards)
    stopped = _stops(config) and bool(records.failures)
    built = report.build(
        records,
        header,
        planned,
        seconds,
        waivers=waivers,
        surveys=read_surveys(shards),
        # xdist stops at a failure as it does when it is interrupted
        interrupted=exitstatus == pytest.ExitCode.INTERRUPTED and not stopped,
        stopped=stopped,
    )
    config.stash[_REPORT] = report.write(directory, built)
    report.write_page(config.stash[_REPORT])
    if config.getoption("journal") is None:
        shutil.rmtree(shards)
    if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        session.exitstatus = max(built.footer.exit_code, int(exitstatus))


def _planned(config: pytest.Config, shards: Path) -> list[str]:
    """Return the items of this session that were to be judged, and of those before it in the same folder."""
    deadline = _deadline(config)
    with (shards / PLANNED).open("a+", encoding="utf-8") as file:
        begun = (item for item in _items(config) if deadline is None or deadline.begun(item.chunk))
        file.writelines(f"{item}\n" for item in begun)
        file.seek(0)
        return file.read().split()


def _numbers(planned: Iterable[str]) -> str:
    """Return the numbers of the chunks of some items."""
    numbers = sorted({int(item.rpartition("/")[2]) for item in planned})
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of ``conform run`` under pytest's own output."""
    if _REPORT in config.stash:
        report.show(config.stash[_REPORT])
