"""A kernel that ends its process, never returns or uses up memory loses its own verdicts; the run goes on."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conformance.runs.host import gpus
from conformance.selftest.processes import judged

# a right implementation except for wide rows, which have another fault in each dtype
ADAPTER = """
    import ctypes, os, sys, time
    import torch
    import torch.nn.functional as F
    import triton, triton.language as tl
    from conformance import Adapter, Declined

    KEPT = []
    POISONED = []
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p

    @triton.jit
    def strays(ptr, DISTANCE: tl.constexpr):
        tl.store(ptr + DISTANCE, 1.0)

    def corrupts_the_heap():
        # what a write past the block before it does: free() finds a size that cannot be, and aborts
        block = libc.malloc(2000)
        ctypes.memset(block - 16, 0xFF, 16)
        libc.free(ctypes.c_void_p(block))

    def leaks_for_ever():
        while True:
            KEPT.append(b"x" * 2**24)

    def poisons_the_context():
        # what CUDA says of an illegal address, and says again of all that the process then does
        POISONED.append(1)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    class Faulty(Adapter):
        contracts = {"rms_norm_gated": "fp32"}
        # without a claim, a survey would find out that wide rows are not for this one
        silu = {"norm_before_gate": "yes", "activation": "silu", "gate": "same"}
        takes = {"rms_norm_gated": {"group": "none", **silu}}

        def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
            if group_size is not None or gate is None or not norm_before_gate or activation != "silu":
                raise Declined("silu gate after an ungrouped norm only")
            if POISONED:
                poisons_the_context()
            y = x.double()
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.double()
            out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            out.copy_((y * F.silu(gate.double())).float())
            if x.shape[-1] > 1000:
                FAULT
            return out
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of Python, the suite's expected message, and the expected end of its reproducer."""

    line: str
    status: str
    reason: str
    ends: int | None = 1


FAULTS = {
    # 4 MB past the end of the output, in the interpreter
    "a kernel that writes far out of bounds": Fault(
        "strays[(1,)](out, DISTANCE=2**20)", "crashed", "killed by SIGSEGV"
    ),
    "a segmentation fault": Fault("ctypes.string_at(0)", "crashed", "killed by SIGSEGV"),
    "a corrupted heap": Fault("corrupts_the_heap()", "crashed", "killed by SIGABRT"),
    "a killed process": Fault("os.kill(os.getpid(), 9)", "crashed", "killed by SIGKILL"),
    "an exit": Fault("os._exit(3)", "crashed", "ended itself with status 3"),
    "an exception": Fault("raise RuntimeError('out of registers')", "crashed", "RuntimeError: out of registers"),
    # one case alone leaves less behind
    "memory that every call leaves behind": Fault(
        "KEPT.append(b'x' * 2**27)", "crashed", "held more than 0.5 GiB of memory", 0
    ),
    # its script would use up all memory, or wait for a minute
    "a call that takes all memory": Fault("leaks_for_ever()", "crashed", "held more than 0.5 GiB of memory", None),
    "a hang": Fault("time.sleep(600)", "hung", "no answer within 4 s", None),
}
# faults of a kernel on its process's GPU: Python may be aborted at its end if the context is broken
GPU_FAULTS = {
    "a kernel that writes to an illegal address": Fault(
        "strays[(1,)](out, DISTANCE=2**40)", "crashed", "an illegal memory access was encountered", None
    ),
    "a call that takes all memory of the GPU": Fault(
        # no generator: in what exec() runs, the scope of one does not see x
        "KEPT.extend(map(x.new_empty, [(2**28,)] * 2**12))",
        "crashed",
        "held more than 2 GiB of GPU memory",
        None,
    ),
    "memory of the GPU that calls leave behind": Fault(
        "KEPT.append(torch.empty(5 * 2**25, dtype=torch.uint8, device=x.device))",
        "crashed",
        "of GPU memory behind, of 2 GiB",
        None,
    ),
}
DTYPES = ("bfloat16", "float16", "float32")
ON_THE_CPU = ("--device", "cpu", "--limit", "4", "--memory", "0.5")
# CUDA, and Triton with what it compiles, take seconds to begin
ON_A_GPU = ("--device", "cuda", "--limit", "60", "--gpu-memory", "2")
TRIOS = [tuple(FAULTS)[i : i + 3] for i in range(0, len(FAULTS), 3)]


def _run(folder: Path, lines: dict[str, str], *options: str) -> tuple[int, str, dict[str, Any]]:
    """Judge an implementation with a fault in each dtype; return exit status, output and report."""
    fault = "; ".join(f"exec({{torch.{d}: {line!r}}}.get(x.dtype, ''))" for d, line in lines.items())
    file = folder / "faulty.py"
    file.write_text(textwrap.dedent(ADAPTER).replace("FAULT", fault))
    command = ["-m", "pytest", "-p", "conformance.plugin", "--pyargs", "conformance.suite"]
    given = ["--adapter", str(file), "--report", str(folder / "report")]
    given += ["--op", "rms_norm_gated", "--property", "values"]
    done = judged(folder, *command, *given, *options, "-q", "-p", "no:cacheprovider", COLUMNS="200")
    report = json.loads((folder / "report" / "report.json").read_text())
    return done.returncode, done.stdout, report


@pytest.mark.parametrize("names", TRIOS, ids=" & ".join)
def test_a_fault_costs_its_own_verdicts_only(names: tuple[str, ...], tmp_path: Path) -> None:
    """Exit 1; each case has its fate and a script that shows it, and every other verdict stands."""
    faults = dict(zip(DTYPES, (FAULTS[name] for name in names), strict=True))
    code, shown, report = _run(tmp_path, {dtype: fault.line for dtype, fault in faults.items()}, *ON_THE_CPU)
    _costs_its_own_verdicts(faults, code, shown, report)


@pytest.mark.skipif(not gpus(), reason="needs a GPU: only its driver poisons a context and counts its memory")
def test_a_fault_on_a_gpu_costs_its_own_verdicts_only(tmp_path: Path) -> None:
    """A context that a kernel breaks, and memory that it takes, belong to one process."""
    faults = dict(zip(DTYPES, GPU_FAULTS.values(), strict=True))
    code, shown, report = _run(tmp_path, {dtype: fault.line for dtype, fault in faults.items()}, *ON_A_GPU)

    _costs_its_own_verdicts(faults, code, shown, report)
    assert 2 * 2**30 == report["header"]["gpu_memory"]["bytes"]
    (poisoned,) = (failure for failure in report["failures"] if failure["dtype"] == DTYPES[0])
    assert judged(tmp_path, poisoned["reproducer"]).returncode


def test_a_poisoned_context_spoils_no_later_verdict(tmp_path: Path) -> None:
    """Every case after the fault runs in a fresh process: narrow rows pass, wide ones crash."""
    code, shown, report = _run(tmp_path, {"bfloat16": "poisons_the_context()"}, *ON_THE_CPU)
    rows = {row["dtype"]: row["counts"] for row in report["results"] if row["property"] == "values"}

    assert code == 1, shown
    # nearly all later cases would crash if the process went on
    assert 0 < rows["bfloat16"]["crashed"] < rows["bfloat16"]["passed"]
    for dtype in ("float16", "float32"):
        assert "crashed" not in rows[dtype]
    (failure,) = report["failures"]
    assert "AcceleratorError: CUDA error: an illegal memory access was encountered" in failure["reason"]
    assert 1 == judged(tmp_path, failure["reproducer"]).returncode


def _costs_its_own_verdicts(faults: dict[str, Fault], code: int, shown: str, report: dict[str, Any]) -> None:
    rows = {row["dtype"]: row["counts"] for row in report["results"] if row["property"] == "values"}
    failures = {failure["dtype"]: failure for failure in report["failures"]}

    assert code == 1, shown
    assert report["footer"]["complete"]
    for dtype, fault in faults.items():
        assert rows[dtype][fault.status] > 0
        assert rows[dtype]["passed"] > 0
        assert set(rows[dtype]) <= {fault.status, "passed", "declined", "not_judged"}
        failure = failures[dtype]
        assert failure["status"] == fault.status
        assert fault.reason in failure["reason"]
        assert failure["case"]["tensors"]["x"]["shape"][-1] > 1000
        assert failure["id"] in shown
        assert fault.reason in shown
        if fault.ends is not None:
            script = judged(Path(failure["reproducer"]).parent, failure["reproducer"])
            assert fault.ends == script.returncode, script.stdout + script.stderr
