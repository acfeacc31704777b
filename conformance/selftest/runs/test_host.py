"""The process of an adapter is prepared before the adapter is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.cases.case import Case, TensorSpec
from conformance.runs.host import Host, Tune

THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
ADAPTER = f"""
import os
from conformance import Adapter

class Named(Adapter):
    name = os.environ.get({THREADS!r}, "unset")
    contracts = {{"softmax": "fp32"}}

    def softmax(self, x, **others):
        return x
"""


@pytest.mark.parametrize(("asked", "seen"), [(None, "1"), ("4", "4")])
def test_inductor_has_one_process_unless_asked_for_more(
    asked: str | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the workers would start a process a core, none of which has its share of the cores."""
    monkeypatch.delenv(THREADS, raising=False)
    if asked is not None:
        monkeypatch.setenv(THREADS, asked)
    file = tmp_path / "named.py"
    file.write_text(ADAPTER, encoding="utf-8")

    host = Host(f"{file}:Named", "cpu", 60.0)
    host.close()
    assert seen == host.greeting.declared.name


TUNED = """
import torch
import triton
import triton.language as tl
from conformance import Adapter


@triton.autotune([triton.Config({"BLOCK": block}) for block in (64, 128)], key=["n_cols"])
@triton.jit
def halved_kernel(x_ptr, y_ptr, n_cols, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    tl.store(y_ptr + cols, tl.load(x_ptr + cols, mask=mask, other=0.0) * 0.5, mask=mask)


class Tuned(Adapter):
    name = "tuned"
    contracts = dict(l2_norm="fp32")
    takes = dict(l2_norm=dict(rows=1, rank="1", columns=range(1, 65)))

    def l2_norm(self, x, *, eps):
        y = torch.empty_like(x)
        halved_kernel[(1,)](x, y, x.shape[-1])
        return y
"""


def test_tuned_kernels_name_their_configuration(tmp_path: Path) -> None:
    """A failure is reproduced with the configuration of the run; Triton would measure, and may choose another."""
    file = tmp_path / "tuned.py"
    file.write_text(TUNED, encoding="utf-8")
    case = Case("l2_norm", (("x", TensorSpec((8,), "float32")),), (("eps", 1e-6),), seed=0)

    host = Host(f"{file}:Tuned", "cpu", 60.0)
    tuned = host.ask(Tune(case))
    host.close()

    assert ["halved_kernel"] == list(tuned)
    assert tuned["halved_kernel"].startswith("BLOCK: 64, num_warps: 4")
