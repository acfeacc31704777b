"""Several workers on one GPU: NVIDIA's service is started and ended, and costs no verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from conformance.adapter import Crashed, Hung
from conformance.calls.budget import ALONE, FULL
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.runs import sharing
from conformance.runs.host import Host, Judge
from conformance.runs.survey import Tried
from conformance.runs.worker import may_be_anothers, starved

FAULT = "AcceleratorError: CUDA error: an illegal memory access was encountered"
# as NVIDIA's: it makes a pipe that clients find, and is told to end by another process of its own
CONTROL = """#!/bin/sh
if [ "$1" = -f ]; then
    echo "$CUDA_VISIBLE_DEVICES" > "$CUDA_MPS_PIPE_DIRECTORY/seen"
    touch "$CUDA_MPS_PIPE_DIRECTORY/control"
    while [ ! -e "$CUDA_MPS_PIPE_DIRECTORY/quit" ]; do sleep 0.01; done
else
    read word; touch "$CUDA_MPS_PIPE_DIRECTORY/$word"
fi
"""


@pytest.fixture(autouse=True)
def _without_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sharing, "DEFAULT", str(tmp_path / "none"))
    monkeypatch.setenv(sharing.PIPES, "")
    monkeypatch.delenv(sharing.PIPES)
    yield
    os.environ.pop(sharing.PIPES, None)
    os.environ.pop(sharing.LOGS, None)


def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = tmp_path / sharing.CONTROL
    path.write_text(program, encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_the_service_runs_from_start_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start in between find it by the environment; nothing of it is left behind."""
    _install(tmp_path, monkeypatch, CONTROL)

    service = sharing.start()
    assert service is not None
    assert sharing.shared()
    assert str(service.folder) == os.environ[sharing.PIPES] == os.environ[sharing.LOGS]
    begun = time.monotonic()
    service.stop()

    assert 0 == service.process.returncode  # ended by being told, not killed
    assert time.monotonic() - begun < sharing.PATIENCE
    assert not sharing.shared()
    assert not service.folder.exists()
    assert sharing.PIPES not in os.environ


def test_the_service_sees_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on the second of two GPUs find it; a service that saw the second alone would call it the first."""
    _install(tmp_path, monkeypatch, CONTROL)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    service = sharing.start()
    assert service is not None
    seen = (service.folder / "seen").read_text(encoding="utf-8").strip()
    service.stop()

    assert not seen
    assert "1" == os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", None])
def test_a_run_does_without_a_service_that_does_not_start(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program fails, or is not installed."""
    if program is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        _install(tmp_path, monkeypatch, program)

    assert sharing.start() is None
    assert sharing.PIPES not in os.environ


def test_a_service_of_the_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named, one that is refused, and one at the default place."""
    _install(tmp_path, monkeypatch, "#!/bin/sh\nexit 3\n")
    for named in (str(tmp_path), sharing.NOWHERE):
        monkeypatch.setenv(sharing.PIPES, named)
        assert sharing.start() is None
        assert named == os.environ[sharing.PIPES]
    monkeypatch.delenv(sharing.PIPES)
    monkeypatch.setattr(sharing, "DEFAULT", str(tmp_path))
    (tmp_path / "control").touch()
    assert sharing.start() is None
    assert sharing.shared()


@dataclass
class FakeChild:
    """A process whose calls fail while it shares its GPU, unless its own call is wrong."""

    wrong: object = None
    closed: int = 0
    asked: list[bool] = field(default_factory=list)

    def ask(self, granted: object, limit: float) -> object:
        """Return a fault under the service, else the answer."""
        self.asked.append(sharing.shared())
        return self.wrong or (Crashed(FAULT) if sharing.shared() else ())

    def close(self) -> None:
        """Count how often the process was ended."""
        self.closed += 1


def _host(child: FakeChild, device: str = "cuda") -> Host:
    host = Host.__new__(Host)
    host.device, host.limit, host.directory, host.allowance = device, 1.0, None, ALONE
    host._child = child  # type: ignore[assignment]
    return host


def _shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv(sharing.PIPES, str(tmp_path))
    (tmp_path / "control").touch()
    return OPERATIONS["rms_norm"].empties(Scope("float32"))[0]


def test_a_fault_of_another_worker_costs_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case is judged again by a process without the service, and so are all later ones."""
    case, child = _shared(tmp_path, monkeypatch), FakeChild()
    host = _host(child)

    assert () == host.ask(Judge("values", case))
    assert () == host.ask(Judge("values", case))

    assert [True, False, False] == child.asked
    assert 1 == child.closed


def test_a_fault_of_its_own_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer counts, whatever it is; an answer without a fault is not asked for twice."""
    case = _shared(tmp_path, monkeypatch)
    failed = (Verdict("values", case, Status.FAILED, "an element is outside"),)
    for wrong, calls in ((Crashed(FAULT), 2), (Hung(1.0), 2), (failed, 1), (Crashed("killed by SIGSEGV"), 1)):
        monkeypatch.setenv(sharing.PIPES, str(tmp_path))
        child = FakeChild(wrong)
        assert wrong == _host(child).ask(Judge("values", case))
        assert calls == len(child.asked), wrong


def test_a_full_gpu_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new process holds nothing yet. It stays with the service, and its answer counts."""
    case = _shared(tmp_path, monkeypatch)
    of_full = Verdict("values", case, Status.NOT_JUDGED, f"{FULL}1 GiB is free")
    for wrong in ((of_full,), Tried(of_full.reason)):
        child = FakeChild(wrong)
        assert wrong == _host(child).ask(Judge("values", case))
        assert [True, True] == child.asked
        assert 1 == child.closed
    for usual in ((replace(of_full, reason="the adapter has no rms_norm"),), Tried("no"), None):
        assert not starved(usual)


def test_a_cpu_is_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of a user's GPU says nothing about a fault on the CPU."""
    case, child = _shared(tmp_path, monkeypatch), FakeChild()
    assert Crashed(FAULT) == _host(child, "cpu").ask(Judge("values", case))
    assert 1 == len(child.asked)


def test_faults_are_told_from_refusals() -> None:
    """In whatever form an answer has them."""
    assert may_be_anothers(Tried("took too long", crash=True, hung=True))
    assert may_be_anothers(Tried(FAULT, crash=True))
    assert not may_be_anothers(Tried("ValueError: no", crash=True))
    assert not may_be_anothers(Tried())
    assert not may_be_anothers("words")
    assert not may_be_anothers(None)
