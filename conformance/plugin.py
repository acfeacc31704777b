"""pytest wiring only: where the suite runs, which adapter is judged, how hard to look, what is written.

``pytest -p conformance.plugin --pyargs conformance.suite --adapter TARGET`` judges; ``conform run`` calls that.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conformance import journal, report, reproducer
from conformance.adapter import UsageError, load
from conformance.attempt import Child, single_threaded
from conformance.case import Case
from conformance.item import PROFILES, Failure, Item, items
from conformance.judging import Answer, explain, follow, judge, judge_item, share_of_array, unjudged, vacuous
from conformance.verdict import BAD, Status, Subject
from conformance.watch import warm_up

OUT = "build/conformance"
BEGUN = "begun"  # an empty file beside the journals, as old as the first of them
Question = tuple[str, Any]


def choose_device(wanted: str | None = None) -> str:
    """``cuda`` where there is a GPU, else ``cpu``, where Triton then interprets. Call before Triton is imported.

    Looks for the driver's device files: asking torch would start CUDA, which a forked child could not use.
    """
    device = wanted or ("cuda" if _gpus() else "cpu")
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


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in {"", "-1"}]
    nvidia = sorted(path.name[len("nvidia") :] for path in Path("/dev").glob("nvidia[0-9]*"))
    return nvidia or [str(number) for number, _ in enumerate(Path("/dev").glob("kfd"))]


def _one_gpu_a_worker(worker: str) -> None:
    """Narrow what a worker sees to one GPU, before anything has counted them."""
    gpus = _gpus()
    if worker.startswith("gw") and len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker[2:]) % len(gpus)]


@dataclass(slots=True, eq=False)
class Judging:
    """Judges items in a child process, journals every step, explains what fails."""

    subject: Subject
    target: str
    directory: Path
    journal: journal.Journal
    limit: float
    _child: Child[Question, Any] = field(init=False)
    counts: Counter[Status] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        """Start nothing yet: the child is forked at the first question."""
        warm_up()
        self._child = Child(self._work, self.limit, self._healthy)

    def _work(self, question: Question) -> Any:  # noqa: ANN401 - the answer's type follows from the question
        name, about = question
        if name == "follow":
            return follow(self.subject, about)
        if name == "reproduce":
            return reproducer.write(about, self.subject, self.directory, self.target)
        return judge(self.subject, name, about)

    def _healthy(self) -> bool:
        if self.subject.device == "cpu":
            return True
        import torch

        try:
            torch.cuda.synchronize()
        except RuntimeError:  # a fault in a kernel leaves the context of the whole process beyond use
            return False
        return True

    def ask(self, prop: str, case: Case) -> Answer:
        """Judge one case in the child."""
        answer: Answer = self._child.ask((prop, case))
        return answer

    def run(self, item: Item) -> list[Failure]:
        """Judge an item; skip it where it cannot be judged here."""
        self.counts = Counter()
        reason = unjudged(item, self.subject)
        if reason is not None:
            status, why = reason
            self.journal.settled(item, status, why)
            self.journal.finished(item)
            self.counts[status] += 1
            pytest.skip(f"{status}: {why}")
        failures: dict[str, Failure] = {}
        judged = []
        verdicts = judge_item(item, self.subject, self.ask, lambda case: self.journal.started(item, case))
        for verdict in verdicts:
            judged.append(verdict)
            self.journal.judged(item, verdict)
            self.counts[verdict.status] += 1
            if verdict.status in BAD and verdict.property not in failures:
                failures[verdict.property] = self._explained(
                    explain(item, self.subject, verdict, self.ask, self._follow)
                )
        self.journal.finished(item, share_of_array(item, self.subject, judged))
        if empty := vacuous(item, judged):
            self.journal.settled(item, Status.ERROR, empty)
            self.counts[Status.ERROR] += 1
            pytest.fail(f"{item}: {empty}", pytrace=False)
        return list(failures.values())

    def _follow(self, case: Case) -> str:
        answer = self._child.ask(("follow", case))
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
_REPORT = pytest.StashKey[Path]()
_SUBJECT = pytest.StashKey[Subject]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ``conform run`` that pytest takes as well."""
    group = parser.getgroup("conformance")
    group.addoption("--adapter", default="normkernels", help="known name, package.module:Class or file.py:Class")
    group.addoption("--profile", default="quick", choices=sorted(PROFILES), help="how hard to look")
    group.addoption("--seed", default=0, type=int, help="the same seed gives the same cases")
    group.addoption("--report", default=OUT, help=f"folder for what is written (default {OUT})")
    group.addoption("--op", action="append", default=[], help="judge this operation only; repeatable")
    group.addoption("--property", action="append", default=[], help="judge this property only; repeatable")
    group.addoption("--limit", type=float, help="seconds after which a call has hung (default: the profile's)")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the device before anything imports Triton."""
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


def _shards(config: pytest.Config) -> Path:
    """The folder of this run's journals: a run beside it that reports to the same folder has another."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return Path(given.get("conform_shards", _directory(config) / f"journal-{os.getpid()}"))


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


def _items(config: pytest.Config) -> tuple[Item, ...]:
    return items(
        subject_of(config),
        config.getoption("profile"),
        config.getoption("seed"),
        operations=tuple(config.getoption("op")),
        properties=tuple(config.getoption("property")),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test an item."""
    if "judging" in metafunc.fixturenames:
        metafunc.parametrize("item", _items(metafunc.config), ids=str)


@pytest.fixture(name="judging", scope="session")
def _judging(request: pytest.FixtureRequest) -> Iterator[Judging]:
    config = request.config
    directory = _directory(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").unlink(missing_ok=True)
    limit = config.getoption("limit") or PROFILES[config.getoption("profile")].limit
    shards = _shards(config)
    if not shards.exists():
        # when judging began: other tests of the same session may have run before
        shards.mkdir(exist_ok=True)
        (shards / BEGUN).touch()
    written = journal.Journal(shards, _worker(config))
    judging = Judging(subject_of(config), config.getoption("adapter"), directory, written, limit)
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


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Merge the journals into the report; a property that does not hold decides the exit status."""
    config = session.config
    directory, shards = _directory(config), _shards(config)
    if _worker(config) != "main" or not shards.exists():
        return
    seconds = time.time() - (shards / BEGUN).stat().st_mtime
    header = report.header(subject_of(config), profile=config.getoption("profile"), seed=config.getoption("seed"))
    built = report.build(journal.read(shards), header, [str(item) for item in _items(config)], seconds)
    config.stash[_REPORT] = report.write(directory, built)
    shutil.rmtree(shards)
    if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        session.exitstatus = max(built["footer"]["exit_code"], int(exitstatus))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of ``conform run``, under pytest's own output."""
    if _REPORT in config.stash:
        report.show(config.stash[_REPORT])
