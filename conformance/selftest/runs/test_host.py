"""The process of an adapter is prepared before the adapter is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.runs.host import Host
from conformance.selftest.processes import ran

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


TUNING = '@triton.autotune([triton.Config({"BLOCK": block}) for block in (64, 128)], key=["n_cols"])\n'
TUNED = f"""
import torch
import triton
import triton.language as tl
from conformance import Adapter


{TUNING}@triton.jit
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


@pytest.mark.parametrize("tuned", [True, False], ids=["tuned", "plain"])
def test_a_script_has_the_configuration_that_failed(tuned: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A script runs a tuned kernel with the configuration of the run; Triton would measure, and choose another."""
    plain = TUNED.replace(TUNING, "").replace("x.shape[-1])", "x.shape[-1], BLOCK=64)")
    (tmp_path / "tuned.py").write_text(TUNED if tuned else plain, encoding="utf-8")
    done = ran(tmp_path, "-m", "conformance", "run", "tuned.py", "--op", "l2_norm", "--property", "values", "-x")

    assert 1 == done.returncode, done.stderr
    script = next(tmp_path.rglob("*_standalone.py")).read_text(encoding="utf-8")
    assert tuned == ("TUNED = {'halved_kernel': 'BLOCK: 64," in script)
    assert tuned == ("prune_configs" in script)
