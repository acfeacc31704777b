"""Judging in several processes gives the same judgements, and a failing process does not end a run."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import ahead
from benchmarks import measure as measuring
from benchmarks.ahead import TRIES, Ahead, Job, _Queue, jobs, judge_ahead, search_nothing
from benchmarks.judged import Judgement, confirmed, judge
from benchmarks.measure import SMOKE, Implementations, measure
from benchmarks.peers import OURS, PEERS
from benchmarks.results import PASSED
from benchmarks.shapes import with_tokens, workloads
from conformance.adapters.eager import Eager
from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status
from conformance.selftest.processes import FORKS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BY_NAME = {workload.name: workload for workload in workloads()}
GATED = replace(BY_NAME["gated 1x24x128"], case=with_tokens(BY_NAME["gated 1x24x128"].case, 2))
NORM = replace(BY_NAME["gemma+res 1x2048"], case=with_tokens(BY_NAME["gemma+res 1x2048"].case, 2))
HERE = "benchmarks.test_ahead"


@pytest.fixture(name="forked")
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that judge after torch was imported, which a process with a GPU cannot."""
    if DEVICE == "cpu":
        monkeypatch.setattr(ahead, "PROCESSES", FORKS)


class Dying(Eager):
    """An implementation that ends its process."""

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """End the process."""
        os._exit(3)


class Wrong(Eager):
    """An implementation that adds one."""

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Call the formula, and add one."""
        y = super().rms_norm_gated(*given, **flags)
        assert isinstance(y, torch.Tensor)
        return y + 1


class Raising(Eager):
    """An implementation that raises, as for lack of memory next to other processes."""

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Raise."""
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")


@pytest.mark.usefixtures("forked")
def test_processes_judge_as_one_does() -> None:
    """Each implementation has the judgement of this process on each workload; wrong results are wrong in both."""
    targets = {"eager": PEERS["eager"], "wrong": f"{HERE}:Wrong"}
    found = judge_ahead((GATED, NORM), targets, DEVICE, crowd=3, workers=2)

    assert () == found.lost
    assert {"eager", "wrong"} == set(found.of(GATED)) == set(found.of(NORM))
    for workload in (GATED, NORM):
        here = judge(Subject(Eager(), DEVICE), workload, values_of(workload.case), 3)
        assert here == found.of(workload)["eager"]
    assert (Status.FAILED, Status.PASSED) == tuple(found.of(one)["wrong"].status for one in (GATED, NORM))


@pytest.mark.usefixtures("forked")
def test_a_process_that_dies_takes_no_other_judgement_with_it() -> None:
    """Earlier judgements are kept, missing ones are lost by name, and the next workload has a process again."""
    targets = {"eager": PEERS["eager"], "dying": f"{HERE}:Dying", "raising": f"{HERE}:Raising"}
    found = judge_ahead((GATED, NORM), targets, DEVICE, crowd=3, workers=1)

    assert {"eager"} == set(found.of(GATED))
    assert {"eager", "dying", "raising"} == set(found.of(NORM))
    assert [True] == [GATED.name in lost and "dying, raising" in lost for lost in found.lost]


@pytest.mark.usefixtures("forked")
def test_no_job_is_begun_for_want_of_time_or_processes() -> None:
    """Jobs that are left are named; processes that only die are not started forever."""
    late = judge_ahead((GATED,), {"eager": PEERS["eager"]}, DEVICE, crowd=3, workers=1, seconds=0.0)
    dying = judge_ahead((GATED,) * 4, {"dying": f"{HERE}:Dying"}, DEVICE, crowd=3, workers=1)

    assert ({}, (f"{GATED.name}: eager: not begun",)) == (late.judged, late.lost)
    assert [False] * TRIES + [True] * 2 == [lost.endswith("not begun") for lost in dying.lost]


def test_what_crashes_beside_others_is_judged_again_alone() -> None:
    """A crash for memory that other processes hold is no failure; a missing package is reported once."""
    targets = {"raising": f"{HERE}:Raising", "absent": f"{HERE}:Absent", "eager": PEERS["eager"]}
    found = judge_ahead((GATED,), targets, DEVICE, crowd=3, workers=1)

    assert ({"eager"}, ()) == (set(found.of(GATED)), found.lost)


def test_judgements_of_before_are_taken_and_searches_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An implementation is judged once; one that may have chosen differently since is checked again."""
    asked: list[str] = []

    def note(subject: Subject, *given: object) -> Judgement:
        asked.append(subject.declared.name)
        return judge(subject, *given)  # type: ignore[arg-type]

    def note_confirmed(subject: Subject, *given: object) -> Judgement:
        asked.append("confirmed")
        return confirmed(subject, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "judge", note)
    monkeypatch.setattr(measuring, "confirmed", note_confirmed)
    passed = Judgement(Status.PASSED, "", "", True)
    failed = Judgement(Status.FAILED, "y[0] = 2, must be 1")
    adapters = {OURS: Eager(), "compile": Wrong(), "told": Wrong(), "new": Eager()}
    adapters["new"].name = "new"
    before = {OURS: passed, "compile": passed, "told": failed}
    row = measure(GATED, Implementations(adapters, {}), DEVICE, SMOKE, before)

    assert ["confirmed", "new"] == asked
    assert [PASSED, "failed", "failed", PASSED] == [
        entry.status for name in (OURS, "compile", "told", "new") if (entry := row.entry(name))
    ]
    assert {"drawing", "judging", "capturing", "timing"} == set(row.seconds)


def test_long_jobs_come_first() -> None:
    """Searching implementations come first, then large workloads, then the rest in order."""
    todo = [BY_NAME[n] for n in ("gemma+res 1x5120", "gemma+res 128x2560", "gated 60381x24x128")]
    found = jobs(todo, ("ours", "eager", "compile autotuned"))

    assert [
        (todo[1].name, ("compile autotuned",)),
        (todo[2].name, ("compile autotuned",)),
        (todo[2].name, ("ours", "eager")),
        (todo[0].name, ("ours", "eager")),
        (todo[1].name, ("ours", "eager")),
    ] == [(job.workload.name, job.names) for job in found]


def test_jobs_wait_for_memory() -> None:
    """A job that does not fit next to others lets smaller ones pass; alone every job runs."""
    small, large = Job(GATED, ("a",)), Job(BY_NAME["gated 60381x24x128"], ("a",))
    queue = _Queue([large, large, small], room=large.bytes + small.bytes)
    first, second = queue.take(), queue.take()

    assert (large, small) == (first, second)
    taken: list[Job | None] = []
    waiting = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiting.start()
    waiting.join(timeout=0.2)
    assert [] == taken
    queue.done(large)
    waiting.join(timeout=10)
    assert [large] == taken
    assert queue.take() is None


def test_nothing_is_searched_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every choice runs once with the same reported time, and no choice is stored."""
    from torch._inductor import config
    from torch._inductor.runtime.benchmarking import benchmarker

    monkeypatch.setattr(config, "compile_threads", 4)
    monkeypatch.setattr(config, "autotune_local_cache", True)
    monkeypatch.setattr(benchmarker, "benchmark", benchmarker.benchmark)
    monkeypatch.setenv("FLA_CACHE_RESULTS", "1")
    testing = pytest.importorskip("triton.testing", reason="Triton is what searches")
    monkeypatch.setattr(testing, "do_bench", testing.do_bench)
    ran: list[int] = []

    search_nothing()

    assert 1.0 == benchmarker.benchmark(lambda: ran.append(0), device="cpu", rep=40)
    assert [1.0] * 3 == testing.do_bench(lambda: ran.append(1), quantiles=(0.5, 0.2, 0.8))
    assert [0, 1] == ran
    assert (1, False, "0") == (
        config.compile_threads,
        config.autotune_local_cache,
        os.environ["FLA_CACHE_RESULTS"],
    )


def test_no_judgement_is_anothers() -> None:
    """Judgements are found by the names of both workload and implementation."""
    one, other = Judgement(Status.PASSED), Judgement(Status.FAILED)
    found = Ahead({(GATED.name, "a"): one, (NORM.name, "a"): other})

    assert {"a": one} == found.of(GATED)
