"""Operations from outside: a file defines one, with adapters for it, and no file of this repository changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conformance.adapter import UsageError
from conformance.calls.declared import Declared
from conformance.cases.values import PROFILES
from conformance.operations import OPERATIONS, register
from conformance.report import read
from conformance.runs import outside
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.processes import judged

SCALED = '''\
"""An operation that multiplies rows by a weight, an adapter that is right, and one that is wrong."""

import torch

from conformance import Adapter
from conformance.cases.case import Case
from conformance.operations import Output, Scaling
from conformance.operations.row_calls import RowCalls, row_operation
from conformance.operations.tensors import Columns, Rows
from conformance.operations.term import Term, with_ones
from conformance.oracle.interval import Interval


def tens(rows, n, dtype, generator):
    return 10.0 * torch.randn((rows, n), generator=generator)


def formula(machine, contract, given, case):
    factors = [Interval.exactly(given[name]) for name in ("x", "weight") if name in given]
    return {"y": machine.product(*factors)}


def outputs(case: Case):
    spec = case.tensors[0][1]
    return (Output("y", spec.shape, getattr(torch, spec.dtype)),)


SCALED = row_operation(
    RowCalls(
        "scaled",
        (Rows("x"), Columns("weight", ("same", "none"))),
        {"normal": ("normal", "weight"), "tens": ("tens", "weight"), "specials": ("specials", "weight")},
    ),
    outputs=outputs,
    formula=formula,
    rounds=(),
    points=lambda case: (),
    ordinary=("normal", "tens"),
    terms=(Term("weight", with_ones("weight")),),
    in_place={"y": "x"},
    scaling=Scaling({"x": 1}, {"y": 1}),
    profiles={"tens": tens},
)


class Right(Adapter):
    """Multiplies."""

    contracts = {"scaled": "fp32"}
    zero_columns = True

    def scaled(self, x, weight):
        return x * 1 if weight is None else x * weight


class Wrong(Right):
    """Forgets the weight."""

    def scaled(self, x, weight):
        return x * 1
'''


def _conform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as a user does."""
    return judged(folder, "-m", "conformance", *arguments, PATH="", CUDA_VISIBLE_DEVICES="")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "my_ops.py").write_text(SCALED, encoding="utf-8")
    return tmp_path


GIVEN = ("--operations", "my_ops.py")
RUN = ("--op", "scaled", *GIVEN, "--property", "values", "--property", "empty", "--device", "cpu")


def test_an_operation_from_outside_is_judged_on_several_workers(folder: Path) -> None:
    """Workers and the process of the adapter have the operation, and its profile."""
    done = _conform(folder, "run", "my_ops.py:Right", *RUN, "-n", "2", "--report", "out")
    rows = {(row.operation, row.property) for row in read(folder / "out" / "report.json").results}

    assert 0 == done.returncode, done.stderr
    assert {("scaled", "values"), ("scaled", "empty")} <= rows


def test_a_mistake_in_it_is_found_and_reproduced(folder: Path) -> None:
    """The script of the failure finds the operation where it lies, from any folder."""
    done = _conform(folder, "run", "my_ops.py:Wrong", *RUN, "-n", "1", "--report", "out")
    scripts = sorted((folder / "out").glob("repro_*.py"))
    script = next(path for path in scripts if not path.stem.endswith("standalone"))
    (folder / "elsewhere").mkdir()
    again = judged(folder / "elsewhere", str(script), PATH="")

    assert 1 == done.returncode, done.stderr
    assert 1 == again.returncode, again.stderr
    assert "values" in again.stdout


def test_what_to_write_for_it_is_listed(folder: Path) -> None:
    """``list`` has the method with its arguments, ``init`` writes it, and the file runs as it stands."""
    listed = _conform(folder, "list", "scaled", *GIVEN)
    made = _conform(folder, "init", "--op", "scaled", *GIVEN, "mine.py")
    done = _conform(folder, "survey", "mine.py", "--op", "scaled", *GIVEN)
    text = (folder / "mine.py").read_text(encoding="utf-8")

    assert [0, 0, 0] == [listed.returncode, made.returncode, done.returncode], done.stderr
    assert "def scaled(self, x, weight):" in listed.stdout
    assert "def scaled_(self, x, weight):  # optional: in place, y over x" in listed.stdout
    assert "weight               tensor of 1 dimension, or None" in listed.stdout
    assert "    def scaled(self, x, weight):\n" in text
    assert "    # def scaled_(self, x, weight):\n" in text
    assert "scaled: 0 of" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SCALED.replace('"scaled"', '"rms_norm"'), "operation 'rms_norm' exists already, give it another name"),
        (SCALED.replace('"tens"', '"normal"'), "profile 'normal' exists already, give it another name"),
        (
            SCALED.replace('Rows("x")', 'Rows("rows")').replace('Columns("weight"', 'Columns("many"'),
            "before the first",
        ),
        ("import no_such_module\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("ADAPTER = 1\n", "has no operation, make an Operation in it"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    """The line says which file it is, and nothing is registered."""
    file = tmp_path / "bad_ops.py"
    file.write_text(text, encoding="utf-8")
    before = dict(OPERATIONS), dict(PROFILES)
    with pytest.raises(UsageError) as refused:
        outside.use([str(file)])

    assert str(refused.value).startswith(f"--operations {file}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert before == (OPERATIONS, PROFILES)
    assert str(file) not in outside.modules()


def test_every_command_refuses_it_with_exit_2(tmp_path: Path) -> None:
    """The command line, and pytest with the plugin, end before anything is judged."""
    for command in (["run"], ["list"], ["survey"], ["replay", "{}"], ["init", "a.py"]):
        done = _conform(tmp_path, *command, "--operations", "missing.py")

        assert (2, 1) == (done.returncode, done.stderr.count("\n")), command
        assert "--operations missing.py: no such file" in done.stderr


def test_an_installed_package_is_found_by_its_entry_point(folder: Path) -> None:
    """A package names its module under the group, and every command knows its operations."""
    about = folder / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[{outside.GROUP}]\nmine = my_ops\n", encoding="utf-8")
    listed = _conform(folder, "list", "scaled")

    assert 0 == listed.returncode, listed.stderr
    assert "def scaled(self, x, weight):" in listed.stdout


def test_the_same_operation_is_not_registered_twice() -> None:
    """A second one of its name is refused, even where it is the suite's own."""
    with pytest.raises(ValueError, match="operation 'mrope' exists already"):
        register(OPERATIONS["mrope"])


class OfTheNormsAlone(CorrectNorm):
    """An adapter whose thresholds know only the operations that it has."""

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return a threshold, or fail."""
        return {"rms_norm": (16,), "gemma_rms_norm": (32,)}[operation]

    column_thresholds = row_thresholds


def test_an_adapter_need_not_know_of_operations_that_it_does_not_have() -> None:
    """Anyone may add an operation, and adapters were written before."""
    declared = Declared.of(OfTheNormsAlone())

    assert set(OPERATIONS) == set(declared.operations)
    assert (16,) == declared.operations["rms_norm"].row_thresholds
    assert () == declared.operations["mrope"].column_thresholds
