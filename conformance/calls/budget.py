"""Memory limits of a process: its share of the machine, and of a GPU that several processes use.

On a GPU the share also decides which calls can be judged: a real model's call may need more.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from conformance.calls.materialize import buffer_of, spread
from conformance.cases.case import SHARED_PARTS, Case
from conformance.operations import OPERATIONS
from conformance.oracle.comparison import CHUNK

GIB = 2**30
# bytes an element: eight float32 numbers, for the steps that plain PyTorch has in memory at once
STEPS = 32
# bytes an element: the oracle's float64 intervals. Measured 64 to 168, by operation
ORACLE = 256
# bytes of GPU memory of a worker that more workers than usual must leave it, and the usual number
FOR_EACH = 8 * GIB
MOST_WORKERS = 8
FULL = "the GPU is full: "
# share of a GPU's free memory that one call may take: other processes use the rest
SPARED = 0.75
BESIDE = GIB  # bytes for the smaller tensors of such a call
PATIENCE, GLANCE = 4.0, 0.05  # seconds that a turn or memory is awaited, and between two looks
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}
_ASKED = re.compile(rf"Tried to allocate ([0-9.]+) ({'|'.join(_UNITS)})")


def fair_share(total: int, sharers: int) -> int:
    """Return the share of ``total`` bytes for one of ``sharers``. A fifth stays free, as for GPU contexts."""
    return total * 4 // (5 * sharers)


def default_workers(cores: int, gpu_memory: int) -> int:
    """Return how many processes judge if nobody says: one a core, as far as each has ``FOR_EACH`` of its GPUs.

    Without a GPU, and on small ones, they are ``MOST_WORKERS`` at most.
    """
    return min(cores, max(MOST_WORKERS, gpu_memory // FOR_EACH))


def fair_memory(workers: int) -> int:
    """Return the bytes of the machine's memory that the child of one of ``workers`` may hold."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: "max"
        machine = min(machine, int(_CONTAINER.read_text(encoding="ascii")))
    return fair_share(machine, workers)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A worker's limit of GPU memory: a fair share if several workers use that GPU, or ``given`` bytes."""

    sharers: int = 1
    given: int | None = None

    @classmethod
    def of(cls, workers: int, gpus: int, given: int | None = None) -> Allowance:
        """Return the share of the most crowded GPU for every worker. Workers are assigned to GPUs in turn."""
        return cls(math.ceil(workers / max(gpus, 1)), given)

    def bytes(self, total: int) -> int:
        """Return the limit on a GPU with ``total`` bytes."""
        return min(self.given or total, fair_share(total, self.sharers))


ALONE = Allowance()


@functools.cache
def keep(allowance: Allowance) -> int:
    """Limit this process on every GPU to its allowance; return the bytes for the current one. Starts CUDA."""
    for gpu in range(torch.cuda.device_count()):
        _limit(allowance.bytes(_total(gpu)), gpu)
    return allowance.bytes(_total(torch.cuda.current_device()))


@contextlib.contextmanager
def all_of_it(memory: int) -> Iterator[int]:
    """Lift this process's limit of ``memory`` bytes on the current GPU, for the context's time, to all it has.

    What it then holds and no longer uses stays with it, for the next such call: to give back and to take gigabytes
    keeps every process on the GPU waiting. :func:`within` gives it back.
    """
    gpu = torch.cuda.current_device()
    _limit(_total(gpu), gpu)
    try:
        yield _total(gpu)
    finally:
        _limit(memory, gpu)


@contextlib.contextmanager
def within(memory: int) -> Iterator[int]:
    """Give back what exceeds a limit of ``memory`` bytes, which holds for the context's time."""
    if reserved() > memory:
        torch.cuda.empty_cache()
    yield memory


@contextlib.contextmanager
def turn() -> Iterator[str]:
    """Let one process at a time use the current GPU, of those that ask; yield in words that it is not this one.

    Such calls, one after the other, may each have most of its memory.
    """
    until = time.monotonic() + PATIENCE
    with _lock("turn").open("w", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    yield "other processes use the GPU, fewer give more turns (-n)"
                    return
                time.sleep(GLANCE)
            else:
                yield ""
                return


def _lock(name: str) -> Path:
    """Return the file by which this user's processes on the current GPU agree on something."""
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    return Path(tempfile.gettempdir()) / f"conform-{os.getuid()}-{gpu}-{name}.lock"


def take(needed: int) -> str:
    """Take ``needed`` bytes of the GPU for tensors to come; return in words that it cannot spare them, or nothing.

    Other processes may hold them for calls of their own: they are awaited, and nothing is held meanwhile. One
    process at a time looks and takes: two that found the same memory free would both lack it in their calls.
    """
    until = time.monotonic() + PATIENCE
    needed += BESIDE
    while True:
        with _lock("memory").open("w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if needed <= _available() * SPARED and _taken(needed):
                return ""
        if needed > _total(torch.cuda.current_device()) * SPARED or time.monotonic() > until:
            return f"needs {gib(needed)} of a GPU with few others"
        torch.cuda.empty_cache()
        time.sleep(GLANCE)


def _taken(needed: int) -> bool:
    """Have PyTorch keep ``needed`` bytes that no tensor uses; return whether it has them."""
    if reserved() - allocated() < needed:
        torch.cuda.empty_cache()
        try:
            torch.empty(needed, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            return False
    return True


def _available() -> int:
    """Return the bytes of the current GPU that are free, or that this process holds and does not use."""
    free, _ = torch.cuda.mem_get_info()
    return free + reserved() - allocated()


def allocated() -> int:
    """Return the bytes of the current GPU that this process's tensors hold."""
    return _now("allocated_bytes")


def reserved() -> int:
    """Return the bytes of the current GPU that this process has from the driver, in use or not."""
    return _now("reserved_bytes")


def _now(name: str) -> int:
    """Return one statistic: ``torch.cuda.memory_allocated`` sorts all 200 first, which takes as long as a call."""
    found = torch.cuda.memory_stats_as_nested_dict()
    return int(found[name]["all"]["current"]) if found else 0


def _limit(memory: int, gpu: int) -> None:
    torch.cuda.set_per_process_memory_fraction(memory / _total(gpu), gpu)


def _total(gpu: int) -> int:
    total: int = torch.cuda.get_device_properties(gpu).total_memory
    return total


def memory_of_gpus() -> int:
    """Return the bytes of all GPUs that this process sees. Starts CUDA."""
    return sum(map(_total, range(torch.cuda.device_count())))


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a lack of GPU memory: PyTorch's own, or the driver's, also through Triton."""
    driver = isinstance(error, RuntimeError) and "out of memory" in str(error)
    return driver or isinstance(error, torch.OutOfMemoryError)


def full(memory: int | None, error: BaseException) -> str:
    """Return in words that this process, of ``memory`` bytes, was refused what it may still take; or nothing.

    ``error`` is the lack of memory. Other processes may hold it: their kernels and stacks count, which PyTorch
    does not limit. They may have given it back since, or this process itself keeps memory that no tensor uses,
    which a CUDA graph being captured cannot have: then the size that PyTorch says it was asked for decides.
    """
    if memory is None or not torch.cuda.is_available():
        return ""
    (free, _), due = torch.cuda.mem_get_info(), memory - reserved()
    if free < due:
        return f"{FULL}{gib(free)} is free, a worker here may take {gib(due)} more; fewer fit (-n)"
    asked, unused = _ASKED.search(str(error)), memory - allocated()
    if asked and float(asked[1]) * _UNITS[asked[2]] <= unused:
        return (
            f"{FULL}{asked[1]} {asked[2]} was not free, a worker here may take {gib(unused)} more; fewer fit (-n)"
        )
    return ""


def left_behind(memory: int) -> int:
    """Return the bytes of ``memory`` that a call may leave allocated on the GPU, for tables and workspaces."""
    return memory // 8


def lacking(case: Case, memory: int) -> str:
    """Return in words the memory that a case needs, where ``memory`` bytes are too few; or nothing."""
    room, wanted = memory - left_behind(memory), needed(case)
    if wanted <= room:
        return ""
    shape = "x".join(map(str, case.tensors[0][1].shape))
    return f"needs {gib(wanted)} of GPU memory for {shape}, a worker here has {gib(room)}"


def needed(case: Case) -> int:
    """Return the bytes of GPU memory to judge a call: two calls, copies of their arguments, and all temporaries.

    Sparse arguments of gigabytes do not count: ``large_index``, which has them, checks its own memory.
    """
    buffers: dict[object, int] = {}
    for name, spec in case.tensors:
        place = None if case.source(name) != name else spec.layout.place(spec.shape, SHARED_PARTS)
        if place is not None and not spread(spec, place):
            dtype: torch.dtype = getattr(torch, spec.dtype)
            buffers[buffer_of(spec) or name] = place.extent * dtype.itemsize
    outputs = [(math.prod(out.shape), out.dtype.itemsize) for out in OPERATIONS[case.operation].outputs(case)]
    counts = [count for count, _ in outputs]
    between = max(STEPS * max(counts), ORACLE * min(sum(counts), CHUNK))
    return 2 * (2 * sum(buffers.values()) + sum(count * size for count, size in outputs)) + between


def gib(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / GIB:.3g} GiB"
