"""Rows of whole runs, and their picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from conformance import report
from conformance.calls.compilations import Compiled
from conformance.runs.waivers import NONE
from conformance.selftest.report.chunk_reports import report_of


def test_a_row_has_the_numbers_of_its_report(tmp_path: Path) -> None:
    """Processes that judged for three of four seconds were busy for three quarters of them."""
    made = report_of(tmp_path / "run", [0, 1], NONE)
    took = {"values": 2.5, "layout": 0.5}
    footer = replace(made.footer, seconds=2.0, took=took, compiled=Compiled(7, 1.0, 2), complete=True)
    row = scaling.run_of(replace(made, footer=footer), 1, 2, 9.0)

    assert (1, 2, footer.judged, footer.elements, 7) == (
        row.gpus,
        row.workers,
        row.cases,
        row.elements,
        row.compiled,
    )
    assert (7, 2.0, 9.0, 0.75, footer.judged / 2) == (row.compiled, row.judged, row.whole, row.busy, row.rate)
    assert len(scaling.HEADING) == len(row.line())
    with pytest.raises(ValueError, match="2 processes did not end"):
        scaling.run_of(replace(made, footer=replace(footer, complete=False)), 1, 2, 9.0)


def test_runs_are_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has a row for each number of processes; the run that compiles is not drawn."""
    asked = []

    def measured(target: str, seen: list[str], workers: int, options: list[str]) -> tuple[report.Report, float]:
        asked.append((target, seen, workers))
        made = report_of(tmp_path / f"{len(asked)}", [0], NONE)
        compiled = Compiled(1000 if len(asked) == 1 else 0)
        footer = replace(
            made.footer, seconds=1.0 * workers, took={"values": 1.0}, compiled=compiled, complete=True
        )
        return replace(made, footer=footer), 5.0

    monkeypatch.setattr(scaling, "measured", measured)
    monkeypatch.setattr(scaling, "gpus", lambda: ["0", "1"])
    out = tmp_path / "scaling.json"
    scaling.main(["native", "--gpus", "1", "--gpus", "2", "-n", "4", "-n", "8", "--out", str(out)])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]

    assert [(1, 8), (1, 8), (1, 4), (2, 8), (2, 4)] == [(row["gpus"], row["workers"]) for row in rows]
    assert [["0"], ["0"], ["0"], ["0", "1"], ["0", "1"]] == [seen for _, seen, _ in asked]
    assert 1 + len(rows) == len(capsys.readouterr().out.splitlines())
    pytest.importorskip("matplotlib", reason="pictures are drawn where matplotlib is: the extra bench")
    picture = tmp_path / "scaling.svg"
    scaling.main(["--out", str(out), "--draw", str(picture)])
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_a_run_is_measured_in_a_process_of_its_own() -> None:
    """The report says what was judged, and the seconds are those of the whole run."""
    made, whole = scaling.measured("native", [], 1, ["--op", "softmax", "--property", "claim", "--device", "cpu"])

    assert "native" == made.header.adapter.name
    assert made.footer.complete
    assert made.footer.seconds < whole
