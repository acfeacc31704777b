"""The command line: its files, its output, and its exit status."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import cli, plugin, report
from conformance.adapter import UsageError, load
from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope, enumerated_cases
from conformance.operations import OPERATIONS
from conformance.oracle.contract import NAMED
from conformance.properties import PROMISES
from conformance.properties.passive import judge_call
from conformance.report.document import Footer, Row
from conformance.runs import options
from conformance.runs.data import to_data
from conformance.selftest.processes import ROOT, judged, ran

WRONG = cli.init.SKELETON.replace(
    "y.square().mean(-1, keepdim=True)", "(y * y).sum(-1, keepdim=True) / (y.shape[-1] - 1 or 1)"
)
DECLINES = cli.init.SKELETON.replace("if group_size is not None:", "if True:")
VALUES = ("--property", "values", "-n", "1")
BROKEN = "raise RuntimeError('no thresholds')"
BEGINS = """
from conformance import Adapter
class Begins(Adapter):
    contracts = {"rms_norm": "fp32"}
    def __init__(self):
        raise SystemExit(0)
    def rms_norm(self, x, weight, residual, *, eps, weight_offset):
        return x
"""
FLAGS = (("eps", 1e-6), ("weight_offset", 0.0))
PLAIN = Case("rms_norm", (("x", TensorSpec((4, 8), "float32")),), FLAGS).to_json()


def _conform(folder: Path, *arguments: str, code: str = "-m conformance") -> subprocess.CompletedProcess[str]:
    """Run ``conform`` in a separate process, in ``folder``."""
    return judged(folder, *code.split(), *arguments)


def _report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return read


def _rows(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, int]]:
    return {(row["property"], row["dtype"]): row["counts"] for row in report["results"]}


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_new_adapter_passes_as_it_stands(tmp_path: Path) -> None:
    """``init`` and ``run`` on several workers give exit 0, a whole report, junit.xml, and a summary."""
    assert 0 == _conform(tmp_path, "init", "mine.py").returncode
    both = ("--property", "values", "--property", "empty")
    run = _conform(tmp_path, "run", "mine.py", *both, "-n", "2", "--report", "out")
    report = _report(tmp_path / "out")

    assert 0 == run.returncode, run.stdout + run.stderr
    # two properties in three dtypes of one operation; every other one has an item that says it is not implemented
    assert (True, 6 + len(OPERATIONS) - 1, 0) == (
        report["footer"]["complete"],
        report["footer"]["items"],
        report["footer"]["exit_code"],
    )
    assert "mynorms: every judged property holds" in run.stdout
    assert "out/report.json" in run.stdout
    assert (tmp_path / "out" / "junit.xml").exists()


def test_a_wrong_adapter_fails_with_a_case_and_a_script(tmp_path: Path) -> None:
    """Exit 1; the failing case replays by its id, its script runs, and pytest alone gives the same verdicts."""
    (tmp_path / "mine.py").write_text(WRONG, encoding="utf-8")
    run = _conform(tmp_path, "run", "mine.py", *VALUES)
    report = _report(tmp_path / "build" / "conformance")
    failure = report["failures"][report["causes"][0]["failures"][0]]

    assert 1 == run.returncode, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert failure["first"]["index"]
    assert f"python {failure['reproducer']}" in run.stdout

    # without the target, which the report names
    replayed = _conform(tmp_path, "replay", failure["id"])
    assert 1 == replayed.returncode, replayed.stderr
    assert str(Case.from_data(failure["case"])) in replayed.stdout
    assert failure["reason"] in replayed.stdout
    shown = _conform(tmp_path, code=failure["reproducer"])
    assert 1 == shown.returncode, shown.stderr

    plain = "-m pytest -q -p conformance.plugin --pyargs conformance.suite --adapter mine.py"
    again = _conform(tmp_path, "--property", "values", "--report", "plain", code=plain)
    assert 1 == again.returncode, again.stderr
    # pytest fails the tests of the items, each with what broke
    assert re.search(r"^FAILED .*test_item\[", again.stdout, re.MULTILINE), again.stdout
    assert _rows(report) == _rows(_report(tmp_path / "plain"))
    assert 0 == _conform(tmp_path, "compare", "build/conformance", "plain").returncode


def test_a_run_stops_at_its_first_failure(tmp_path: Path) -> None:
    """With ``-x`` the rest of the item and all later items are left out, and said to be; the exit status is 1."""
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    run = _conform(tmp_path, "run", "wrong.py", "--op", "rms_norm_gated", "-x", "-n", "1", "--report", "out")
    made = _report(tmp_path / "out")

    assert 1 == run.returncode, run.stderr
    assert 1 == len(made["failures"])
    assert 1 == sum(counts.get("failed", 0) for counts in _rows(made).values())
    assert not made["footer"]["complete"]
    assert not made["footer"]["interrupted"]
    items = made["footer"]["items"]
    assert f"stopped at a failure: {items} of {items} items were not judged to their end" in run.stdout
    assert "AssertionError" not in run.stderr


def test_what_failed_before_is_judged_again(tmp_path: Path) -> None:
    """Only the cells that failed, their smallest cases first, until nothing fails."""
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    chosen = (
        "--op",
        "rms_norm_gated",
        "--property",
        "values",
        "--property",
        "empty",
        "-n",
        "1",
        "--report",
        "out",
    )
    assert 1 == _conform(tmp_path, "run", "wrong.py", *chosen).returncode
    before = _report(tmp_path / "out")
    failed = {(row["property"], row["dtype"]) for row in before["results"] if row["counts"].get("failed")}
    again = _conform(tmp_path, "run", "wrong.py", "--report", "out", "--last-failed", "-x", "-n", "1")
    after = _report(tmp_path / "out")

    assert 1 == again.returncode, again.stderr
    assert {prop for prop, _ in failed} == {"values"}
    assert len(failed) == after["footer"]["items"]
    assert {failure["id"] for failure in after["failures"]} <= {failure["id"] for failure in before["failures"]}
    assert 1 == after["footer"]["judged_cases"]

    (tmp_path / "wrong.py").write_text(cli.init.SKELETON, encoding="utf-8")
    mended = _conform(tmp_path, "run", "wrong.py", "--report", "out", "--last-failed", "-n", "1")
    assert 0 == mended.returncode, mended.stdout
    nothing = _conform(tmp_path, "run", "wrong.py", "--report", "out", "--last-failed", "-n", "1")
    assert 2 == nothing.returncode
    assert "--last-failed: nothing fails in out/report.json, leave it out to judge everything" in nothing.stderr


def test_without_a_report_nothing_can_be_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the report that is missing, and the folder is not made."""
    monkeypatch.chdir(tmp_path)
    assert 2 == _called(monkeypatch, "run", "native", "--last-failed", "--report", "out")
    said = capsys.readouterr().err
    assert 1 == said.count("\n")
    assert "out/report.json" in said
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_declines_everything_is_not_right(tmp_path: Path) -> None:
    """Exit 3: without a judged call there is no pass; every cell has the declined calls, and no evidence."""
    (tmp_path / "mine.py").write_text(DECLINES, encoding="utf-8")
    run = _conform(tmp_path, "run", "mine.py", *VALUES)

    assert 3 == run.returncode, run.stdout + run.stderr
    assert "nothing was judged" in run.stdout
    assert {"declined", "no_evidence"} == {
        status for counts in _rows(_report(tmp_path / "build/conformance")).values() for status in counts
    }
    assert "no groups" in run.stdout
    assert re.search(r"rms_norm_gated takes nothing that was tried \(0 of \d+ calls", run.stdout)
    assert "not implemented" in run.stdout


def test_a_suite_that_breaks_decides_nothing(tmp_path: Path) -> None:
    """A broken drawing of cases gives exit 4 and the traceback, whatever verdicts came before."""
    (tmp_path / "mine.py").write_text(cli.init.SKELETON, encoding="utf-8")
    draws = f"def broken(*_):\n    {BROKEN}\n\n\njudging.cases_of = broken\ncli.main()\n"
    (tmp_path / "broken_suite.py").write_text(
        f"from conformance import cli\nfrom conformance.runs import judge as judging\n\n\n{draws}"
    )
    run = _conform(tmp_path, "run", "mine.py", *VALUES, code="broken_suite.py")

    assert 4 == run.returncode, run.stdout + run.stderr
    assert "RuntimeError: no thresholds" in run.stderr
    assert "rms_norm_gated/values/float32/0 did not finish" in run.stdout


# --- bad usage ----------------------------------------------------------------------------------------------


def _called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit status of ``conform`` with these arguments, run in this process."""
    monkeypatch.setattr(sys, "argv", ["conform", *arguments])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    # restored afterwards: without a GPU, or with --device cpu, the command makes this process interpret kernels
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", ""))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nosuch"], "known are normkernels, native, torch"),
        (["run", "missing.py"], "to write an adapter to fill in: conform init missing.py"),
        (["run", "empty.py"], "subclass conformance.Adapter there"),
        (["run", "two.py"], "say which: two.py:{A,B}"),
        (["run", "two.py:C"], "has no adapter 'C'"),
        (["run", "broken.py"], "cannot be loaded: ZeroDivisionError"),
        (["run", "vague.py"], "contracts has no entry for 'rms_norm_gated'"),
        (["run", "odd.py"], "contract='fp31', must be one of"),
        (["run", "exits.py"], "cannot be loaded: SystemExit: 0 (exits.py:1, in <module>)"),
        (
            ["run", "ends.py"],
            "status 0 while it was imported; the last line that it printed: no GPU",
        ),
        (["run", "killed.py"], "its process killed by SIGSEGV at killed.py:2, in <module> while it was imported"),
        (["run", "begins.py"], "cannot be loaded: SystemExit: 0 (begins.py:6, in __init__)"),
        (["run", "slow.py", "--import-limit", "3"], "it took more than 3 s (--import-limit 3)"),
        (["run", "edges.py"], "its declarations cannot be read: RuntimeError: no thresholds (edges.py:"),
        (["replay", PLAIN, "ends.py"], "its process ended itself with status 0 while it was imported"),
        (["run", "no.such.module:Class"], "cannot import it"),
        (
            ["run", "right.py", "--op", "gelu"],
            "--op: 'gelu' is unknown, did you mean 'gelu_and_mul'? Known are rms_norm,",
        ),
        (["run", "right.py", "--property", "valeus"], "--property: 'valeus' is unknown, did you mean 'values'?"),
        (["run", "right.py", "--property", "memory"], "is judged together with values"),
        (
            ["run", "right.py", "--op", "rms_norm_gated", "--property", "chain"],
            "nothing to judge, no result of the operation goes into its next call",
        ),
        (["run", "right.py", "--profile", "slow"], "'slow' is not one of 'quick'"),
        (["run", "right.py", "--device", "cuda"], "this machine shows no GPU"),
        (["run", "right.py", "-n", "0"], "-n"),
        (["run", "right.py", "--seed", "-1"], "--seed"),
        (["run", "right.py", "--report", "right.py"], "right.py"),
        (["run", "right.py", "--report", "right.py/out"], "cannot be written"),
        (["run", "right.py", "--fast"], "No such option"),
        (["run", "right.py", "--minutes", "-1"], "--minutes"),
        (["run", "right.py", "--minutes", "1", "--chunk", "2"], "--chunk and --minutes"),
        (["run", "right.py", "--chunk", "-1"], "--chunk"),
        (
            ["run", "right.py", "--op", "rms_norm_gated", "--property", "errors", "--chunk", "3"],
            "--chunk 3: nothing to judge",
        ),
        (["run", "right.py", "--op", "rms_norm", "--chunk", "3"], "--chunk 3: nothing to judge"),
        (["campaign", "right.py"], "--chunks N says how many chunks are judged, or --minutes M for how long"),
        (["campaign", "right.py", "--chunks", "0"], "'0' names no chunk"),
        (["campaign", "right.py", "--chunks", "2-1"], "'2-1' names no chunk"),
        (["campaign", "right.py", "--chunks", "all"], "'all', must be a number of chunks, or the first and"),
        (
            ["campaign", "right.py", "--chunks", "1", "--op", "gelu"],
            "--op: 'gelu' is unknown, did you mean 'gelu_and_mul'?",
        ),
        (["campaign", "right.py", "--chunks", "1", "--device", "cuda"], "this machine shows no GPU"),
        (["campaign", "right.py", "--chunks", "1", "--waivers", "bad.toml"], "every waiver needs a link"),
        (["campaign", "right.py", "--chunks", "1", "--report", "right.py/out"], "cannot be written"),
        (["run", "right.py", "--waivers", "missing.toml"], "missing.toml: cannot be read"),
        (["run", "right.py", "--waivers", "right.py"], "right.py: is not TOML"),
        (["run", "right.py", "--waivers", "bad.toml"], "every waiver needs a link to the issue"),
        (["replay", "0123456789", "right.py"], "no JSON, no file, and no id in"),
        (["replay", "{}", "right.py"], "not a case"),
        (["replay", "{}", "right.py", "--property", "speed"], "--property: 'speed' is unknown"),
        (["replay", "right.py", "right.py"], "right.py: "),
        (["compare", "right.py", "right.py"], "is no report of a run that ended: no JSON"),
        (["annotate", "."], "report.json: cannot be read: No such file"),
        (["init", "right.py"], "exists already"),
        (["init", "notes.txt"], "must end in .py"),
        (["init", "nowhere/mine.py"], "cannot be written"),
        (["judge"], "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_that_says_what_to_do(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2, a single line on stderr, nothing on stdout, and no file written."""
    two = "from conformance import Adapter\nclass A(Adapter): pass\nclass B(Adapter): pass\n"
    vague = cli.init.SKELETON.replace('contracts = {"rms_norm_gated": "fp32"}', "")
    files = {"right.py": cli.init.SKELETON, "empty.py": "", "broken.py": "1 / 0", "two.py": two, "vague.py": vague}
    files["odd.py"] = cli.init.SKELETON.replace('"fp32"', '"fp31"')
    files |= {
        "exits.py": "raise SystemExit(0)",
        "ends.py": "import os; print('no GPU'); os._exit(0)",
        "killed.py": "import ctypes\nctypes.string_at(0)",
        "begins.py": BEGINS,
        "slow.py": "import time; time.sleep(60)",
        "edges.py": f"{cli.init.SKELETON}\n    def row_thresholds(self, operation):\n        {BROKEN}\n",
    }
    files["bad.toml"] = "[[waiver]]\nwhere = { n = 1 }\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("conformance.runs.host.gpus", list)

    assert 2 == _called(monkeypatch, *arguments)
    shown = capsys.readouterr()
    assert ("", 1) == (shown.out, shown.err.count("\n"))
    assert said in shown.err
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert set(files) == left


# --- the other commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_skeleton_is_right(dtype: str, tmp_path: Path) -> None:
    """The file of ``init`` fails nowhere, so that every later failure is the user's own."""
    (tmp_path / "mine.py").write_text(cli.init.SKELETON, encoding="utf-8")
    subject = Subject(load(str(tmp_path / "mine.py")))
    operation = OPERATIONS["rms_norm_gated"]
    cases = enumerated_cases(operation.factors, operation.complete, Scope(dtype), strength=2, seed=2)
    verdicts = [verdict for case in cases for verdict in judge_call(subject, case)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert any(v.status is Status.PASSED and v.comparison.elements for v in verdicts)


def test_list_names_everything_that_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list has operations, properties with their promises, adapters, contracts and profiles."""
    assert 0 == _called(monkeypatch, "list")
    shown = capsys.readouterr().out

    for name in (*OPERATIONS, *PROMISES, *PROMISES.values(), *NAMED, "normkernels", "transformers", "nightly"):
        assert name in shown


def test_help_has_examples_and_the_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new user needs no other page to begin."""
    assert 0 == _called(monkeypatch, "--help")
    shown = capsys.readouterr().out

    assert "conform run my_adapter.py" in shown
    assert "3 nothing was judged" in shown


def _saved(file: Path, commit: str, worst: float, **counts: int) -> None:
    """Write a report with two rows, one of which is the same in all reports."""
    made = report.Report(
        header=replace(report.header(Subject(load("native")), profile="quick", seed=0), commit=commit),
        results=(
            Row("rms_norm_gated", "values", "float16", counts, 2, worst, 0.5),
            Row("rms_norm_gated", "empty", "float16", {"passed": 3}, 0, None, None),
        ),
        failures=(),
        footer=Footer(
            items=2,
            unfinished=(),
            cases=3,
            verdicts=counts,
            elements=2,
            seconds=1.0,
            complete=True,
            exit_code=0,
        ),
    )
    file.write_text(report.in_lines(to_data(made)), encoding="utf-8")


def test_compare_shows_the_rows_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 if a row has other verdicts or another worst error; equal rows are not shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    _saved(Path("a.json"), "c0ffee", 0.25, passed=5)
    _saved(Path("b.json"), "c0ffee", 0.25, passed=3, failed=2)
    _saved(Path("c.json"), "c0ffee", 0.2500001, passed=5)

    assert 1 == _called(monkeypatch, "compare", "a.json", "b.json")
    shown = capsys.readouterr().out
    assert "rms_norm_gated values float16" in shown
    assert "3 passed, 2 failed; worst 0.25, exact 50.0000%" in shown
    assert not {"empty", "torch", "commit", "threads"} & set(shown.split())
    assert 1 == _called(monkeypatch, "compare", "a.json", "c.json")


def test_compare_shows_other_headers_and_decides_by_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal verdicts at another commit count as equal."""
    monkeypatch.chdir(tmp_path)
    _saved(Path("a.json"), "c0ffee", 0.25, passed=5)
    _saved(Path("b.json"), "decade", 0.25, passed=5)

    assert 0 == _called(monkeypatch, "compare", "a.json", "b.json")
    assert ["commit", "c0ffee", "decade"] == capsys.readouterr().out.split()[2:]
    assert 0 == _called(monkeypatch, "compare", "a.json", "a.json")
    assert "no difference\n" == capsys.readouterr().out


@pytest.mark.parametrize("text", [cli.init.SKELETON, WRONG], ids=["right", "wrong"])
def test_a_case_is_replayed_from_its_json(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 or 1, a line per property, and for a wrong value the contract that discovery finds."""
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    plain = {name: levels[0] for name, levels in OPERATIONS["rms_norm_gated"].factors.items()}
    case = next(
        enumerated_cases(
            {n: (v,) for n, v in plain.items()},
            OPERATIONS["rms_norm_gated"].complete,
            Scope("float16"),
            strength=1,
            seed=0,
        )
    )

    assert (text == WRONG) == _called(monkeypatch, "replay", case.to_json(), str(tmp_path / "mine.py"))
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("values", "contract", "memory", "determinism", "row_independence"))
    assert (text == WRONG) == ("the declared contract fp32 {} explains" in shown)


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (["0123456789"], ("theirs.py:Norms", 7)),
        (["0123456789", "--seed", "8"], ("theirs.py:Norms", 8)),
        (["0123456789", "mine.py"], ("mine.py", 7)),
        ([f"{PLAIN}{300 * ' '}"], ("normkernels", 0)),
    ],
)
def test_a_case_of_a_report_is_replayed_as_it_was_judged(
    given: list[str], known: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report names the target and the seed of the run; the command line comes first. Text is of no report."""
    made = json.loads((ROOT / "reports" / "world" / "eager_cpu.json").read_text(encoding="utf-8"))
    made["header"] |= {"seed": 7, "command": "conform run theirs.py:Norms --seed 7"}
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "0123456789.json").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "report.json").write_text(json.dumps(made), encoding="utf-8")
    asked = []

    def host(target: str, *others: object) -> None:
        asked.append((target, others[-1]))
        raise UsageError("enough")

    monkeypatch.setattr(cli.options, "host", host)
    assert report.Exit.USAGE == _called(monkeypatch, "replay", *given, "--report", str(tmp_path))
    assert [known] == asked


@pytest.mark.parametrize("command", [("run", "torch", "-n", "1"), ("survey", "torch")])
def test_the_process_of_an_adapter_has_the_seed(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned kernels are drawn there."""
    asked = []

    def host(*given: object) -> None:
        asked.append(given[-1])
        raise UsageError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.options, "host", host)
    assert report.Exit.USAGE == _called(monkeypatch, *command, "--seed", "9")
    assert [9] == asked


def test_the_process_of_an_adapter_has_the_seed_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the command."""
    given: dict[str, Any] = {"adapter": "torch", "device": "cpu", "profile": "quick", "op": [], "seed": 9}
    config: Any = SimpleNamespace(getoption={**given, "import_limit": 1.0}.get)
    asked: list[object] = []
    monkeypatch.setattr(plugin, "Host", lambda *known: asked.append(known[-1]))
    plugin._host(config)

    assert [9] == asked


BARE = """
import torch
from conformance import Adapter

class Bare(Adapter):
    contracts = {"rms_norm": "fp32"}

    def rms_norm(self, x, weight, *, residual, weight_offset, eps):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return torch.empty(x.shape, dtype=x.dtype).copy_(y * (1 + weight_offset))
"""


def test_a_call_without_parameters_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A property that does not cover the call, or the operation, is not judged, with a reason."""
    (tmp_path / "bare.py").write_text(BARE, encoding="utf-8")
    x = ("x", TensorSpec((4, 16), "float32"))
    case = Case("rms_norm", (x,), (("eps", 1e-6), ("weight_offset", 0.0)))

    assert 0 == _called(monkeypatch, "replay", case.to_json(), str(tmp_path / "bare.py"))
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line}
    assert "not_judged the call has no parameters" == said["state"]
    assert "not_judged the adapter has no rms_norm_" == " ".join(said["in_place"].split())


@pytest.mark.parametrize(
    ("names", "code"),
    [(["values"], 1), (["memory"], 0), (["memory", "values"], 1), (["row_independence"], 0), (["copied"], 1)],
)
def test_a_case_is_replayed_for_one_property(
    names: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the requested property is shown and counts; if it cannot be judged, other failures count."""
    (tmp_path / "mine.py").write_text(WRONG, encoding="utf-8")
    plain = {name: levels[0] for name, levels in OPERATIONS["rms_norm_gated"].factors.items()}
    case = OPERATIONS["rms_norm_gated"].complete(plain, random.Random(1), Scope("float16"))  # noqa: S311
    asked = [part for name in names for part in ("--property", name)]

    assert code == _called(monkeypatch, "replay", case.to_json(), str(tmp_path / "mine.py"), *asked)
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0] for line in lines if line and line.split()[0] in PROMISES}
    assert shown == set(names) if names != ["copied"] else {"values"}


def test_help_keeps_its_examples_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Examples can be copied: click does not fill their lines into a paragraph."""
    with pytest.raises(SystemExit):
        cli.cli(["--help"], prog_name="conform")
    lines = capsys.readouterr().out.splitlines()

    assert any(line.strip().startswith("conform init my_adapter.py") for line in lines)
    assert not [line for line in lines if line.count("conform ") > 1]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("conform run torchn", ["plain,torchnorm", "file,torchn"]),
        ("conform survey mine", ["file,mine"]),
        ("conform run mine.py --op rms_norm_g", ["plain,rms_norm_gated", "plain,rms_norm_gated_fp8"]),
        ("conform run mine.py --property lay", ["plain,layout"]),
        ("conform replay 0123456789 nati", ["plain,native", "file,nati"]),
        ("conform list nati", ["plain,native"]),
        ("conform list mro", ["plain,mrope"]),
        ("conform world native torchn", ["plain,torchnorm"]),
        ("conform init mine.py --op mro", ["plain,mrope"]),
        ("conform run mine.py --profile n", ["plain,nightly"]),
        ("conform annot", ["plain,annotate"]),
    ],
)
def test_a_shell_completes_names(
    line: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of adapters, operations and properties, and files, in the form that bash reads."""
    monkeypatch.setenv("_CONFORM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))

    assert 0 == _called(monkeypatch)
    assert completed == capsys.readouterr().out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script for a shell asks ``conform`` for the words."""
    monkeypatch.setenv("_CONFORM_COMPLETE", f"{shell}_source")

    assert 0 == _called(monkeypatch)
    assert f"_CONFORM_COMPLETE={shell}_complete" in capsys.readouterr().out


HIDDEN = """
import runpy, sys
hidden = sys.argv.pop(1)
class Hides:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hides())
"""
STARTS = ("runpy.run_module('conformance', run_name='__main__')", "from conformance.cli import main; main()")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("hidden", "arguments", "wanted"),
    [
        ("torch", ["list"], "torch"),
        ("torch", ["run", "my_adapter.py"], "torch"),
        ("torch", ["--help"], "torch"),
        ("click", ["list"], "'normkernels[conformance]'"),
    ],
)
def test_a_missing_package_is_one_line(
    hidden: str, arguments: list[str], wanted: str, start: str, tmp_path: Path
) -> None:
    """The line names the package and the remedy, for every command and way to start it."""
    (tmp_path / "start.py").write_text(f"{HIDDEN}{start}\n", encoding="utf-8")
    command = [sys.executable, "start.py", hidden, *arguments]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"conform: {hidden} is not installed here, run: pip install {wanted}\n" == done.stderr
    assert (2, "") == (done.returncode, done.stdout)


def test_pytest_shows_the_options_of_the_suite(tmp_path: Path) -> None:
    """The help of pytest shows every option of the suite."""
    done = ran(tmp_path, "-m", "pytest", "-p", "conformance.plugin", "--help")

    assert 0 == done.returncode, done.stderr
    assert [] == [name for name in options.NAMED if f"--{name}=" not in done.stdout]


def test_both_command_lines_have_the_same_options() -> None:
    """``conform run`` has every option that pytest has too, with the same default."""
    params = {param.opts[0]: param for param in cli.cli.commands["run"].params}

    for option in options.OPTIONS:
        default = params[option.flag].default
        assert option.default is None or str(option.default) == str(default)
        assert option.many == params[option.flag].multiple


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("seed", "-1", "-1, must be at least 0"),
        ("seed", "one", "invalid literal"),
        ("profile", "fast", "'fast', must be one of quick, ci, nightly"),
        ("import-limit", "0", "0, must be more than 0"),
        ("memory", "nan", "nan, must be more than 0"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(name: str, text: str, said: str) -> None:
    """The message says what must be given; pytest, which has no types of its own for these, shows it."""
    with pytest.raises(ValueError, match=said):
        options.NAMED[name].read(text)


def test_the_command_line_of_options_is_read_back() -> None:
    """Options passed on by one process are read by another: repeatable ones each time, and only those given."""
    given = {"op": ("mrope", "rms_norm"), "seed": 3, "waivers": None, "report": Path("out")}

    assert ["--op", "mrope", "--op", "rms_norm", "--seed", "3", "--report", "out"] == options.arguments(given)
