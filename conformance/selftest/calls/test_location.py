"""Crashes name the frame nearest to the implementation, at any depth in a library."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conformance.adapter import Adapter, Crashed, Misreturned, Outcome, load
from conformance.calls.call import Subject, perform
from conformance.calls.location import of_fault
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.properties import PROPERTIES
from conformance.selftest.every import every

CASE = Case(
    "rms_norm",
    (("x", TensorSpec((4, 8), "float32")), ("weight", TensorSpec((8,), "float32", values="weight"))),
    (("eps", 1e-6), ("weight_offset", 0.0)),
    seed=1,
)
FILE = """
import torch
from conformance import Adapter
class Mine(Adapter):
    contracts = {{"rms_norm": "fp32"}}
    def rms_norm(self, x, weight, residual, *, eps, weight_offset):
        return self.deep(x)
    def deep(self, x):
        {body}
"""
HERE = "(adapter.py:9, in deep)"


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("assert False", f"AssertionError {HERE}"),
        ("assert False, 'too wide'", f"AssertionError: too wide {HERE}"),
        ("raise KeyError('a')", f"KeyError: 'a' {HERE}"),
        ("raise ValueError('one\\ntwo')", f"ValueError: one {HERE}\ntwo"),
        ("raise KeyboardInterrupt", f"KeyboardInterrupt {HERE}"),
        ("raise SystemExit(0)", f"SystemExit: 0 {HERE}"),
        ("raise GeneratorExit", f"GeneratorExit {HERE}"),
        ("torch.nn.functional.softmax(x, 'no dimension')", HERE),
        ("torch.testing.assert_close(x, 0 * x)", HERE),
        ("import json; json.loads('{')", HERE),
    ],
)
def test_an_exception_says_where(body: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is the innermost frame outside libraries, Python and the suite; the traceback is short."""
    monkeypatch.chdir(tmp_path)
    Path("adapter.py").write_text(FILE.format(body=body), encoding="utf-8")
    outcome = perform(Subject(load("adapter.py")), CASE).outcome

    assert isinstance(outcome, Crashed)
    assert how in outcome.how
    assert 'adapter.py", line 9, in deep' in outcome.trace
    assert "calling.py" not in outcome.trace


def test_a_fault_says_where() -> None:
    """The place comes from Python's fault handler: the thread that died, from the inside out."""
    text = f"""Fatal Python error: Segmentation fault

Thread 0x1 (most recent call first):
  File "/elsewhere/other.py", line 1 in run

Current thread 0x2 (most recent call first):
  File "{torch.__file__}", line 5 in empty
  File "/elsewhere/kernels/norm.py", line 34 in launch
  File "/elsewhere/adapter.py", line 3 in rms_norm
"""

    assert "kernels/norm.py:34, in launch" == of_fault(text)
    assert "" == of_fault("")


# --- what is returned ---------------------------------------------------------------------------------------

RETURNED: dict[str, Any] = {
    "a numpy.ndarray": lambda y: y.numpy(),
    "a float": lambda y: 1.0,
    "a str": lambda y: "done",
    "a dict": lambda y: {"y": y},
    "a list": lambda y: [[y]],
    "a NoneType": lambda y: (None,),
    "a builtin_function_or_method": lambda y: y.add,
    "a module": lambda y: ModuleType("made"),
    "a tensor of layout torch.sparse_coo": lambda y: y.to_sparse(),
    "lies on meta, must lie on cpu": lambda y: y.to("meta"),
    "is a view that is not computed yet": torch._neg_view,
}


class Returns(Adapter):
    """A norm whose right result is turned into something else."""

    contracts = {"rms_norm": "fp32"}  # noqa: RUF012 - as an adapter declares it
    validates = compiles = True
    reference = "native"

    def __init__(self, made: Any) -> None:
        self.made = made

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: None, *, eps: float, weight_offset: float
    ) -> Any:
        """Return the converted result."""
        y = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
        return self.made((y * (weight_offset + (1.0 if weight is None else weight.float()))).to(x.dtype))

    def rms_norm_(self, *arguments: Any, **flags: Any) -> Any:
        """Compute anew, and return the converted result."""
        return self.rms_norm(*arguments, **flags)

    def rms_norm_out(self, *arguments: Any, out: Any, **flags: Any) -> Any:
        """Compute anew, and return the converted result."""
        return self.rms_norm(*arguments, **flags)


# properties that any machine judges on this case
JUDGED = [
    name
    for name, prop in PROPERTIES.items()
    if name not in {"large_index", "variants"} and not prop.cannot(Subject(Returns(None)), "rms_norm", "float32")
]


def _outcome(made: Any) -> Outcome:
    return perform(Subject(Returns(made)), CASE).outcome


@every("what", RETURNED)
def test_what_is_no_tensor_in_memory_is_said(what: str) -> None:
    """The message names the output, its kind, and the required kind."""
    outcome = _outcome(RETURNED[what])

    assert isinstance(outcome, Misreturned)
    assert outcome.what.startswith("y ")
    assert what in outcome.what
    assert "must" in outcome.what


@every("what", RETURNED)
@every("name", JUDGED)
def test_every_property_survives_it(name: str, what: str) -> None:
    """No property passes, and no property breaks."""
    verdicts = PROPERTIES[name].judge(Subject(Returns(RETURNED[what])), CASE)

    assert not [verdict for verdict in verdicts if verdict.status is Status.PASSED]
    assert [verdict for verdict in verdicts if verdict.status in BAD]


def test_what_has_a_gradient_is_judged() -> None:
    """A result that autograd tracks is a valid result."""
    verdicts = PROPERTIES["values"].judge(Subject(Returns(lambda y: y.requires_grad_())), CASE)

    assert {Status.PASSED, Status.NOT_JUDGED} == {verdict.status for verdict in verdicts}
