"""pytest wiring only: where the suite runs, which adapter is judged, how hard to look, what is written.

``pytest -p conformance.plugin --pyargs conformance.suite --adapter TARGET`` judges; ``conform run`` calls that.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conformance import journal, report, reproducer
from conformance.adapter import UsageError, load
from conformance.attempt import Child, single_threaded
from conformance.budget import ALONE, GIB, Allowance, fair_memory
from conformance.calling import Subject
from conformance.case import Case
from conformance.discovery import Evidence
from conformance.explain import explained
from conformance.item import PROFILES, Failure, Item, items
from conformance.judging import (
    Answer,
    asked,
    judge_item,
    share_of_array,
    unjudged,
    vacuous,
)
from conformance.properties import PROPERTIES
from conformance.verdict import Status, Verdict
from conformance.waivers import NONE, Run, Waivers
from conformance.waivers import load as load_waivers
from conformance.watch import warm_up
from conformance.worker import Worker

OUT = "build/conformance"
BEGUN = "begun"  # an empty file beside the journals, as old as the first of them
PLANNED = "planned"  # the items of all chunks so far, a line each
Question = tuple[str, Any]


def choose_device(wanted: str | None = None) -> str:
    """``cuda`` where there is a GPU, else ``cpu``, where Triton then interprets. Call before Triton is imported.

    Looks for the driver's device files: asking torch would start CUDA, which a forked child could not use.
    """
    device = wanted or ("cuda" if gpus() else "cpu")
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    return device


def faithful_interpreter() -> str:
    """Teach Triton's interpreter to round as hardware does; why it could not be taught, or nothing."""
    if importlib.util.find_spec("triton") is None:
        return ""
    # imports Triton, which must come after choose_device
    from conformance import interpreter

    interpreter.install()
    return interpreter.unfaithful() or ""


def gpus() -> list[str]:
    """The GPUs that this process sees, by what the driver calls them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in {"", "-1"}]
    nvidia = sorted(path.name[len("nvidia") :] for path in Path("/dev").glob("nvidia[0-9]*"))
    return nvidia or [str(number) for number, _ in enumerate(Path("/dev").glob("kfd"))]


def _one_gpu_a_worker(worker: str) -> None:
    """Narrow what a worker sees to one GPU, before anything has counted them."""
    visible = gpus()
    if worker.startswith("gw") and len(visible) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(worker[2:]) % len(visible)]


@dataclass(slots=True, eq=False)
class Judging:
    """Judges items in a child process, journals every step, explains what fails."""

    subject: Subject
    target: str
    directory: Path
    journal: journal.Journal
    limit: float
    memory: int
    waivers: Waivers
    allowance: Allowance = ALONE
    _worker: Worker = field(init=False)
    _child: Child[Question, Any] = field(init=False)
    counts: Counter[Status] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        """Start nothing yet: the child is forked at the first question."""
        warm_up()
        self._worker = Worker(self.subject, self.allowance)
        self._child = Child(self._work, self.limit, self._worker.healthy, self.memory)

    def _work(self, question: Question) -> Any:  # noqa: ANN401 - the answer's type follows from the question
        name, about = question
        if name == "follow":
            return self._worker.follow(about)
        if name == "reproduce":
            return reproducer.write(about, self.subject, self.directory, self.target)
        return self._worker.judge(name, about)

    def ask(self, prop: str, case: Case) -> Answer:
        """Judge one case in the child, unless it must not be called."""
        forbidden = self.waivers.forbidden(prop, case)
        if forbidden is not None:
            return (forbidden,)
        answer: Answer = self._child.ask((prop, case))
        return answer

    def _ask_unexpected(self, prop: str, case: Case) -> tuple[Verdict, ...]:
        """As :meth:`ask`, with what is expected waived: nothing new is explained with what is known."""
        return tuple(self.waivers.applied(verdict) for verdict in asked(self.ask, PROPERTIES[prop], case))

    def run(self, item: Item) -> list[Failure]:
        """Judge an item; skip it where it cannot be judged here."""
        self.counts = Counter()
        reason = unjudged(item, self.subject)
        if reason is not None:
            status, why = reason
            waived = self.waivers.of_item(item.operation, item.property, item.dtype)
            self.journal.settled(item, status, why, waived)
            self.journal.finished(item)
            self.counts[status] += 1
            pytest.skip(f"{status}: {why}")
        judged = []
        verdicts = judge_item(item, self.subject, self.ask, lambda case: self._begun(item, case))
        for verdict in map(self.waivers.applied, verdicts):
            judged.append(verdict)
            self.journal.judged(item, verdict, self.waivers.of(verdict))
            self.counts[verdict.status] += 1
        ask = partial(self._ask_unexpected, item.property)
        failures = [self._explained(failure) for failure in explained(item, judged, ask, self._follow)]
        self.journal.finished(item, share_of_array(item, self.subject, judged))
        if empty := vacuous(item, judged):
            self.journal.settled(item, Status.ERROR, empty)
            self.counts[Status.ERROR] += 1
            pytest.fail(f"{item}: {empty}", pytrace=False)
        return failures

    def _begun(self, item: Item, case: Case) -> None:
        if self.waivers.forbidden(item.property, case) is None:
            self.journal.started(item, case)

    def _follow(self, evidence: Evidence) -> str:
        answer = self._child.ask(("follow", evidence))
        return answer if isinstance(answer, str) else ""

    def _explained(self, failure: Failure) -> Failure:
        path = self._child.ask(("reproduce", failure))
        assert isinstance(path, Path), f"could not write the reproducer: {path}"
        self.journal.failed(failure, path)
        return failure

    def close(self) -> None:
        """End the child."""
        self._child.close()
        self.journal.close()


_JUDGING = pytest.StashKey[Judging]()
_ALLOWANCE = pytest.StashKey[Allowance]()
_REPORT = pytest.StashKey[Path]()
_SUBJECT = pytest.StashKey[Subject]()
_WAIVERS = pytest.StashKey[Waivers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ``conform run`` that pytest takes as well."""
    group = parser.getgroup("conformance")
    group.addoption("--adapter", default="normkernels", help="known name, package.module:Class or file.py:Class")
    group.addoption("--profile", default="quick", choices=sorted(PROFILES), help="how hard to look")
    group.addoption("--seed", default=0, type=int, help="the same seed gives the same cases")
    group.addoption("--report", default=OUT, help=f"folder for what is written (default {OUT})")
    group.addoption("--op", action="append", default=[], help="judge this operation only; repeatable")
    group.addoption("--property", action="append", default=[], help="judge this property only; repeatable")
    group.addoption("--chunk", type=int, help="judge this chunk of the profile, or beyond it, alone")
    group.addoption("--journal", type=Path, help="folder that collects the journals of several chunks")
    group.addoption("--waivers", type=Path, help="TOML file of known divergences; one that is out of date fails")
    group.addoption("--limit", type=float, help="seconds after which a call has hung (default: the profile's)")
    group.addoption(
        "--memory", type=float, help="GiB that a worker's calls may hold (default: its share of four fifths)"
    )
    group.addoption("--gpu-memory", type=float, help="as --memory, of the worker's GPU")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the device before anything imports Triton."""
    given = config.option.gpu_memory
    config.stash[_ALLOWANCE] = Allowance.of(_workers(config), len(gpus()), int(given * GIB) if given else None)
    _one_gpu_a_worker(_worker(config))
    config.option.device = choose_device(config.option.device)
    single_threaded()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's, untyped
    """Tell a worker of xdist where this run's journals lie."""
    node.workerinput["conform_shards"] = str(_shards(node.config))


def _worker(config: pytest.Config) -> str:
    # set by xdist in its workers
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return str(given.get("workerid", "main"))


def _workers(config: pytest.Config) -> int:
    """How many workers there are, as each of them and the process that started them know it."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return int(given.get("workercount", len(getattr(config.option, "tx", None) or ()) or 1))


def _shards(config: pytest.Config) -> Path:
    """The folder of this run's journals: a run beside it that reports to the same folder has another."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    alone = config.getoption("journal") or _directory(config) / f"journal-{os.getpid()}"
    return Path(given.get("conform_shards", alone))


def _directory(config: pytest.Config) -> Path:
    return Path(config.getoption("report"))


def subject_of(config: pytest.Config) -> Subject:
    """The adapter on its device, made once. Raises ``pytest.UsageError`` with a line that says what to do."""
    if _SUBJECT not in config.stash:
        device = config.getoption("device")
        unfaithful = faithful_interpreter() if device == "cpu" else ""
        try:
            adapter = load(config.getoption("adapter"))
            for operation in adapter.contracts:
                adapter.contract(operation)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[_SUBJECT] = Subject(adapter, device, unfaithful)
    return config.stash[_SUBJECT]


def waivers_of(config: pytest.Config) -> Waivers:
    """The waivers that this run is held against, read once. Raises ``pytest.UsageError`` as :func:`subject_of`."""
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


_CHOICES = {"operations": "op", "properties": "property"}  # which part of a profile -> option


def _items(config: pytest.Config, *, whole: bool = False) -> tuple[Item, ...]:
    """The items of this session, or of the whole profile."""
    chosen = {name: tuple(config.getoption(option)) for name, option in _CHOICES.items()}
    return items(
        subject_of(config),
        config.getoption("profile"),
        config.getoption("seed"),
        chunk=None if whole else config.getoption("chunk"),
        **chosen,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test an item."""
    if "judging" in metafunc.fixturenames:
        waivers_of(metafunc.config)
        metafunc.parametrize("item", _items(metafunc.config), ids=str)


@pytest.fixture(name="judging", scope="session")
def _judging(request: pytest.FixtureRequest) -> Iterator[Judging]:
    config = request.config
    directory = _directory(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").unlink(missing_ok=True)
    limit = config.getoption("limit") or PROFILES[config.getoption("profile")].limit
    shards = _shards(config)
    if not (shards / BEGUN).exists():
        # when judging began: other tests of the same session may have run before
        shards.mkdir(exist_ok=True)
        (shards / BEGUN).touch()
    written = journal.Journal(shards, _worker(config))
    memory = config.getoption("memory")
    judging = Judging(
        subject_of(config),
        config.getoption("adapter"),
        directory,
        written,
        limit,
        int(memory * GIB) if memory else fair_memory(_workers(config)),
        waivers_of(config),
        config.stash[_ALLOWANCE],
    )
    config.stash[_JUDGING] = judging
    yield judging
    judging.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Send the counts of an item to whoever shows progress."""
    made = yield
    judging = item.config.stash.get(_JUDGING, None)
    if call.when == "call" and judging is not None and "judging" in getattr(item, "fixturenames", ()):
        # plain strings: xdist's wire knows no enums
        counts = {str(status.value): number for status, number in judging.counts.items()}
        made.user_properties.append(("conform", counts))  # type: ignore[attr-defined]  # the report
    return made


# last, so that neither this process nor a worker writes any more
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Merge the journals into the report; a property that does not hold decides the exit status."""
    config = session.config
    directory, shards = _directory(config), _shards(config)
    if _worker(config) != "main" or not (shards / BEGUN).exists():
        return
    seconds = time.time() - (shards / BEGUN).stat().st_mtime
    planned = _planned(config, shards)
    profile = {str(item) for item in _items(config, whole=True)}
    waivers = waivers_of(config)
    if not profile <= set(planned):
        # what one chunk does not show may show in the others
        waivers = replace(waivers, held=())
    header = report.header(
        subject_of(config),
        profile=config.getoption("profile"),
        seed=config.getoption("seed"),
        chunks=None if profile == set(planned) else _numbers(planned),
        allowance=config.stash[_ALLOWANCE],
    )
    built = report.build(
        journal.read(shards),
        header,
        planned,
        seconds,
        waivers=waivers,
        interrupted=exitstatus == pytest.ExitCode.INTERRUPTED,
    )
    config.stash[_REPORT] = report.write(directory, built)
    report.write_page(config.stash[_REPORT])
    if config.getoption("journal") is None:
        shutil.rmtree(shards)
    if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        session.exitstatus = max(built["footer"]["exit_code"], int(exitstatus))


def _planned(config: pytest.Config, shards: Path) -> list[str]:
    """The items of this session, and of those before it that wrote to the same folder."""
    with (shards / PLANNED).open("a+", encoding="utf-8") as file:
        file.writelines(f"{item}\n" for item in _items(config))
        file.seek(0)
        return file.read().split()


def _numbers(planned: Iterable[str]) -> str:
    """The numbers of the chunks of some items."""
    numbers = sorted({int(item.rpartition("/")[2]) for item in planned})
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of ``conform run``, under pytest's own output."""
    if _REPORT in config.stash:
        report.show(config.stash[_REPORT])
