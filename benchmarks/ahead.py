"""Judging in parallel processes, before any timing; afterwards a single process times.

Judging is mostly compiling, and compiling is for many cores. Code that the workers compile stays in the caches
that Triton and ``torch.compile`` have on disk. Choices by measurement are not kept: next to other processes a time
means nothing, so an implementation that searches does so again when it is timed, alone.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from benchmarks.judged import Judgement, judge
from benchmarks.measure import let_go
from benchmarks.peers import SLOW_TO_BUILD
from benchmarks.shapes import Workload
from conformance.adapter import Adapter, load, poisons
from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status
from conformance.runs.host import faithful_interpreter

Targets = Mapping[str, str]  # targets that adapters are loaded from, by name
Judged = dict[tuple[str, str], Judgement]  # judgements by workload and implementation

# inputs, two copies of them, outputs, and plain PyTorch's intermediate results in float32
HELD = 10  # bytes per byte that a call moves
CONTEXT = 10**9  # bytes of a process's CUDA context and modules
USED = 0.85  # of the GPU's free memory
LARGE = 2**28  # bytes from which a workload is judged before others, so that no long job comes last
LIMIT = 150.0  # seconds without an answer, after which a process is killed
TRIES = 2  # processes in a row that answer nothing, after which no other is started
MOST_WORKERS = 14
PROCESSES = multiprocessing.get_context("spawn")  # a forked process could not use CUDA


@dataclass(frozen=True, slots=True)
class Job:
    """Some implementations to be judged on one workload, by one process."""

    workload: Workload
    names: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Return the GPU memory that the job may take."""
        return HELD * self.workload.bytes


@dataclass(frozen=True, slots=True)
class Ahead:
    """Judgements made ahead, with their seconds and number of processes, and the jobs that failed."""

    judged: Judged
    seconds: float = 0.0
    workers: int = 0
    lost: tuple[str, ...] = ()

    def of(self, workload: Workload) -> dict[str, Judgement]:
        """Return the judgements of a workload, by implementation."""
        return {name: found for (told, name), found in self.judged.items() if told == workload.name}


NOTHING = Ahead({})


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that judges, and the connection to it."""

    process: SpawnProcess
    line: Connection


def workers_for(device: str) -> int:
    """Return the default number of judging processes: none without a GPU, else all cores but two."""
    return 0 if device == "cpu" else max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - 2))


def judge_ahead(
    todo: Sequence[Workload],
    targets: Targets,
    device: str,
    crowd: int,
    workers: int,
    *,
    seconds: float | None = None,
) -> Ahead:
    """Judge every implementation on every workload in ``workers`` processes; begin nothing after ``seconds``.

    A job whose process dies, hangs or raises is lost: its judgements, except those already made, are
    left to the caller.
    """
    begun = time.monotonic()
    end = math.inf if seconds is None else begun + seconds
    queue = _Queue(list(jobs(todo, tuple(targets))), max(_free(device) - workers * CONTEXT, 0), end)
    found: Judged = {}
    lost: list[str] = []

    def start() -> Worker:
        return _started(targets, device, crowd)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_attend, queue, start, found, lost) for _ in range(workers)]:
            done.result()
    lost.extend(f"{job.workload.name}: {', '.join(job.names)}: not begun" for job in queue.waiting)
    return Ahead(found, time.monotonic() - begun, workers, tuple(lost))


def jobs(todo: Sequence[Workload], names: tuple[str, ...]) -> tuple[Job, ...]:
    """Return all jobs, the longest first: implementations that search for long, large workloads, all others."""
    usual = tuple(name for name in names if name not in SLOW_TO_BUILD)
    slow = tuple(name for name in names if name in SLOW_TO_BUILD)
    searching = [Job(one, slow) for one in todo if one.autotuned and slow]
    rest = [Job(one, usual) for one in todo if usual]
    return (*searching, *sorted(rest, key=lambda job: job.workload.bytes < LARGE))


def _free(device: str) -> int:
    return int(USED * torch.cuda.mem_get_info()[0]) if device != "cpu" else 0


@dataclass(slots=True)
class _Queue:
    """Jobs in order, of which as many run as memory allows, and always at least one."""

    waiting: list[Job]
    room: int
    end: float = math.inf  # on the monotonic clock: no job starts later
    held: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self) -> Job | None:
        """Return the first job that fits into free memory; wait for one to end; return None if none is left."""
        with self.changed:
            while self.waiting and time.monotonic() < self.end:
                for place, job in enumerate(self.waiting):
                    if not self.held or self.held + job.bytes <= self.room:
                        self.held += job.bytes
                        return self.waiting.pop(place)
                self.changed.wait()
            return None

    def done(self, job: Job) -> None:
        """Release the memory of the job."""
        with self.changed:
            self.held -= job.bytes
            self.changed.notify_all()


def _attend(
    queue: _Queue,
    start: Callable[[], Worker],
    found: Judged,
    lost: list[str],
) -> None:
    """Give a process one job after another, and start another process if it fails."""
    worker: Worker | None = None
    barren = 0
    while barren < TRIES and (job := queue.take()):
        missing = set(job.names)
        try:
            worker = worker or start()
            worker.line.send(job)
            while (said := _answer(worker.line)) is not None:
                name, judgement = said
                missing.discard(name)
                if judgement is not None:
                    found[job.workload.name, name] = judgement
        except (EOFError, OSError) as error:
            why = f"{type(error).__name__} {error}".strip()
            lost.append(f"{job.workload.name}: {', '.join(sorted(missing))}: {why}")
            if worker:
                _ended(worker)
            worker = None
        finally:
            queue.done(job)
        barren = 0 if missing < set(job.names) else barren + 1
    if worker:
        with suppress(OSError):
            worker.line.send(None)
        worker.process.join(timeout=10)
        _ended(worker)


def _answer(line: Connection) -> tuple[str, Judgement | None] | None:
    """Return the next judgement of a job, or None at its end. Raises ``TimeoutError`` if none comes in time."""
    if not line.poll(LIMIT):
        message = f"no answer within {LIMIT:g} s"
        raise TimeoutError(message)
    said: tuple[str, Judgement | None] | None = line.recv()
    return said


def _ended(worker: Worker) -> None:
    worker.line.close()
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()


def _started(targets: Targets, device: str, crowd: int) -> Worker:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_work, args=(theirs, dict(targets), device, crowd), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours)


# --- in a worker ------------------------------------------------------------------------------------------------


def _work(line: Connection, targets: Targets, device: str, crowd: int) -> None:
    """Judge jobs until none comes; answer with each judgement, and with None after the last one of a job."""
    torch.set_num_threads(1)
    if device == "cpu":
        faithful_interpreter()
    search_nothing()
    adapters: dict[str, Adapter | None] = {}
    while job := line.recv():
        values = {name: tensor.to(device) for name, tensor in values_of(job.workload.case).items()}
        for name in job.names:
            if name not in adapters:
                adapters[name] = _loaded(targets[name])
            adapter = adapters[name]
            # an adapter that cannot be loaded is not judged; the process that times says why
            if adapter is None:
                line.send((name, None))
                continue
            judgement = judge(Subject(adapter, device), job.workload, values, crowd)
            poisoned = judgement.status is Status.CRASHED and poisons(judgement.reason)
            # alone on the GPU the call may not crash: unless the GPU is lost, the process that times tries again
            kept = judgement if poisoned or judgement.status is not Status.CRASHED else None
            line.send((name, kept))
            if poisoned:
                return
        line.send(None)
        del values
        let_go(device)


def _loaded(target: str) -> Adapter | None:
    try:
        return load(target)
    except Exception:  # noqa: BLE001 - a third-party package may fail to import in any way
        return None


def one_thread() -> None:
    """Make ``torch.compile`` compile in this process: a pool per process would exceed the cores many times."""
    from torch._inductor import config

    config.compile_threads = 1


def search_nothing() -> None:
    """Make every search in this process run each choice once, take the first, and store none on disk.

    So all choices are compiled and cached, and none is chosen by a time that other processes disturbed.
    """
    # flash-linear-attention stores its choices on disk
    os.environ["FLA_CACHE_RESULTS"] = "0"
    one_thread()
    from torch._inductor import config
    from torch._inductor.runtime.benchmarking import benchmarker

    # this setting is no part of the cache key of a compiled graph
    config.autotune_local_cache = False
    benchmarker.benchmark = _once  # type: ignore[assignment,method-assign]
    with suppress(ImportError):
        import triton.testing

        triton.testing.do_bench = _as_quantiles


def _once(fn: Callable[..., object], fn_args: Any = (), fn_kwargs: Any = None, **_: object) -> float:  # noqa: ANN401
    """Run the call, and report a time of one millisecond."""
    fn(*(fn_args or ()), **(fn_kwargs or {}))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1.0


def _as_quantiles(
    fn: Callable[[], object], *_: object, quantiles: Sequence[float] | None = None, **__: object
) -> Any:  # noqa: ANN401
    """Return the fixed time in the form that Triton's search expects."""
    took = _once(fn)
    return took if quantiles is None else [took] * len(quantiles)
