"""A kernel that ends its process, never returns or eats memory costs its own verdicts; the run goes on."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# a right implementation, but for what it does to wide rows: another fault in each dtype
ADAPTER = """
    import ctypes, os, sys, time
    import torch
    import torch.nn.functional as F
    import triton, triton.language as tl
    from conformance import Adapter, Declined

    KEPT = []
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

    class Faulty(Adapter):
        contracts = {"rms_norm_gated": "fp32"}

        def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
            if group_size is not None or gate is None or not norm_before_gate or activation != "silu":
                raise Declined("silu gate after an ungrouped norm only")
            y = x.double()
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.double()
            out = torch.empty(x.shape, dtype=x.dtype)
            out.copy_((y * F.silu(gate.double())).float())
            if x.shape[-1] > 1000:
                FAULT
            return out
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of Python, what the suite must say of it, and how its reproducer ends."""

    line: str
    status: str
    reason: str
    ends: int | None = 1


FAULTS = {
    # 4 MB past the end of the output, in the interpreter
    "a kernel that writes far out of bounds": Fault(
        "strays[(1,)](out, DISTANCE=2**20)", "crashed", "killed by SIGSEGV", -11
    ),
    "a segmentation fault": Fault("ctypes.string_at(0)", "crashed", "killed by SIGSEGV", -11),
    "a corrupted heap": Fault("corrupts_the_heap()", "crashed", "killed by SIGABRT", -6),
    "a killed process": Fault("os.kill(os.getpid(), 9)", "crashed", "killed by SIGKILL", -9),
    "an exit": Fault("sys.exit(3)", "crashed", "ended itself with status 3", 3),
    "an exception": Fault("raise RuntimeError('out of registers')", "crashed", "RuntimeError: out of registers"),
    "memory that every call leaves behind": Fault(
        "KEPT.append(b'x' * 2**28)", "crashed", "held more than 1 GiB of memory"
    ),
    # its script would hang as well, or eat all memory
    "a call that takes all memory": Fault("leaks_for_ever()", "crashed", "held more than 1 GiB of memory", None),
    "a hang": Fault("time.sleep(600)", "hung", "no answer within 8 s", None),
}
DTYPES = ("bfloat16", "float16", "float32")
TRIOS = [tuple(FAULTS)[i : i + 3] for i in range(0, len(FAULTS), 3)]


def _run(folder: Path, lines: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
    """Judge an implementation with a fault in each dtype: exit status, what was shown, the report."""
    fault = "; ".join(f"exec({{torch.{d}: {line!r}}}.get(x.dtype, ''))" for d, line in lines.items())
    file = folder / "faulty.py"
    file.write_text(textwrap.dedent(ADAPTER).replace("FAULT", fault))
    command = [sys.executable, "-m", "pytest", "-p", "conformance.plugin", "--pyargs", "conformance.suite"]
    options = ["--adapter", str(file), "--report", str(folder / "report"), "--device", "cpu"]
    limits = ["--limit", "8", "--memory", "1", "--op", "rms_norm_gated", "--property", "values"]
    done = subprocess.run(
        [*command, *options, *limits, "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "200"},
    )
    report = json.loads((folder / "report" / "report.json").read_text())
    return done.returncode, done.stdout, report


@pytest.mark.parametrize("names", TRIOS, ids=" & ".join)
def test_a_fault_costs_its_own_verdicts_only(names: tuple[str, ...], tmp_path: Path) -> None:
    """Exit 1, each case named with what became of it, a script that shows it, and every other verdict stands."""
    faults = dict(zip(DTYPES, (FAULTS[name] for name in names), strict=True))
    code, shown, report = _run(tmp_path, {dtype: fault.line for dtype, fault in faults.items()})
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
            script = [sys.executable, failure["reproducer"]]
            ran = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)
            assert fault.ends == ran.returncode, ran.stdout + ran.stderr
