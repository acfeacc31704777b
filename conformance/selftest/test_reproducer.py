"""A reproducer shows its failure to whoever has torch and the implementation, and says when it is gone."""

from __future__ import annotations

import builtins
import dis
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType

import pytest
import torch

from conformance import reproducer
from conformance.adapter import load
from conformance.calling import Subject
from conformance.case import Case, Layout, TensorSpec
from conformance.cli import SKELETON
from conformance.item import PROFILES, Failure, Item
from conformance.materialize import materialize, values_of
from conformance.memory import POISONS
from conformance.properties import PASSIVE, PROPERTIES
from conformance.reproducer import data, snippets
from conformance.selftest.reproduced import failure_of, run_script
from conformance.verdict import Status, Verdict

PLAIN = Case(
    "rms_norm_gated",
    (
        ("x", TensorSpec((3, 12), "bfloat16")),
        ("gate", TensorSpec((3, 12), "bfloat16", values="gate")),
        ("weight", TensorSpec((12,), "bfloat16", values="weight")),
    ),
    (("activation", "silu"), ("eps", 1e-5), ("group_size", None), ("norm_before_gate", True)),
    seed=5,
)


def _laid_out(x: Layout, gate: Layout, weight: Layout) -> Case:
    case = PLAIN
    for name, layout in (("x", x), ("gate", gate), ("weight", weight)):
        spec = case.tensor(name)
        assert spec is not None
        case = case.with_tensor(name, replace(spec, layout=layout))
    return case


STRIDED = _laid_out(Layout("row_gap", 8), Layout("transposed"), Layout("step", 2))
EMPTY = replace(
    PLAIN, tensors=tuple((n, replace(s, shape=(0, 12) if n != "weight" else (12,))) for n, s in PLAIN.tensors)
)


# long enough for a mean, and a norm whose sum goes on to the next layer
LONG = replace(
    PLAIN, tensors=tuple((n, replace(s, shape=(*(16 for _ in s.shape[1:]), 512))) for n, s in PLAIN.tensors)
)
FAR = _laid_out(Layout("row_gap", 2**31 + 5), Layout(), Layout())
RESIDUAL = Case(
    "rms_norm",
    (
        ("x", TensorSpec((4, 32), "bfloat16")),
        ("residual", TensorSpec((4, 32), "bfloat16")),
        ("weight", TensorSpec((32,), "bfloat16", values="weight")),
    ),
    (("eps", 1e-6), ("weight_offset", 0.0)),
    seed=5,
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A body for a method that may call ``right()``, and a case that shows the mistake. ``norm`` ends rms_norm."""

    body: str = "return right()"
    case: Case = PLAIN
    attributes: str = "pass"
    norm: str = "return y, s"


_RIGHT = "self.rms_norm_gated(x, gate, weight, **flags)"
_IN_PLACE = "rms_norm_gated_ = lambda self, x, gate, weight, **flags: x"

MISTAKES = {
    "values": Mistake("return super().rms_norm_gated(x, None, weight, **flags)"),
    "layout": Mistake("return right(x.as_strided(x.shape, (12, 1)))", STRIDED),
    "specials": Mistake(
        "return right().nan_to_num()",
        PLAIN.with_tensor("x", TensorSpec((3, 12), "bfloat16", values="specials")),
    ),
    "contract": Mistake("return super().rms_norm_gated(x, None, weight, **flags) * F.silu(gate)"),
    "metadata": Mistake("return right().float()"),
    "memory": Mistake("y = right(); x.as_strided((1,), (1,), x.storage_offset() + 12).zero_(); return y", STRIDED),
    "written": Mistake("y = torch.empty_like(x); y[..., 1:] = right()[..., 1:]; return y"),
    "state_left_behind": Mistake("torch.set_default_dtype(torch.bfloat16); return right()"),
    "path": Mistake("return right()", attributes="path = lambda self, operation, arguments: 'rows/nothing'"),
    "parity": Mistake("return right() * 1.25", attributes="reference = 'native'"),
    "determinism": Mistake("self.calls += 1; return right() + self.calls % 2", attributes="calls = 0"),
    "batch_invariance": Mistake("return right() * (2 if x.shape[0] > 2 else 1)"),
    "position_invariance": Mistake("y = right(); y[0] *= 2; return y"),
    "row_independence": Mistake("return right() + 0 * x.sum()"),
    "in_place": Mistake("return right()", STRIDED, f"{_IN_PLACE}.contiguous().copy_({_RIGHT})"),
    "empty": Mistake("return right() if x.numel() else x.new_empty((1, 12))", EMPTY),
    "padding_invariance": Mistake("return right() * (2 if x.shape[0] > 3 else 1)"),
    "scale": Mistake(
        "return super().rms_norm_gated(x, gate, weight, **{**flags, 'eps': max(flags['eps'], 1e-2)})"
    ),
    "bias": Mistake("return right() * (1 - 2**-7)", LONG),
    "chain": Mistake(case=RESIDUAL, norm="return y, (s.float() * (1 - 2**-7)).to(x.dtype)"),
    "state": Mistake(
        "weight = self.kept.setdefault(id(weight), weight.clone()); return right(weight=weight)",
        attributes="kept = {}",
    ),
    "kept_results": Mistake(
        "key = tuple(x.flatten()[[0, 18, 35]].tolist()); return self.kept.setdefault(key, right()).clone()",
        attributes="kept = {}",
    ),
    "threads": Mistake("import time; self.x = x; time.sleep(1e-3); return right(self.x)"),
    "large_index": Mistake(
        "i = torch.arange(3)[:, None] * x.stride(0) % 2**32 + torch.arange(12);"
        " return right(x.as_strided((2**32 + 12,), (1,))[i])",
        FAR,
    ),
    "variants": Mistake("return launch(right(), len(x))"),
    "compile": Mistake("return right() if x.sum().item() > 0 else right()", attributes="compiles = True"),
    "errors": Mistake("return right()", replace(PLAIN, invalid="unknown activation"), "validates = True"),
}
# judged, and reproduced, on a GPU alone
ON_A_GPU = {"graph", "stream", "device"}
# what the skeleton lacks to be right where its mistake was: in the method, and beside it
CURES = {
    # without a kernel there is nothing to judge
    "variants": "return launch(right(), 1)",
    "errors": "if flags['activation'] not in ('silu', 'sigmoid'): raise ValueError\n        return right()",
}
ATTRIBUTES = {
    "path": "path = lambda self, operation, arguments: 'native'",
    "in_place": f"{_IN_PLACE}.copy_({_RIGHT})",
}

WRONG = '''
import triton
import triton.language as tl


@triton.jit
def nothing_kernel(y_ptr, COUNT: tl.constexpr):
    tl.store(y_ptr, tl.load(y_ptr))


def launch(y, count):
    nothing_kernel[(1,)](y, count)
    return y


import torch.nn.functional as F
from conformance.oracle.contract import Contract


class Wrong(MyNorms):
    """The skeleton with one mistake."""

    contracts = {{"rms_norm_gated": "fp32", "rms_norm": Contract(frozenset({{"sum"}}))}}
    {attributes}

    def rms_norm(self, x, weight, *, residual, weight_offset, eps):
        s = (x.float() + residual.float()).to(x.dtype)
        y = s.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * (weight_offset + weight.float())
        y = y.to(x.dtype)
        {norm}

    def rms_norm_gated(self, x, gate, weight, **flags):
        def right(x=x, weight=weight):
            return super(Wrong, self).rms_norm_gated(x, gate, weight, **flags)

        {body}
'''


def _adapter(folder: Path, mistake: Mistake) -> str:
    """The target of an adapter file with a mistake."""
    file = folder / "their_norms.py"
    text = SKELETON + WRONG.format(attributes=mistake.attributes, body=mistake.body, norm=mistake.norm)
    file.write_text(text, encoding="utf-8")
    return f"{file}:Wrong"


def test_every_property_has_a_check_and_a_test() -> None:
    """Whatever can fail can be reproduced; a sample of other cases only says what they are worth."""
    every = {name for name, prop in PROPERTIES.items() if not prop.like} | set(PASSIVE)

    assert every == set(snippets.CHECKS)
    # what only a rotation does is in test_reproducer_mrope.py
    assert every == {*MISTAKES, *ON_A_GPU, "copied"}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_script_fails_while_the_mistake_is_there(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """It exits 1 and says what it saw; with the mistake corrected the same script exits 0."""
    mistake = MISTAKES[name]
    target = _adapter(tmp_path, mistake)
    # a Triton kernel runs where this process compiles or interprets it
    subject = Subject(load(target), request.config.getoption("device") if name == "variants" else "cpu")
    script = reproducer.write(failure_of(subject, name, mistake.case), subject, tmp_path, target)

    assert 1 == run_script(script, monkeypatch)
    assert capsys.readouterr().out.strip()

    body, attributes = CURES.get(name, "return right()"), ATTRIBUTES.get(name, "pass")
    _adapter(tmp_path, Mistake(body, attributes=attributes))
    assert 0 == run_script(script, monkeypatch)


def test_a_chain_in_place_is_reproduced_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the form in place loses bits of the sum; the script calls that form, which may return nothing."""
    form = """def rms_norm_(self, x, weight, *, residual, **flags):
        y, s = self.rms_norm(x, weight, residual=residual, **flags)
        x.copy_(y), residual.copy_({})"""
    target = _adapter(tmp_path, Mistake(attributes=form.format("(s.float() * (1 - 2**-7)).to(x.dtype)")))
    subject = Subject(load(target))
    script = reproducer.write(failure_of(subject, "chain", RESIDUAL), subject, tmp_path, target)

    assert 1 == run_script(script, monkeypatch)

    _adapter(tmp_path, Mistake(attributes=form.format("s")))
    assert 0 == run_script(script, monkeypatch)


@pytest.mark.parametrize("name", sorted(ON_A_GPU))
def test_a_script_for_a_gpu_is_python(name: str, tmp_path: Path) -> None:
    """Where it cannot run it compiles, and nothing that it names is undefined."""
    target = _adapter(tmp_path, Mistake())
    failure = Failure(Item(PLAIN.operation, name, PLAIN.dtype), _verdict(name, PLAIN), PLAIN, "")
    script = reproducer.write(failure, Subject(load(target), "cuda"), tmp_path, target)
    code = compile(script.read_text(encoding="utf-8"), str(script), "exec")
    defined = {*code.co_names, *dir(builtins)}
    used = {
        name for constant in code.co_consts if isinstance(constant, CodeType) for name in _global_names(constant)
    }

    assert set() == used - defined


def _global_names(code: CodeType) -> set[str]:
    """The global names that a function reads."""
    return {
        instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"
    }


def _values_script(folder: Path, case: Case = PLAIN) -> Path:
    mistake = MISTAKES["values"]
    target = _adapter(folder, mistake)
    subject = Subject(load(target))
    return reproducer.write(failure_of(subject, "values", case), subject, folder, target)


def test_a_script_shows_the_first_bad_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Index, what came out and what was allowed, as in the report."""
    script = _values_script(tmp_path)
    run_script(script, monkeypatch)
    shown = capsys.readouterr().out

    assert shown.startswith("y[0, 0] = ")
    assert ", allowed " in shown
    assert "of 36 elements of y outside" in shown


def test_a_script_runs_by_itself_from_anywhere(tmp_path: Path) -> None:
    """Neither the working directory nor the environment of the run is needed."""
    script = _values_script(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON_"))}
    (tmp_path / "elsewhere").mkdir()
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == ran.returncode, ran.stderr
    assert "of 36 elements of y outside" in ran.stdout


SPY = '''
SEEN = []


class Spy(MyNorms):
    """Keeps what it is called with."""

    def rms_norm_gated(self, x, gate, weight, **flags):
        SEEN.append(({"x": x, "gate": gate, "weight": weight}, flags))
        return x
'''

PACKED = replace(
    STRIDED,
    tensors=tuple(
        (n, replace(s, shape=(*s.shape[:-1], 96), values=v))
        for (n, s), v in zip(STRIDED.tensors, ("specials", "gate", "weight"), strict=True)
    ),
)


@pytest.mark.parametrize("beside", [data.BESIDE, 0], ids=["in_the_script", "beside_it"])
@pytest.mark.parametrize(
    "case",
    [
        PLAIN,
        STRIDED,
        PACKED,
        EMPTY,
        PLAIN.with_tensor("gate", None),
        _laid_out(Layout("offset", 3), Layout("expanded"), Layout("expanded")),
        _laid_out(Layout("shared", 0), Layout("shared", 1), Layout("offset", 1)),
        _laid_out(Layout("row_gap", 8), Layout("same"), Layout("offset", 1)),
    ],
    ids=["plain", "strided", "packed", "empty", "no_gate", "expanded", "shared", "same"],
)
def test_a_script_makes_the_very_same_call(
    case: Case, beside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values bit for bit, strides, flags, and which tensors share memory are the case's."""
    monkeypatch.setattr(data, "BESIDE", beside)
    file = tmp_path / "spy.py"
    file.write_text(SKELETON + SPY, encoding="utf-8")
    subject = Subject(load(f"{file}:Spy"))
    failure = Failure(Item(case.operation, "metadata", case.dtype), _verdict("metadata", case), case, "")
    run_script(reproducer.write(failure, subject, tmp_path, f"{file}:Spy"), monkeypatch)
    ((seen, flags),) = sys.modules["conform_adapter_spy"].SEEN
    expected = materialize(case, values_of(case), "cpu", POISONS[0]).arguments

    assert dict(case.flags) == flags
    for name in seen:
        given, wanted = seen[name], expected.get(name)
        assert (given is None) == (wanted is None)
        if wanted is not None:
            assert (wanted.dtype, wanted.shape, wanted.stride()) == (given.dtype, given.shape, given.stride())
            assert torch.equal(wanted.contiguous().view(torch.int16), given.contiguous().view(torch.int16))
    assert (seen["gate"] is seen["x"]) == (expected.get("gate") is expected["x"])
    together = case.tensors[0][1].layout.kind == "shared" or seen["gate"] is seen["x"]
    assert together == (
        seen["gate"] is not None
        and seen["x"].numel() > 0
        and seen["x"].untyped_storage().data_ptr() == seen["gate"].untyped_storage().data_ptr()
    )
    assert (beside == 0 and case is PACKED) == any(tmp_path.glob("*.pt"))


def _verdict(name: str, case: Case, status: Status = Status.FAILED, reason: str = "") -> Verdict:
    return Verdict(name, case, status, reason)


PAST_THE_END = "import ctypes; ctypes.memset(x.data_ptr() + 128, 0, 2); return right()"


@pytest.mark.parametrize(
    ("status", "reason", "body", "code"),
    [
        (Status.CRASHED, "RuntimeError: boom", "raise RuntimeError('boom')", 1),
        # just past the end, where ordinary memory would take the write in silence
        (Status.CRASHED, "killed by SIGSEGV", PAST_THE_END, -signal.SIGSEGV),
        (Status.HUNG, "no answer within 1 s", "import time; time.sleep(60)", 1),
    ],
    ids=["raised", "killed", "hung"],
)
def test_a_call_that_never_returns_is_shown_as_it_is(
    status: Status, reason: str, body: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception, the death of the process, or a traceback of where it hangs; 0 once the call returns."""
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], limit=1.0))
    target = _adapter(tmp_path, Mistake(body))
    failure = Failure(
        Item("rms_norm_gated", "values", "bfloat16"), _verdict("values", PLAIN, status, reason), PLAIN, ""
    )
    script = reproducer.write(failure, Subject(load(target)), tmp_path, target)
    command = [sys.executable, str(script)]

    assert code == subprocess.run(command, capture_output=True, check=False, timeout=60).returncode
    _adapter(tmp_path, Mistake("return right()"))
    assert 0 == run_script(script, monkeypatch)


def test_an_implementations_words_cannot_break_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes and backslashes in an exception end up in the docstring as text."""
    target = _adapter(tmp_path, Mistake("return right()"))
    said = 'ValueError: """ \\N{nonsense} \\'
    verdict = _verdict("values", PLAIN, Status.CRASHED, said)
    failure = Failure(Item("rms_norm_gated", "values", "bfloat16"), verdict, PLAIN, "")

    assert 0 == run_script(reproducer.write(failure, Subject(load(target)), tmp_path, target), monkeypatch)


def test_a_known_adapter_is_found_by_its_name(tmp_path: Path) -> None:
    """The script of a known adapter names it as the command line does."""
    failure = Failure(Item("rms_norm_gated", "metadata", "bfloat16"), _verdict("metadata", PLAIN), PLAIN, "")
    script = reproducer.write(failure, Subject(load("torch")), tmp_path, "torch")

    assert "IMPLEMENTATION = load('torch')" in script.read_text(encoding="utf-8")
