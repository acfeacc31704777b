"""GPU memory limits of processes: a call that needs more is reported as not judged."""

from __future__ import annotations

import fcntl
import importlib
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance import plugin, report
from conformance.adapter import Adapter, load
from conformance.calls import budget
from conformance.calls.budget import ALONE, FULL, GIB, Allowance, default_workers, fair_share, lacking, needed
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import SAME, Case, Layout, TensorSpec
from conformance.cases.corpus import model_shapes
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.report import table
from conformance.report.document import GpuMemory
from conformance.runs.host import gpus
from conformance.runs.item import Item, cases_of
from conformance.runs.judge import judge, judge_item
from conformance.runs.worker import starved
from conformance.selftest.fakes.correct import Correct

H200 = 150 * 10**9
X = TensorSpec((1000, 4096), "bfloat16")
CASE = Case(
    "rms_norm_gated",
    (
        ("x", X),
        ("gate", replace(X, values="gate")),
        ("weight", TensorSpec((4096,), "bfloat16", values="weight")),
    ),
    (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True)),
)


class Greedy(Correct):
    """An implementation that allocates more memory than exists."""

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Raise PyTorch's out-of-memory error."""
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a capacity of 8 GiB"
        )


@pytest.mark.parametrize(("workers", "gpus", "sharers"), [(1, 1, 1), (8, 1, 8), (8, 8, 1), (3, 2, 2), (2, 4, 1)])
def test_workers_divide_their_gpu_fairly(workers: int, gpus: int, sharers: int) -> None:
    """The workers of one GPU together never use all of it, and every worker of a run has the same share."""
    allowance = Allowance.of(workers, gpus)

    assert sharers == allowance.sharers
    assert fair_share(H200, sharers) == allowance.bytes(H200)
    assert 0.75 * H200 < sharers * allowance.bytes(H200) <= 0.8 * H200


@pytest.mark.parametrize(
    ("cores", "memory", "workers"),
    [(2, 0, 2), (64, 0, 8), (64, 24 * GIB, 8), (64, H200, 17), (64, 2 * H200, 34), (16, 2 * H200, 16)],
)
def test_more_workers_than_usual_have_memory_of_their_gpu(cores: int, memory: int, workers: int) -> None:
    """Without a GPU, or on a small one, there are eight at most; never more than cores."""
    assert workers == default_workers(cores, memory)


@pytest.mark.parametrize(
    ("known", "seen"),
    [({"workerinput": {"workerid": "gw3", "workercount": 5}}, "7"), ({}, "4,7")],
    ids=["worker", "main"],
)
def test_a_worker_and_who_started_it_know_the_same_share(
    known: dict[str, Any], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With five workers on two GPUs three share one. Each worker sees only its own; all compute the same share."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    option = SimpleNamespace(gpu_memory=1.5, device="cpu", tx=["popen"] * 5, operations=[])
    config: Any = SimpleNamespace(option=option, stash=pytest.Stash(), **known)
    plugin.pytest_configure(config)

    assert Allowance(3, 3 * GIB // 2) == config.stash[plugin._ALLOWANCE]
    assert seen == os.environ["CUDA_VISIBLE_DEVICES"]


def test_what_is_given_is_no_more_than_a_share() -> None:
    """A limit from the user can lower a worker's share, and never raises it."""
    assert 2 * GIB == Allowance.of(8, 1, 2 * GIB).bytes(H200)
    assert Allowance.of(8, 1).bytes(H200) == Allowance.of(8, 1, 2**60).bytes(H200)


def test_a_process_is_held_to_its_share_of_every_gpu_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's limits are fractions; the reported limit is the current GPU's."""
    held: dict[int, float] = {}
    totals = {0: H200, 1: H200 // 2}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(budget, "_total", totals.__getitem__)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, gpu: held.__setitem__(gpu, part)
    )
    memory = budget.keep.__wrapped__(Allowance(4))

    assert H200 // 10 == memory
    assert {0: 0.2, 1: 0.2} == pytest.approx(held)
    with budget.all_of_it(memory) as whole:
        assert H200 // 2 == whole
        assert {0: 0.2, 1: 1.0} == pytest.approx(held)
    assert {0: 0.2, 1: 0.2} == pytest.approx(held)


@pytest.mark.parametrize("used", [False, True])
def test_held_memory_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, *, used: bool) -> None:
    """Its flat functions, which take longer, read the same statistics; before its first use a GPU has none."""
    statistics = {
        f"{name}_bytes": {"all": {"current": now, "peak": 9}, "small_pool": {"current": 8}}
        for name, now in (("allocated", 5), ("reserved", 7))
    }
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda: statistics if used else {})
    flat = {"allocated_bytes.all.current": 5, "reserved_bytes.all.current": 7} if used else {}
    monkeypatch.setattr(torch.cuda.memory, "memory_stats", lambda device: flat)

    assert (torch.cuda.memory_allocated(0), torch.cuda.memory_reserved(0)) == (
        budget.allocated(),
        budget.reserved(),
    )


def test_memory_of_a_large_call_is_given_back_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a call within the worker's share, and only then: what it holds counts as available until then."""
    given: list[int] = []
    held = {"reserved": 30 * GIB, "allocated": GIB}
    monkeypatch.setattr(budget, "reserved", lambda: held["reserved"])
    monkeypatch.setattr(budget, "allocated", lambda: held["allocated"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(held["reserved"]))

    assert 69 * GIB == budget._available()
    with budget.within(30 * GIB) as memory:
        assert [] == given
        assert 30 * GIB == memory
    with budget.within(8 * GIB):
        assert [30 * GIB] == given


def test_memory_of_others_is_awaited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that waits holds nothing; it does not wait where the whole GPU has too little."""
    told: list[str] = []
    _shared_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr(budget, "_taken", lambda _: True)
    free = iter([20, 20, 50, 20, 20, *[30] * 10**6])
    monkeypatch.setattr(budget, "_available", lambda: next(free) * GIB)
    monkeypatch.setattr(budget, "_total", lambda _: 80 * GIB)
    monkeypatch.setattr(budget, "GLANCE", 0.0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("given back"))

    assert "" == budget.take(36 * GIB)
    assert ["given back"] * 2 == told
    assert "needs 61 GiB of a GPU with few others" == budget.take(60 * GIB)
    assert ["given back"] * 2 == told
    monkeypatch.setattr(budget, "PATIENCE", 0.01)
    assert "needs 37 GiB of a GPU with few others" == budget.take(36 * GIB)


def test_memory_is_taken_by_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others look at what is free only when it is taken. What the process holds unused is not taken again."""
    _shared_gpu(monkeypatch, tmp_path)
    held, taken, others = {"reserved": 8 * GIB}, [], []
    lacking = iter([True, False])

    def _empty(size: int, **_: object) -> None:
        with budget._lock("memory").open("w", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                others.append("wait")
        if next(lacking):
            raise torch.OutOfMemoryError
        taken.append(size)
        held["reserved"] = size

    monkeypatch.setattr(budget, "_available", lambda: 60 * GIB)
    monkeypatch.setattr(budget, "_total", lambda _: 80 * GIB)
    monkeypatch.setattr(budget, "GLANCE", 0.0)
    monkeypatch.setattr(budget, "reserved", lambda: held["reserved"])
    monkeypatch.setattr(budget, "allocated", lambda: GIB)
    monkeypatch.setattr(torch, "empty", _empty)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.update(reserved=GIB))

    assert "" == budget.take(6 * GIB)
    assert ([], []) == (taken, others)
    # lacking once, as others took it between the look and the allocation
    assert "" == budget.take(36 * GIB)
    assert ([37 * GIB], ["wait", "wait"]) == (taken, others)
    assert "" == budget.take(35 * GIB)
    assert [37 * GIB] == taken


def _shared_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have processes agree on the current GPU in a folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="one"))


def test_a_case_needs_more_than_its_tensors() -> None:
    """Two calls hold arguments, copies and results, plus the intermediate tensors."""
    tensors = 2 * 2 * 1000 * 4096 + 2 * 4096
    doubled = CASE.with_tensor("x", replace(X, dtype="float32"))

    assert 2 * (2 * tensors + 2 * 1000 * 4096) < needed(CASE) < 100 * tensors
    assert needed(CASE) < needed(doubled)


def test_memory_is_counted_once_and_where_it_is() -> None:
    """Tensors in one buffer, or the same tensor twice, count once; gaps of a layout count, huge ones do not."""
    gate = replace(X, values="gate")
    shared = CASE.with_tensor("x", replace(X, layout=Layout("shared", 0)))
    shared = shared.with_tensor("gate", replace(gate, layout=Layout("shared", 1)))
    same = CASE.with_tensor("gate", replace(gate, layout=Layout(SAME)))
    gaps = CASE.with_tensor("x", replace(X, layout=Layout("row_gap", 4096)))
    far = CASE.with_tensor("x", replace(X, shape=(4, 8), layout=Layout("row_gap", 2**31)))

    assert needed(CASE) == needed(shared)
    assert needed(same) == needed(CASE) - 4 * 2 * 1000 * 4096
    assert needed(gaps) == needed(CASE) + 4 * 2 * 1000 * 4096
    assert needed(far) < needed(CASE)


def test_every_call_of_a_real_model_is_drawn_for_a_gpu() -> None:
    """No call is dropped for its number of tokens; only the available memory can exclude one."""
    for operation in OPERATIONS:
        item = Item(operation, "layout", "bfloat16", "ci")
        subject = Subject(load("native"), "cuda")
        parts = [replace(item, chunk=chunk) for chunk in range(4)]
        drawn = {case for part in parts for case in _before_the_array(part, subject)}
        for shape in model_shapes():
            if shape.operation == operation and shape.dtype == "bfloat16":
                assert OPERATIONS[operation].model_case(shape, max(shape.prefill or shape.decode)) in drawn


def _before_the_array(item: Item, subject: Subject) -> list[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conformance.runs.item.chosen_cases", lambda *_: ())
        return list(cases_of(item, subject))


def test_alone_on_a_large_gpu_every_real_call_is_judged() -> None:
    """Only the worker's share of the GPU decides: for eight workers some calls are too large."""
    calls = [OPERATIONS[s.operation].model_case(s, tokens) for s in model_shapes() for tokens in s.prefill]
    too_large = {n: sum(bool(lacking(case, Allowance(n).bytes(H200))) for case in calls) for n in (1, 8)}

    assert 0 == too_large[1]
    assert 0 < too_large[8] < len(calls) / 4


def test_a_call_that_does_not_fit_is_not_judged_and_says_so() -> None:
    """The reason has the sizes and the shape; no tensor is made for the call."""
    subject = Subject(Greedy(), memory=needed(CASE))
    (verdict,) = judge(subject, "values", CASE)

    assert Status.NOT_JUDGED is verdict.status
    assert "GiB of GPU memory for 1000x4096, a worker here has" in verdict.reason
    assert not lacking(CASE, math.ceil(needed(CASE) * 8 / 7))


def test_an_item_counts_what_does_not_fit() -> None:
    """Cases that fit are judged, and the others count as not judged."""
    item = Item("rms_norm_gated", "determinism", "float32")
    verdicts = list(judge_item(item, Subject(Correct(), memory=2**22)))
    named = [v for v in verdicts if v.property == "determinism"]
    too_large = [v for v in named if "of GPU memory for" in v.reason]

    assert too_large
    assert {Status.NOT_JUDGED} == {v.status for v in too_large}
    assert {Status.PASSED} == {v.status for v in named} - {Status.NOT_JUDGED}


def test_an_implementation_that_runs_out_of_memory_crashes() -> None:
    """The verdict names the limit and the requested size; the GPU stays usable."""
    (verdict,) = judge(Subject(Greedy(), memory=8 * GIB), "values", CASE)

    assert Status.CRASHED is verdict.status
    assert "held more than 8 GiB of GPU memory: CUDA out of memory. Tried to allocate 9.00 GiB." == verdict.reason


LACKS = {
    "PyTorch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.50 GiB. GPU 0 has 3 MiB free"),
    "the driver": torch.AcceleratorError("CUDA error: out of memory"),
    "Triton": RuntimeError("Triton Error [CUDA]: out of memory"),
}


def _a_gpu(monkeypatch: pytest.MonkeyPatch, free: int, reserved: int = GIB, allocated: int = GIB) -> None:
    """Have a GPU with ``free`` bytes, of which this process has ``reserved`` others, and uses ``allocated``."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, H200))
    monkeypatch.setattr(budget, "reserved", lambda: reserved)
    monkeypatch.setattr(budget, "allocated", lambda: allocated)


@pytest.mark.parametrize("where", ["the implementation", "the suite"])
@pytest.mark.parametrize("lack", LACKS)
@pytest.mark.parametrize(("free", "judged"), [(3 * 2**20, False), (7 * GIB - 1, False), (7 * GIB, True)])
def test_memory_that_others_hold_is_no_failure(
    free: int, lack: str, where: str, monkeypatch: pytest.MonkeyPatch, *, judged: bool
) -> None:
    """A worker that may take 7 GiB more was refused them; with so much free the call took more than its share."""
    _a_gpu(monkeypatch, free)

    def raises(*_: object) -> tuple[Verdict, ...]:
        raise LACKS[lack]

    if where == "the suite":
        monkeypatch.setitem(PROPERTIES, "values", replace(PROPERTIES["values"], judge=raises))
    else:
        monkeypatch.setattr(Greedy, "load", raises)
    (verdict,) = judge(Subject(Greedy(), memory=8 * GIB), "values", CASE)

    wanted = Status.CRASHED if judged and where == "the implementation" else Status.NOT_JUDGED
    assert wanted is verdict.status
    assert verdict.reason.startswith(FULL) is not judged
    assert judged or verdict.reason.endswith("a worker here may take 7 GiB more; fewer fit (-n)")


@pytest.mark.parametrize("asked", ["258.00 MiB", "7.00 GiB", "512 bytes"])
def test_memory_that_others_have_given_back_is_no_failure(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU has room again when the worker looks, but the call asked for no more than its share."""
    _a_gpu(monkeypatch, 100 * GIB)
    calls: list[str] = []

    def raises(*_: object) -> torch.Tensor:
        calls.append(asked)
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked}. GPU 0 has 3 MiB free")

    monkeypatch.setattr(Greedy, "load", raises)
    subject = Subject(Greedy(), memory=8 * GIB)
    PROPERTIES["values"].judge(subject, CASE)
    once = len(calls)
    (verdict,) = judge(subject, "values", CASE)

    assert Status.NOT_JUDGED is verdict.status
    # a new process tries it again, and not this one
    assert starved((verdict,))
    assert 2 * once == len(calls)
    assert f"{FULL}{asked} was not free, a worker here may take 7 GiB more; fewer fit (-n)" == verdict.reason


@pytest.mark.parametrize(("asked", "judged"), [("20.00 MiB", False), ("7.00 GiB", False), ("7.01 GiB", True)])
def test_memory_that_no_tensor_uses_is_no_failure(
    asked: str, monkeypatch: pytest.MonkeyPatch, *, judged: bool
) -> None:
    """The worker keeps all of its share, and uses a gibibyte: a graph that is captured cannot have the rest."""
    _a_gpu(monkeypatch, 100 * GIB, 8 * GIB - 1)

    def raises(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked}. GPU 0 has 3 MiB free")

    monkeypatch.setattr(Greedy, "load", raises)
    (verdict,) = judge(Subject(Greedy(), memory=8 * GIB), "values", CASE)

    assert (Status.CRASHED if judged else Status.NOT_JUDGED) is verdict.status
    assert starved((verdict,)) is not judged


def test_a_suite_that_runs_out_of_memory_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the suite itself lacks is a limit of the machine, and no failure of the implementation."""

    def judged(subject: Subject, case: Case) -> tuple[Verdict, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(PROPERTIES, "values", replace(PROPERTIES["values"], judge=judged))
    (verdict,) = judge(Subject(Correct(), memory=8 * GIB), "values", CASE)

    assert Status.NOT_JUDGED is verdict.status
    assert "judging it takes more than the 8 GiB of GPU memory that a worker has" == verdict.reason


def test_the_header_says_what_a_worker_might_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header has the limit in bytes and as text; on a CPU it has none."""
    module = importlib.import_module("conformance.report.header")
    monkeypatch.setattr(module, "_gpu_of_a_child", lambda: ("Some GPU (capability 9.0)", H200))

    def made(device: str, allowance: Allowance) -> report.Header:
        return report.header(Subject(_Silent(), device), profile="quick", seed=0, allowance=allowance)

    shared, alone = made("cuda", Allowance(8)), made("cuda", ALONE)
    assert GpuMemory(8, H200 // 10) == shared.gpu_memory
    assert "Some GPU (capability 9.0), 14 GiB of it for each of 8 workers;" in table.heading(shared)[0]
    assert "112 GiB of it for each of 1 worker;" in table.heading(alone)[0]
    assert made("cpu", ALONE).gpu_memory is None
    assert "GiB" not in table.heading(made("cpu", ALONE))[0]


class _Silent(Adapter):
    """An adapter that declares nothing."""

    name = "silent"


@pytest.mark.skipif(not gpus(), reason="needs a GPU: its driver says what there is")
def test_a_gpu_says_what_it_has() -> None:
    """The header reads a GPU's memory without CUDA in this process; a limited process reads it itself."""
    made = report.header(Subject(_Silent(), "cuda"), profile="quick", seed=0, allowance=Allowance(4))

    assert "capability" in made.device
    assert made.gpu_memory is not None
    assert GIB < made.gpu_memory.bytes
