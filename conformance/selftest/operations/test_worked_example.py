"""The worked example of docs/operations.md, followed to the letter: one file outside the repository."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conformance.report import read
from conformance.selftest.documents import ROOT, blocks, text_of
from conformance.selftest.processes import judged, ran

PAGE = text_of(ROOT / "docs" / "operations.md")
COMMANDS = blocks(PAGE)
LIST, HOLDS, STOPS = COMMANDS
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = "\n\n".join(BLOCK.findall(PAGE))
MISTAKES = re.findall(r"^class (\w+)\(Right\):", FILE, re.MULTILINE)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_ops.py").write_text(FILE, encoding="utf-8")
    return folder


def _run(folder: Path, command: str, *arguments: str) -> int:
    """Run a command of the page, on the CPU."""
    given = [*shlex.split(command)[1:], "--device", "cpu", "-n", "1", "--report", "out"]
    return judged(folder, "-m", "conformance", *given, *arguments).returncode


def test_the_page_has_five_mistakes() -> None:
    """One that leaves the mean in and one variance in one pass among them."""
    assert 5 == len(MISTAKES)
    assert {"MeanLeftIn", "OnePass"} <= set(MISTAKES)


def test_the_right_adapter_of_the_page_holds(folder: Path) -> None:
    """Every property of the quick profile, and ``list`` has the method that the page writes."""
    listed = ran(folder, "-m", "conformance", *shlex.split(LIST)[1:])
    assert "def group_norm(self, x, weight, bias, *, eps, group_size):" in listed.stdout, listed.stderr

    assert 0 == _run(folder, HOLDS)
    made = read(folder / "out" / "report.json")
    assert made.footer.judged_cases == 461, "the page says how many"
    shown = next(row for row in made.results if (row.property, row.dtype) == ("sensitivity", "float16"))
    assert {"mean", "groups", "eps", "weight", "bias", "last column"} == {
        name for name, (seen, _) in shown.terms.items() if seen
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_of_the_page_is_found(name: str, folder: Path) -> None:
    """The values are wrong, and the run stops there."""
    assert 1 == _run(folder, STOPS.replace("OnePass", name))
    [failure] = read(folder / "out" / "report.json").failures
    assert "values" == failure.property


def test_a_variance_in_one_pass_is_found_in_low_precision(folder: Path) -> None:
    """Its float32 sums lose more than bfloat16 and float16 show of any right result."""
    assert 1 == _run(folder, STOPS.removesuffix(" -x"), "--property", "values")
    failed = {row.dtype for row in read(folder / "out" / "report.json").results if row.counts.get("failed")}
    assert {"bfloat16", "float16"} <= failed
