"""A sample of mutants, another one with every commit, of which none may live that is not marked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance.prove.copies import ROOT, mutants
from conformance.prove.equivalent import equivalent, marks
from conformance.prove.rows import KILLED, ended, line, read, row
from conformance.report.header import origin
from conformance.selftest.processes import judged

# What killed each mutant when a sample was judged, on a machine of sixteen cores: it is judged first, and alone.
RECORDED = ROOT / "reports" / "mutants.jsonl"
SAMPLE = 60
# Mutants of a kernel, of a native form, and of its rounding of the weighted value; and what kills them.
KNOWN = {"c773d6d2dd": "values", "a7f44d6349": "values", "9f82e652fd": "values"}


def _prove(tmp_path: Path, *arguments: str) -> dict[str, str]:
    """Return what became of the mutants that were judged, by id."""
    out = tmp_path / "rows.jsonl"
    workers = str(min(2, len(os.sched_getaffinity(0))))
    ended_as = judged(
        tmp_path,
        "-m",
        "conformance",
        "prove",
        *("--lane", "cpu", "-n", workers, "--only", "mutants", "--out", str(out)),
        *arguments,
        timeout=900,
    )
    assert ended_as.returncode in {0, 1}, ended_as.stderr
    return {
        name: each.by if each.dead else f"alive: {each.file}:{each.line}"
        for name, each in ended(read(out)).items()
    }


def test_known_mutants_die(tmp_path: Path) -> None:
    """A kernel's mutant and one of a native form are killed by the values, in the sources as they are."""
    asked = [part for name in KNOWN for part in ("--id", name)]

    assert KNOWN == _prove(tmp_path, "--stage", "quick", *asked)


def test_a_stage_judges_what_another_one_killed_where_that_is_asked_for(tmp_path: Path) -> None:
    """The share of a stage counts what it kills alone; otherwise what is dead is judged no more."""
    name = next(iter(KNOWN))
    mutant = next(mutant for mutant in mutants() if mutant.id == name)
    out = tmp_path / "rows.jsonl"
    out.write_text(line(row(mutant, "package", "cpu", KILLED, by="package")), encoding="utf-8")
    asked = ("--stage", "quick", "--id", name)

    assert {name: "package"} == _prove(tmp_path, *asked)
    assert ["package"] == [each.by for each in read(out)]
    _prove(tmp_path, *asked, "--each-stage")
    # which property is first depends on whether an earlier run found out which cases reach the mutant
    assert [("package", True), ("quick", True)] == [(each.stage, each.dead) for each in read(out)]


def test_tests_of_the_package_judge_what_no_run_shows(tmp_path: Path) -> None:
    """A mark on a lane keeps a mutant from the profiles there, and not from the tests of the package."""
    every = mutants(("plans.py",))
    unseen = equivalent(every, "cpu", marks()) - equivalent(every, "", marks())
    tile = next(mutant.id for mutant in every if mutant.id in unseen and mutant.function == "TILES")
    stages = ("--stage", "quick", "--stage", "package")

    assert {tile: "package"} == _prove(tmp_path, *stages, "--files", "plans.py", "--id", tile, "--limit", "120")
    assert ["package"] == [each.stage for each in read(tmp_path / "rows.jsonl")]


def test_no_mutant_of_the_sample_lives(tmp_path: Path) -> None:
    """Every mutant of a sample of those that were killed once is killed still."""
    if not RECORDED.exists():
        pytest.skip("no record of which mutants die: conform prove --out reports/mutants.jsonl")
    given = ("--recorded", str(RECORDED), "--sample", str(SAMPLE), "--seed", str(origin()["commit"]))
    found = _prove(tmp_path, *given, "--limit", "120")

    assert SAMPLE == len(found)
    assert [] == [f"{name} {said}" for name, said in found.items() if said.startswith("alive")]


def test_marks_leave_most_mutants() -> None:
    """Marks are exceptions: most mutants have to die."""
    every = mutants()

    assert len(equivalent(every, "cpu", marks())) < len(every) / 4
