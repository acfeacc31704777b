"""The process of an adapter is prepared before the adapter is imported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, TensorSpec
from conformance.oracle.comparison import BadElement, Comparison
from conformance.runs.host import Host, Reproduce, Tune
from conformance.runs.item import Failure, Item
from conformance.runs.judging import Judging
from conformance.runs.waivers import NONE

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


CASE = Case("l2_norm", (("x", TensorSpec((8,), "float32")),), (("eps", 1e-6),), seed=0)
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
    """A failure is reproduced with the configuration that the run's seed drew; Triton would measure."""
    file = tmp_path / "tuned.py"
    file.write_text(TUNED, encoding="utf-8")
    blocks = []
    for seed in range(4):
        host = Host(f"{file}:Tuned", "cpu", 60.0, seed=seed)
        tuned = host.ask(Tune(CASE))
        host.close()
        assert ["halved_kernel"] == list(tuned)
        blocks.append(tuned["halved_kernel"].partition(", num_warps: 4")[0])

    assert {"BLOCK: 64", "BLOCK: 128"} == set(blocks)


class Asked:
    """A host that keeps the questions, and answers that one kernel is tuned."""

    def __init__(self) -> None:
        self.questions: list[object] = []

    def ask(self, question: object) -> object:
        """Answer."""
        self.questions.append(question)
        return {"norm_kernel": "BLOCK: 8"} if isinstance(question, Tune) else Path("script.py")


@pytest.mark.parametrize("first", [BadElement("y", (0,), 2.0, 0.0, 0.0, 1.0), None], ids=["wrong", "crashed"])
def test_a_reproducer_is_given_what_was_tuned(first: BadElement | None) -> None:
    """The host is asked for the configurations of a case with a wrong element, and calls none that crashed."""
    verdict = Verdict("values", CASE, Status.FAILED, "wrong", Comparison(1, 1, 0, 0.0, first))
    failure = Failure(Item("l2_norm", "values", "float32"), verdict, CASE, "")
    host: Any = Asked()
    unused: Any = None
    Judging(host, SimpleNamespace(failed=print), NONE, unused)._explained(failure)  # type: ignore[arg-type]

    tuned = {"norm_kernel": "BLOCK: 8"} if first else {}
    assert Reproduce(failure, tuned) in host.questions
    assert (Tune(CASE) in host.questions) == (first is not None)
