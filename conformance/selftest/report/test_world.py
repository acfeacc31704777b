"""The matrix of several reports: every verdict is in it once, and failures beside what they are known as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance import report
from conformance.adapter import KNOWN, find, load
from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.cli.world import reports_of_lanes
from conformance.report.document import Cause, Footer, Report, Row, Taken, Waived
from conformance.report.world import Cell, Judged, cells, page, verdict
from conformance.runs import lanes
from conformance.runs.lanes import Lane, missing, planned
from conformance.selftest.processes import ROOT, judged, ran

WHERE = "operation = ['rms_norm', 'layer_norm'], n = 1"


def _row(operation: str, prop: str, dtype: str, **counts: int) -> Row:
    return Row(operation, prop, dtype, counts, 0, None, None)


def _report(*rows: Row, **parts: Any) -> Report:
    """Return a report of the adapter ``eager`` with these rows."""
    verdicts: dict[str, int] = {}
    for row in rows:
        for status, count in row.counts.items():
            verdicts[status] = verdicts.get(status, 0) + count
    footer = Footer(
        items=len(rows),
        unfinished=(),
        cases=1234,
        judged_cases=1200,
        verdicts=verdicts,
        elements=5678,
        seconds=1.0,
        complete=True,
        exit_code=0,
    )
    header = report.header(Subject(load("eager")), profile="quick", seed=0)
    return Report(header=header, results=rows, footer=footer, **{"failures": (), **parts})


def _lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"passed": 3}, "✓ 3"),
        ({"failed": 1, "crashed": 2, "hung": 1, "error": 1, "passed": 3}, "**✗ 5** ✓ 3"),
        ({"waived": 2, "passed": 1}, "~ 2 ✓ 1"),
        ({"not_judged": 4}, "–"),
        ({"no_evidence": 1}, "–"),
        ({"not_judged": 4, "passed": 1}, "✓ 1"),
        ({"declined": 4}, ""),
        ({}, ""),
    ],
)
def test_a_cell_shows_the_worst_first(counts: Mapping[str, int], shown: str) -> None:
    """Failures, known failures and passes are told apart; what was not judged is no pass."""
    assert shown == str(Cell("eager", "rms_norm", "values", counts))


@pytest.mark.parametrize(
    ("counts", "ended", "unended"),
    [
        ({"passed": 3}, "holds", "interrupted; what was judged holds"),
        (
            {"passed": 3, "waived": 2},
            "holds, but for 2 known failures",
            "interrupted; what was judged holds, but for 2 known failures",
        ),
        ({"passed": 3, "failed": 1}, "1 of 4 verdicts are bad", "interrupted; 1 of 4 verdicts are bad"),
    ],
)
def test_a_verdict_says_whether_a_run_came_to_its_end(counts: Any, ended: str, unended: str) -> None:
    """A run that was interrupted never just holds, and its failures count all the same."""
    whole = _report(_row("rms_norm", "values", "bfloat16", **counts))
    without = [replace(whole.footer, interrupted=True), replace(whole.footer, complete=False)]

    assert ended == verdict(whole)
    assert [unended] * 2 == [verdict(replace(whole, footer=footer)) for footer in without]


def test_dtypes_are_added_up_and_other_operations_are_left_out() -> None:
    """A cell has all dtypes of an operation that was called; what is only declined is no operation."""
    rows = (
        _row("rms_norm", "values", "float16", passed=2, failed=1),
        _row("rms_norm", "values", "float32", passed=5),
        _row("mrope", "values", "float32", declined=5),
    )

    assert (Cell("eager", "rms_norm", "values", {"passed": 7, "failed": 1}),) == cells(
        [Judged("eager", "cpu", _report(*rows))]
    )


def test_lanes_stand_side_by_side() -> None:
    """The same implementation on a GPU is a column of its own."""
    one = Judged("eager", "cpu", _report(_row("rms_norm", "values", "float32", passed=5)))
    two = Judged("eager", "cuda", _report(_row("rms_norm", "values", "float32", failed=5)))

    text = page([one, two], {})

    assert ["| property | eager | eager (cuda) |"] == _lines(text, "| property")
    assert ["| values | ✓ 5 | **✗ 5** |"] == _lines(text, "| values")


def test_failures_have_their_cause_and_known_ones_their_finding() -> None:
    """A cause has its rate; a waiver that applies has finding and issue; one that does not is left out."""
    causes = (Cause("killed | by\nSIGSEGV", 0, ("rms_norm",), (), {"large_index": 3}, 3, 12, (), (), ""),)
    known = Waived("https://example.org/1", "finding 2: one column", WHERE, True, True, {"waived": 4}, "")
    unused = replace(known, reason="finding 1: elsewhere", held=False)
    rows = (_row("rms_norm", "values", "float32", passed=5, waived=4, crashed=3),)

    text = page([Judged("eager", "cpu", _report(*rows, causes=causes, waivers=(known, unused)))], {})

    assert "| eager | rms_norm | killed \\| by SIGSEGV | 3 of 12 | large_index 3 | – |" in text
    assert (
        "| eager | rms_norm, layer_norm | one column | 4 |  | [2](findings/2.md), <https://example.org/1> |"
        in text
    )
    assert "elsewhere" not in text
    assert "| 1,200 | 5,678 | 3 of 12 verdicts are bad |" in text


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"passed": 2}, "as declared"),
        ({"not_judged": 2}, "not shown"),
        ({"passed": 2, "waived": 1}, "another in some calls"),
        ({"passed": 2, "failed": 1}, "another in some calls"),
    ],
)
def test_a_contract_is_found_or_not(counts: Mapping[str, int], found: str) -> None:
    """The property ``contract`` decides whether the declared one is followed."""
    survey = Taken({}, True, 0, 0, (), (), 1.0, "takes everything; fp32", "")
    rows = (_row("rms_norm", "contract", "float16", **counts), _row("rms_norm", "values", "float16", passed=1))

    text = page([Judged("eager", "cpu", _report(*rows, surveys={"rms_norm": survey}))], {})

    assert f"| eager | rms_norm | fp32 {{}} | {found} | takes everything; fp32 (claimed) |" in text


def test_a_missing_package_is_a_line() -> None:
    """The page says which adapters have no report, and why."""
    assert "\n## Not judged\n\n- quack: no report\n" in page([], {"quack": "no report"})


def test_every_adapter_is_judged_on_every_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has its own folder, and the waivers of its adapter alone; a missing package has no run."""
    waivers = {"b": Path("b.toml")}
    runs = planned(["a", "b"], ["cpu", "cuda"], ["--seed", "1"], Path("w"), waivers)

    assert [Lane("a", "cpu", Path("w/a_cpu"), ("--seed", "1"))] == [r for r in runs if r.folder.name == "a_cpu"]
    assert ["w/a_cpu", "w/a_cuda", "w/b_cpu", "w/b_cuda"] == [str(run.folder) for run in runs]
    assert [[], [], ["--waivers", "b.toml"], ["--waivers", "b.toml"]] == [list(run.options[2:]) for run in runs]
    assert ["--device", "cuda", "--seed", "1", "--report", "w/a_cuda"] == runs[1].command[-6:]
    monkeypatch.setattr(lanes, "version", {"torch": "2.13.0"}.get)
    assert {"quack": "quack-kernels is not installed, pip install quack-kernels"} == missing(
        ["torch", "quack", "original"]
    )


def test_a_tiny_world_is_judged_and_written(tmp_path: Path) -> None:
    """One command judges two implementations, keeps their reports, and writes the page, as reading them does."""
    tiny = ("--op", "silu_and_mul", "--property", "empty", "--lane", "cpu", "-n", "1", "--report", "w")
    done = judged(tmp_path, "-m", "conformance", "world", "torch", "native", *tiny, nested=True)
    written = (tmp_path / "w" / "world.md").read_text(encoding="utf-8")
    again = ran(tmp_path, "-m", "conformance", "world", "--read", "--report", "w", "--page", "again.md")

    assert (0, 0) == (done.returncode, again.returncode)
    assert ["torch, cpu: holds", "native, cpu: holds", "w/world.md: 2 reports"] == done.stdout.splitlines()
    assert {"torch_cpu.json", "native_cpu.json"} <= {path.name for path in (tmp_path / "w").iterdir()}
    assert "| property | native | torch |" in written
    assert (tmp_path / "again.md").read_text(encoding="utf-8").startswith(written.rstrip("\n"))


def test_a_run_that_cannot_begin_says_why_and_fails(tmp_path: Path) -> None:
    """A request that one run refuses is its line, and no report is left from another time."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "torch_cpu.json").write_text("{}", encoding="utf-8")
    waivers = tmp_path / "known"
    waivers.mkdir()
    (waivers / "torch.toml").write_text("[[waiver]]\n", encoding="utf-8")
    done = ran(
        tmp_path, "-m", "conformance", "world", "torch", "--lane", "cpu", "--waivers", "known", "--report", "w"
    )

    assert 1 == done.returncode
    assert "torch, cpu: conform: " in done.stdout
    assert "w/world.md: 0 reports" in done.stdout


def test_the_page_in_docs_is_made_from_the_committed_reports() -> None:
    """The page is what ``conform world --read --report reports/world --page docs/world.md`` writes."""
    found = reports_of_lanes(ROOT / "reports" / "world")
    there = {each.name for each in found}
    expected = page(found, {name: "no report" for name in KNOWN if name not in there})

    assert expected == (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    assert all(each.report.footer.complete for each in found)


def test_what_fails_in_the_committed_reports_is_known() -> None:
    """Every bad verdict of a package has a finding; the first design, which is none, has a part of their table."""
    found = reports_of_lanes(ROOT / "reports" / "world")
    bad = {
        each.title: count
        for each in found
        if (count := sum(each.report.footer.verdicts.get(status, 0) for status in (*BAD, Status.ERROR)))
    }

    said = (ROOT / "docs" / "findings" / "README.md").read_text(encoding="utf-8")
    assert {"original"} == set(bad)
    assert not find("original").package
    assert "\n## The first design\n\n`original` in [world.md](../world.md)" in said
