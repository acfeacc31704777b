"""A kernel that ends its process or never returns costs one verdict; the run names the case and goes on."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

# a right implementation, but for what it does to rows of 2048
ADAPTER = """
    import ctypes, os, time
    import torch
    import torch.nn.functional as F
    import triton, triton.language as tl
    from conformance import Adapter, Declined

    @triton.jit
    def strays(ptr, DISTANCE: tl.constexpr):
        tl.store(ptr + DISTANCE, 1.0)

    class Faulty(Adapter):
        contracts = {"rms_norm_gated": "fp32"}

        def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
            if group_size is not None or gate is None or not norm_before_gate or activation != "silu":
                raise Declined("silu gate after an ungrouped norm only")
            y = x.double()
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.double()
            out = torch.empty(x.shape, dtype=x.dtype)
            out.copy_((y * F.silu(gate.double())).float())
            if x.shape[-1] == 2048:
                FAULT
            return out
"""

FAULTS = {
    # 4 MB past the end of the output, in the interpreter
    "a kernel that writes far out of bounds": (
        "strays[(1,)](out, DISTANCE=2**20)",
        "crashed",
        "killed by SIGSEGV",
    ),
    "a killed process": ("os.kill(os.getpid(), 9)", "crashed", "killed by SIGKILL"),
    "an exception": ("raise RuntimeError('out of registers')", "crashed", "RuntimeError: out of registers"),
    "a hang": ("time.sleep(600)", "hung", "no answer within 1 s"),
}


def _run(tmp_path: Path, fault: str) -> tuple[int, str, dict[str, Any]]:
    file = tmp_path / "faulty.py"
    file.write_text(textwrap.dedent(ADAPTER).replace("FAULT", fault))
    command = [sys.executable, "-m", "pytest", "-p", "conformance.plugin", "--pyargs", "conformance.suite"]
    options = ["--adapter", str(file), "--report", str(tmp_path / "report"), "--limit", "1", "--device", "cpu"]
    done = subprocess.run(
        [*command, *options, "--property", "contract", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "200"},
    )
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    return done.returncode, done.stdout, report


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_its_own_verdicts_only(name: str, tmp_path: Path) -> None:
    """Exit 1, the case named with what became of it, a reproducer, and every other verdict stands."""
    fault, status, reason = FAULTS[name]
    code, shown, report = _run(tmp_path, fault)
    rows = {row["dtype"]: row["counts"] for row in report["results"]}

    assert code == 1, shown
    assert report["footer"]["complete"]
    for dtype in ("bfloat16", "float16"):
        assert rows[dtype][status] > 0
        assert rows[dtype]["passed"] > 0
        assert set(rows[dtype]) <= {status, "passed", "declined", "not_judged"}
    failure = report["failures"][0]
    assert failure["status"] == status
    assert reason in failure["reason"]
    assert failure["case"]["tensors"]["x"]["shape"][-1] == 2048
    assert Path(failure["reproducer"]).is_file()
    assert failure["id"] in shown
    assert reason in shown
