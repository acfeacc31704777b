"""Scripts that replay a failure, and those that need torch alone: exit 1 while it shows, 0 afterwards."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.adapter import load
from conformance.calls.call import Subject, arguments_of
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.operations import OPERATIONS
from conformance.oracle.comparison import BadElement, Comparison
from conformance.properties import PASSIVE, PROMISES, PROPERTIES
from conformance.runs import reproducer
from conformance.runs.item import PROFILES, Failure, Item

ROOT = Path(__file__).resolve().parents[3]
FLAGS = (("eps", 1e-6), ("weight_offset", 0.0))
X, WEIGHT = TensorSpec((4, 12), "bfloat16"), TensorSpec((12,), "bfloat16", values="weight")
TWO = BadElement("y", (0, 0), 2.0, 0.0, 0.0, 1.0)
PLAIN = Case("rms_norm", (("x", X), ("weight", WEIGHT)), FLAGS, seed=5)
STRIDED = PLAIN.with_tensor("x", replace(X, layout=Layout("row_gap", 8)))
# right in every contract: computed in float64, rounded once
ADAPTER = '''
import torch
from conformance import Adapter, Declined


class Theirs(Adapter):
    """One norm, with a line of a test's own."""

    contracts = {{"rms_norm": "fp32"}}
    takes = {{"rms_norm": {{"weight": "same", "residual": "none"}}}}

    def rms_norm(self, x, weight, residual, *, eps, weight_offset):
        y = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps)
        y = (y * (weight_offset + weight.double())).to(x.dtype)
        {line}
        return y
'''


def _written(folder: Path, line: str = "pass", text: str = ADAPTER) -> str:
    """Write an adapter's file and return its target."""
    folder.mkdir(exist_ok=True)
    (folder / "their_norms.py").write_text(text.format(line=line), encoding="utf-8")
    return f"{folder / 'their_norms.py'}:Theirs"


def _failure(verdict: Verdict, item: str = "values") -> Failure:
    return Failure(Item(verdict.case.operation, item, verdict.case.dtype), verdict, verdict.case, "")


def _found(target: str, name: str, case: Case) -> tuple[Failure, Subject]:
    """Return the failure that a property itself finds."""
    subject = Subject(load(target))
    judged = PROPERTIES[name].judge if name in PROPERTIES else PROPERTIES["values"].judge
    (bad,) = (verdict for verdict in judged(subject, case) if verdict.status in BAD and verdict.property == name)
    return _failure(bad), subject


def _status(script: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit status of a script that is run in this process, which saves importing torch."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", ""))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    except AssertionError:
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Mistake:
    """A line that breaks a right norm, and a case that shows it; the verdict, if finding it would be harmful."""

    line: str
    case: Case = PLAIN
    status: Status | None = None


MISTAKES = {
    "values": Mistake("y = y * 1.5"),
    "layout": Mistake(
        "y = self.rms_norm(x.contiguous(), -weight, None, eps=eps, weight_offset=0.0) if x.stride(0) > 12 else y",
        STRIDED,
    ),
    "metadata": Mistake("y = y.float()"),
    "memory": Mistake("x.zero_()"),
    "claim": Mistake("raise Declined('not today')"),
    "determinism": Mistake("Theirs.calls = getattr(Theirs, 'calls', 0) + 1; y = y + Theirs.calls % 2"),
    "empty": Mistake(
        "y = y if y.numel() else y.reshape(12, 0)", PLAIN.with_tensor("x", replace(X, shape=(0, 12)))
    ),
    "contract": Mistake("import ctypes; ctypes.string_at(0)", PLAIN, Status.CRASHED),
    "row_independence": Mistake("import time; time.sleep(60)", PLAIN, Status.HUNG),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_replay_fails_while_the_mistake_is_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script reports that property's result alone, also for a process that died or never answered."""
    mistake = MISTAKES[name]
    monkeypatch.setitem(PROFILES, "ci", replace(PROFILES["ci"], limit=2.0))
    target = _written(tmp_path, mistake.line)
    if mistake.status is None:
        failure, subject = _found(target, name, mistake.case)
    else:
        failure, subject = _failure(Verdict(name, mistake.case, mistake.status)), Subject(load(target))
    script = reproducer.write(failure, subject, tmp_path, target)

    assert 1 == _status(script, monkeypatch)
    said = {
        line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if line[20:21] == " "
    }
    assert {name: str(mistake.status or "failed")} == {n: s for n, s in said.items() if n in PROMISES}

    _written(tmp_path)
    assert 0 == _status(script, monkeypatch)


def test_a_replay_of_a_call_that_is_declined_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3: a mistake that the script cannot reach is not shown to be fixed."""
    target = _written(tmp_path, "y = y * 1.5", ADAPTER.replace("takes", "taken"))
    script = reproducer.write(*_found(target, "values", PLAIN), tmp_path, target)
    _written(tmp_path, "raise Declined('not today')", ADAPTER.replace("takes", "taken"))

    assert 3 == _status(script, monkeypatch)


def test_every_promise_has_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every failure can be replayed; a passive promise about a call that only an item makes replays that item."""
    monkeypatch.setitem(PASSIVE, "left_behind", "nothing is left behind")
    monkeypatch.setitem(PROMISES, "left_behind", "nothing is left behind")
    target = _written(tmp_path)
    subject = Subject(load(target))
    for name in PROMISES:
        text = reproducer.write(
            _failure(Verdict(name, PLAIN, Status.FAILED)), subject, tmp_path, target
        ).read_text()

        compile(text, name, "exec")
        assert f"'--device', 'cpu', '--property', '{name}']" in text
        assert str(tmp_path) not in text
    failure = _failure(Verdict("left_behind", PLAIN, Status.FAILED), "in_place")
    text = reproducer.write(failure, subject, tmp_path, target).read_text()
    assert "'--property', 'left_behind', '--property', 'in_place']" in text


def test_a_replay_has_the_seed_of_the_run(tmp_path: Path) -> None:
    """The seed draws the configurations of tuned kernels. Without one it is 0."""
    target = _written(tmp_path)
    failure = Failure(
        Item("rms_norm", "values", "bfloat16", seed=7), Verdict("values", PLAIN, Status.FAILED), PLAIN, ""
    )
    text = reproducer.write(failure, Subject(load(target)), tmp_path, target).read_text()

    assert "'--device', 'cpu', '--seed', '7', '--property', 'values']" in text


def test_properties_that_fail_in_one_case_have_scripts_of_their_own(tmp_path: Path) -> None:
    """The first script is named after the case, others add their property; a repeated one is rewritten."""
    target = _written(tmp_path, "y = y * 1.5; x.zero_()")
    scripts = {
        name: reproducer.write(*_found(target, name, PLAIN), tmp_path, target) for name in ("values", "memory")
    }
    again = reproducer.write(*_found(target, "values", PLAIN), tmp_path, target)

    assert [f"repro_{PLAIN.id}.py", f"repro_{PLAIN.id}_memory.py"] == [path.name for path in scripts.values()]
    assert scripts["values"] == again
    assert "'--property', 'memory'" in scripts["memory"].read_text(encoding="utf-8")


def test_an_implementations_words_cannot_break_a_script(tmp_path: Path) -> None:
    """Quotes, backslashes, control characters and lone surrogates are text in the docstring."""
    target = _written(tmp_path)
    said = 'ValueError: """ \\N{nonsense} \x1b[31m \x00 \udc80 é \\'
    failure = _failure(Verdict("values", PLAIN, Status.CRASHED, said))
    script = reproducer.write(failure, Subject(load(target)), tmp_path, target)
    text = script.read_text(encoding="utf-8")
    compile(text, "script", "exec")

    assert "\\\\N{nonsense} \\x1b[31m \\x00 \\udc80 é" in text


@pytest.mark.parametrize("standalone", [False, True], ids=["replay", "standalone"])
def test_a_script_runs_by_itself_from_anywhere(standalone: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Another process runs scripts in folders whose names have blanks, colons, quotes and letters."""
    folder = tmp_path / "a:b c'd\"é.py:x"
    target = _written(folder, "y = y * 1.5")
    script = reproducer.write(*_found(target, "values", PLAIN), folder, target)
    script = script.with_stem(f"{script.stem}_standalone") if standalone else script
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON_"))}
    ran = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=elsewhere | ({} if standalone else {"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == ran.returncode, ran.stderr
    assert "y[0, 0] = " in ran.stdout
    assert str(tmp_path) not in script.read_text(encoding="utf-8")


def test_a_module_is_found_where_the_run_found_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script names the run's folder relative to its own only if the folder has the judged adapter."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    _written(tmp_path / "their_package", "y = y * 1.5")
    out = tmp_path / "build" / "report"
    out.mkdir(parents=True)
    target = "their_package.their_norms:Theirs"
    found = _found(target, "values", PLAIN)
    inside = reproducer.write(*found, out, target).read_text()
    monkeypatch.chdir(ROOT)

    assert "sys.path.append(str(Path(__file__).parent / '../..'))" in inside
    assert f"TARGET = {target!r}" in inside
    assert "sys.path" not in reproducer.write(*found, out, target).read_text()


# --- without the suite --------------------------------------------------------------------------------------

GATED = Case(
    "rms_norm_gated",
    (("x", X), ("gate", replace(X, values="gate")), ("weight", WEIGHT)),
    (("activation", "silu"), ("eps", 1e-5), ("group_size", None), ("norm_before_gate", True)),
    seed=5,
)
ROTATION = Case(
    "mrope",
    (
        ("q", TensorSpec((4, 2, 8), "float16", Layout("slice", 0, 32))),
        ("k", TensorSpec((4, 1, 8), "float16", Layout("slice", 16, 32))),
        ("positions", TensorSpec((3, 4), "int64", Layout("transposed"), "positions<9")),
        ("cos", TensorSpec((9, 3), "float16", Layout("shared", 0), "cos")),
        ("sin", TensorSpec((9, 3), "float16", Layout("shared", 1), "sin")),
    ),
    (("head_dim", None), ("interleaved", True), ("sections", (1, 1, 1))),
    seed=3,
)
FP8 = Case(
    "rms_norm_fp8",
    (("x", TensorSpec((2, 128), "float32", values="specials")), ("weight", TensorSpec((128,), "float32"))),
    (
        *FLAGS,
        ("also_unquantised", False),
        ("fp8_dtype", "float8_e4m3fn"),
        ("quant_group", 128),
        ("scale_layout", "row"),
    ),
)
SPY = """
from conformance import Adapter

SEEN = []


class Theirs(Adapter):
    def SPIED(self, *tensors, **named):
        SEEN.append((tensors, named))
        return tensors
"""


def _standalone(case: Case, folder: Path, target: str, bad: BadElement) -> Path:
    """Return the script of an element that is reported as outside its bounds."""
    verdict = Verdict("layout", case, Status.FAILED, str(bad), Comparison(1, 1, 0, 0.0, bad))
    script = reproducer.write(_failure(verdict), Subject(load(target)), folder, target)
    return script.with_stem(f"{script.stem}_standalone")


@pytest.mark.parametrize(
    ("case", "beside"),
    [
        (PLAIN, False),
        (STRIDED.with_tensor("weight", None), True),
        (PLAIN.with_tensor("x", replace(X, layout=Layout("transposed"))), False),
        (
            GATED.with_tensor("gate", replace(X, layout=Layout("same"))).with_tensor(
                "weight", replace(WEIGHT, layout=Layout("expanded"))
            ),
            False,
        ),
        (ROTATION, True),
        (FP8, True),
    ],
    ids=["plain", "no_weight", "transposed", "same", "rotation", "fp8"],
)
def test_a_standalone_script_makes_the_very_same_call(
    case: Case,
    beside: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """Values, strides, flags and shared memory are the case's; long buffers are files next to the script."""
    target = _written(tmp_path, text=SPY.replace("SPIED", case.operation))
    operation = OPERATIONS[case.operation]
    output = operation.outputs(case)[0]
    place = (0,) * len(output.shape)
    script = _standalone(case, tmp_path, target, BadElement(output.name, place, 2.0, -inf, inf, 1.0, nan=True))
    space: dict[str, Any] = {"__file__": str(script), "__name__": "__main__"}
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), space)  # noqa: S102 - written above
    ((tensors, named),) = space["SEEN"]
    seen = dict(zip(operation.positional, tensors, strict=True)) | named
    expected = arguments_of(materialize(case, values_of(case), "cpu", POISONS[0]))

    assert seen.keys() == expected.keys()
    for name, wanted in expected.items():
        given = seen[name]
        assert isinstance(given, torch.Tensor) == isinstance(wanted, torch.Tensor)
        if not isinstance(wanted, torch.Tensor):
            assert wanted == given
            continue
        assert (wanted.dtype, wanted.shape, wanted.stride()) == (given.dtype, given.shape, given.stride())
        torch.testing.assert_close(given, wanted, rtol=0, atol=0, equal_nan=True)
        for other, tensor in expected.items():
            if isinstance(tensor, torch.Tensor):
                assert (tensor is wanted) == (seen[other] is given)
                assert _together(tensor, wanted) == _together(seen[other], given)
    assert beside == script.with_suffix(".pt").exists()


def _together(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        ((0.5, 2.0, False), 1),
        ((4.0, inf, False), 0),
        ((-inf, 8.0, False), 0),
        ((nan, nan, True), 1),
        ((4.5, 4.5, True), 1),
    ],
)
def test_a_standalone_script_knows_what_is_allowed(
    allowed: tuple[float, float, bool], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1 if 4 is outside the interval; ends may be infinite, and a required NaN is not a number."""
    (lo, hi, also_nan), target = allowed, _written(tmp_path, "y = torch.full_like(y, 4.0)")
    script = _standalone(PLAIN, tmp_path, target, BadElement("y", (3, 11), 4.0, lo, hi, 1.0, also_nan))

    assert code == _status(script, monkeypatch)
    if also_nan:
        _written(tmp_path, "y = torch.full_like(y, float('nan'))")
        script = _standalone(PLAIN, tmp_path, target, BadElement("y", (3, 11), 4.0, lo, hi, 1.0, also_nan))
        assert 0 == _status(script, monkeypatch)


HELPED = '''
"""Helpers of several kinds."""
from __future__ import annotations

import conformance as suite
import conformance.cases.case
from conformance import Adapter as Base, Declined
from math import nan as unused

FACTOR = 1.5
suite.touched = True
_unused = suite


def scaled(y: torch.Tensor) -> torch.Tensor:
    return y * FACTOR


import torch


class Norms(Base):
    contracts = {"rms_norm": "fp32"}
    kept: dict[str, int] = {}

    @staticmethod
    def normed(x, eps):
        return x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps)

    def rms_norm(self, x, weight, residual, *, eps, weight_offset):
        if residual is not None:
            raise Declined("no residual")
        self.kept["calls"] = 1
        return (self.normed(x, eps) * weight).to(x.dtype)


class Theirs(Norms):
    reference = "native"

    def row_thresholds(self, operation):
        return (conformance.cases.case.SHARED_PARTS,)

    def rms_norm(self, *given, **flags):
        return scaled(super().rms_norm(*given, **flags))


if __name__ == "__main__":
    print(suite.__file__)
'''
FOREIGN = """
from conformance.selftest.fakes.correct_norm import CorrectNorm


class Theirs(CorrectNorm):
    pass
"""


@pytest.mark.parametrize(("text", "code"), [(HELPED, 1), (FOREIGN, 2)], ids=["helpers", "another_file"])
def test_an_excerpt_has_what_the_method_reaches(
    text: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The excerpt has bases, helpers and constants of its file; code that needs the suite is a placeholder."""
    target = _written(tmp_path, text=text.replace("{", "{{").replace("}", "}}"))
    script = _standalone(PLAIN, tmp_path, target, TWO)
    made = script.read_text(encoding="utf-8")

    assert code == _status(script, monkeypatch)
    assert "conformance" not in made.partition("import sys")[2].replace("conformance.selftest", "")
    assert "contracts" not in made
    assert ("self" in made) == (code == 1)


def test_a_standalone_script_finds_what_lies_beside_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of an adapter's file is searched if the file imports from it, and otherwise not named."""
    text = ADAPTER.replace("import torch\n", "import torch\nfrom their_maths import FACTOR\n", 1)
    (tmp_path / "their_maths.py").write_text("FACTOR = 1.5", encoding="utf-8")
    target = _written(tmp_path, "y = y * FACTOR", text)
    script = _standalone(PLAIN, tmp_path, target, TWO)

    assert "sys.path.append(str(Path(__file__).parent / '.'))" in script.read_text(encoding="utf-8")
    monkeypatch.delitem(sys.modules, "their_maths")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    assert 1 == _status(script, monkeypatch)
    target = _written(tmp_path / "other", "y = y * 1.5")
    script = _standalone(PLAIN, tmp_path, target, TWO)
    assert "sys.path" not in script.read_text(encoding="utf-8")


def test_a_plain_method_is_a_function(tmp_path: Path) -> None:
    """A method that does not use its object becomes a function without one; package imports are absolute."""
    package = tmp_path / "plain_norms"
    text = SPY.replace("def SPIED(self,", "def rms_norm(self,").replace(
        "SEEN.append((tensors, named))", "SEEN.clear()"
    )
    _written(package, text=f"from .more import SEEN\n{text.replace('SEEN = []', '')}")
    (package / "more.py").write_text("SEEN = []\n", encoding="utf-8")
    target = "plain_norms.their_norms:Theirs"
    sys.path.append(str(tmp_path))
    script = _standalone(PLAIN, tmp_path, target, TWO)
    sys.path.remove(str(tmp_path))
    made = script.read_text(encoding="utf-8")

    assert "from plain_norms.more import SEEN\n\ndef rms_norm(*tensors, **named):" in made
    assert "result = rms_norm(x, weight" in made
    assert "Needs torch, plain_norms." in made


def test_a_standalone_script_runs_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuned kernel has the configuration that failed alone; one that the script does not name keeps all."""
    autotuner = pytest.importorskip("triton.runtime.autotuner")
    monkeypatch.setattr(autotuner.Autotuner, "prune_configs", autotuner.Autotuner.prune_configs)
    configs = [autotuner.Config({"BLOCK": block}) for block in (8, 16, 32)]
    target = _written(tmp_path)
    verdict = Verdict("values", PLAIN, Status.FAILED, "y[0, 0]", Comparison(1, 1, 0, 0.0, TWO))
    for tuned in ({}, {"norm_kernel": str(configs[1])}):
        script = reproducer.write(_failure(verdict), Subject(load(target)), tmp_path, target, tuned)
        text = script.with_stem(f"{script.stem}_standalone").read_text(encoding="utf-8")
        assert bool(tuned) == ("prune_configs" in text)
    exec(compile(text.partition("# The call,")[0], "script", "exec"), {"__file__": str(script)})  # noqa: S102

    for name, kept in (("norm_kernel", [configs[1]]), ("another_kernel", configs)):
        tuner = SimpleNamespace(configs=configs, base_fn=SimpleNamespace(__name__=name))
        assert kept == autotuner.Autotuner.prune_configs(tuner, {})
