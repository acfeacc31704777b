"""Mutants in processes of their own: however such a process ends, its mutant has a row."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.adapter import UsageError
from conformance.prove import judging, running
from conformance.prove.copies import ROOT, write
from conformance.prove.judging import PACKAGE_TESTS, Tell, Trial
from conformance.prove.mutants import Mutant, mutants_of, mutated
from conformance.prove.rows import CRASHED, HUNG, KILLED, SURVIVED, UNBORN, UNTIL_THE_LIMIT, Row
from conformance.prove.running import Runner, Running, Task
from conformance.selftest.every import every

FILE = "normkernels/plans.py"


def _at_values(tell: Tell) -> None:
    tell(("at", "values", "some item"))
    tell(("cases", "3"))


def _killed(tell: Tell) -> None:
    _at_values(tell)
    tell(("killed", "values", "some item", "wrong"))


def _crashed(tell: Tell) -> None:
    _at_values(tell)
    os.kill(os.getpid(), signal.SIGKILL)


def _ended_itself(tell: Tell) -> None:
    _at_values(tell)
    os._exit(3)


def _hung(tell: Tell) -> None:
    _at_values(tell)
    time.sleep(600)


def _busy(tell: Tell) -> None:
    while True:
        _at_values(tell)
        time.sleep(0.05)


ENDS: dict[str, tuple[Callable[[Tell], None], tuple[str, ...]]] = {
    "killed": (_killed, (KILLED, "values", "some item", "wrong")),
    "crashed": (_crashed, (CRASHED, "values", "some item", "killed by SIGKILL")),
    "ended itself": (_ended_itself, (CRASHED, "values", "some item", "ended with status 3")),
    "hung": (_hung, (HUNG, "values", "some item", "no answer within 1 s")),
    "busy": (_busy, (SURVIVED, "", "", UNTIL_THE_LIMIT)),
    "survived": (lambda tell: tell(("survived",)), (SURVIVED, "", "", "")),
    "unborn": (lambda tell: tell(("unborn", "SyntaxError")), (UNBORN, "", "", "SyntaxError")),
}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """Return the rows of mutants that end in all ways, several at once."""

    def judged(trial: Trial, tell: Tell) -> None:
        name = (trial.folder / FILE).read_text("utf-8").rpartition("# ")[2]
        ENDS[name][0](tell)

    monkeypatch.setattr(running, "judged", judged)
    monkeypatch.setitem(running.SILENCE, ("cpu", "quick"), 1.0)
    end = len((ROOT / FILE).read_bytes())
    mutants = [Mutant(name, FILE, 1, "", "", "", "", end, end, f"# {name}") for name in ENDS]
    tasks = deque(Task(mutant, "quick") for mutant in mutants)
    return {row.id: row for _, row in Runner("cpu", 3, 3.0).run(tasks, time.monotonic() + 60)}


def test_every_end_has_its_row(found: dict[str, Row]) -> None:
    """A verdict, a crash, silence and the limit are told apart, with the place where it happened."""
    assert {name: end for name, (_, end) in ENDS.items()} == {
        name: (row.verdict, row.by, row.where, row.why) for name, row in found.items()
    }
    assert {3} == {row.cases for row in found.values() if row.by}


@pytest.mark.parametrize(
    ("first", "failing", "run", "told"),
    [
        ("b.py::test_two[1]", "b.py::test_two[1]", ["b.py::test_two[1]"], []),
        ("b.py::test_two[1]", "", ["b.py::test_two[1]", "b.py", "a.py"], [("survived",)]),
        ("b.py::test_gone", "a.py", ["b.py::test_gone", "b.py", "a.py"], []),
        ("", "b.py", ["b.py"], []),
    ],
)
def test_the_test_that_killed_comes_first(
    first: str, failing: str, run: list[str], told: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run alone, then its file and the others, until something fails; it may be gone."""
    ran = []

    def main(options: list[str], plugins: list[Any]) -> pytest.ExitCode:
        ran.append(options[-1])
        plugins[0].failed = options[-1] == failing
        return pytest.ExitCode.USAGE_ERROR if "gone" in options[-1] else pytest.ExitCode.OK

    monkeypatch.setattr(pytest, "main", main)
    monkeypatch.chdir(ROOT)
    trial = Trial(ROOT, PACKAGE_TESTS, "cpu", (), ("b.py", "a.py"), first=first)
    heard = list[object]()
    judging._tested(trial, heard.append)

    assert (run, told) == (ran, heard)


def test_the_last_words_of_a_process_are_heard() -> None:
    """A process that tells where it is and dies, between two looks at it, has a row with that place."""
    ours, theirs = multiprocessing.Pipe()

    def dies() -> bool:
        theirs.send(("at", "values", "some item"))
        return False

    process: Any = SimpleNamespace(is_alive=dies, exitcode=-signal.SIGSEGV, join=lambda _: None, pid=os.getpid())
    mutant, now = Mutant("last", FILE, 1, "", "", "", "", 0, 0, ""), time.monotonic()
    row = Runner("cpu", 1, 600.0)._looked_at(Running(Task(mutant, "quick"), process, ours, Path(), now, now, 60.0))

    assert row is not None
    assert (CRASHED, "values", "some item", "killed by SIGSEGV") == (row.verdict, row.by, row.where, row.why)


def test_a_run_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that still runs at the end of the time has no row, and is judged by the next run."""
    monkeypatch.setattr(running, "judged", lambda trial, tell: time.sleep(600))
    mutant = Mutant("slow", FILE, 1, "", "", "", "", 0, 0, "")
    began = time.monotonic()

    assert [] == list(Runner("cpu", 1, 600.0).run(deque([Task(mutant, "quick")]), began + 1))
    assert time.monotonic() - began < 30


@every("name", ["normkernels/plans.py", "normkernels/kernels/mrope.py"])
def test_a_copy_differs_in_the_file_of_its_mutant_alone(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """The package of a mutant has every file of ours, and its own change."""
    folder: Path = tmp_path_factory.mktemp("copy")
    source = (ROOT / name).read_text("utf-8")
    mutant = mutants_of(name, source)[0]
    write(folder, mutant)
    copies = {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in folder.rglob("*.py")}

    assert {name} == {path for path, text in copies.items() if text != (ROOT / path).read_text("utf-8")}
    assert copies[name] == mutated(source, mutant)
    assert len(copies) == len(list((ROOT / "normkernels").rglob("*.py")))


def test_a_gpu_is_not_judged_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call on it would crash, and a crash kills: all would count as found."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with pytest.raises(UsageError, match="--lane cuda: this machine shows no GPU"):
        Runner.prepared("cuda", 1, 60.0)
