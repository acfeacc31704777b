"""The records written during a run give the report at its end."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import conformance
from conformance import report
from conformance.adapter import Adapter, Crashed
from conformance.calls.call import Subject
from conformance.calls.compilations import Compiled
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, TensorSpec
from conformance.oracle.comparison import BadElement, Comparison
from conformance.report import Exit, table
from conformance.report.header import facts
from conformance.runs import journal
from conformance.runs.data import from_data, to_data
from conformance.runs.host import Greeting
from conformance.runs.item import Failure, Item
from conformance.runs.options import IN_HEADER

REPORTS = Path(conformance.__file__).resolve().parents[1] / "reports"
# Others are totals of runs, or no runs of the suite.
WHOLE = [path for path in sorted(REPORTS.glob("*.json")) if '"results": [' in path.read_text(encoding="utf-8")]
ITEM = Item("rms_norm_gated", "values", "bfloat16")
OTHER = Item("rms_norm_gated", "determinism", "float16")
CASE = Case(
    "rms_norm_gated",
    (("x", TensorSpec((2, 3), "bfloat16")), ("weight", TensorSpec((3,), "bfloat16", values="weight"))),
    (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True)),
)
BAD = BadElement("y", (1, 2), float("nan"), 1.0, float("inf"), float("nan"))
FAILED = Verdict("values", CASE, Status.FAILED, "y[1, 2] = nan", Comparison(6, 1, 5, 2.0, BAD))
PASSED = Verdict("values", CASE, Status.PASSED, "", Comparison(6, 0, 5, 0.25))


@pytest.fixture(name="shard")
def _shard(tmp_path: Path) -> Iterator[journal.Journal]:
    """Return the journal of a second worker."""
    with closing(journal.Journal(tmp_path, "gw1")) as shard:
        yield shard


def _written(directory: Path, *verdicts: Verdict, worker: str = "gw0", item: Item = ITEM) -> journal.Records:
    """Return the records of a worker that gave these verdicts on one case, and finished."""
    with closing(journal.Journal(directory, worker)) as shard:
        shard.started(item, CASE)
        for verdict in verdicts:
            shard.judged(item, verdict)
        shard.finished(item)
    return journal.read(directory)


def _built(records: journal.Records, *planned: Item) -> report.Report:
    subject = Subject(Named())
    return report.build(records, report.header(subject, profile="quick", seed=0), [str(i) for i in planned], 1.5)


class Named(Adapter):
    """An adapter with only a name and a contract, which a header shows."""

    name = "named"
    contracts = {"rms_norm_gated": "hf"}  # noqa: RUF012 - read only


def test_verdicts_add_up_over_workers(tmp_path: Path) -> None:
    """Counts, elements and exact elements are summed, and the worst share is the largest."""
    _written(tmp_path, PASSED, PASSED)
    records = _written(tmp_path, FAILED, worker="gw1")
    tally = records.tallies["rms_norm_gated", "values", "bfloat16"]

    assert {"passed": 2, "failed": 1} == dict(tally.counts)
    assert (18, 15, 2.0, 2) == (tally.elements, tally.exact, tally.worst, records.cases)


def test_a_cut_last_line_costs_only_itself(tmp_path: Path) -> None:
    """A worker killed in the middle of a write loses only that line."""
    _written(tmp_path, PASSED)
    file = tmp_path / "journal-gw0.jsonl"
    with file.open("ab") as end:
        end.write(b'{"event":"judged","item":"rms_n')

    assert 1 == journal.read(tmp_path).cases


def test_a_damaged_line_is_not_skipped(tmp_path: Path) -> None:
    """An unreadable line in the middle of a shard raises, because verdicts would be lost silently."""
    _written(tmp_path, PASSED)
    file = tmp_path / "journal-gw0.jsonl"
    file.write_bytes(b"not a line\n" + file.read_bytes())

    with pytest.raises(journal.JournalDamaged, match=r"journal-gw0\.jsonl:1"):
        journal.read(tmp_path)


def test_judged_cases_are_all_cases_of_a_report_that_does_not_count_them(tmp_path: Path) -> None:
    """A run that judged none of its cases says so."""
    footer = _mixed(tmp_path).footer

    assert [0, 7] == [replace(footer, cases=7, judged_cases=count).judged for count in (0, None)]


@pytest.mark.parametrize(("chunks", "words"), [(1, "(1 chunk beyond"), (1200, "(1,200 chunks beyond")])
def test_a_count_has_its_noun(chunks: int, words: str, tmp_path: Path) -> None:
    """One chunk is no chunks."""
    made = _mixed(tmp_path)

    assert words in table.closing(replace(made, footer=replace(made.footer, chunks=chunks)))[1]


def test_a_run_ends_with_the_last_line_of_any_worker(tmp_path: Path, shard: journal.Journal) -> None:
    """The processes end later, which takes longer the more of them there are."""
    shard.finished(ITEM)
    assert 7.0 == journal.ended(tmp_path / "none", 7.0)
    (tmp_path / "journal-gw1.jsonl").rename(tmp_path / "journal-gw0.jsonl")
    with closing(journal.Journal(tmp_path, "gw1")):
        os.utime(tmp_path / "journal-gw0.jsonl", (0, 200.0))
        os.utime(tmp_path / "journal-gw1.jsonl", (0, 100.0))
    (tmp_path / "planned").touch()

    assert 200.0 == journal.ended(tmp_path, 7.0)


def test_an_unfinished_item_names_the_case_that_ran(tmp_path: Path, shard: journal.Journal) -> None:
    """If a worker is killed, the report names its last case and says that the run decides nothing."""
    shard.started(ITEM, CASE)
    shard.started(ITEM, replace(CASE, seed=7))
    built = _built(journal.read(tmp_path), ITEM, OTHER)

    assert [str(OTHER), str(ITEM)] == [each.item for each in built.footer.unfinished]
    assert replace(CASE, seed=7) == built.footer.unfinished[1].case
    assert (False, Exit.BROKEN) == (built.footer.complete, built.footer.exit_code)


def test_preparing_removes_an_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    """An old report is not mistaken for a new one, and other files are kept."""
    ours = ["journal-gw3.jsonl", "report.json", "junit.xml"]
    kept = ["notes.txt", "journal.jsonl", "repro_0123456789.py"]
    for name in (*ours, *kept):
        (tmp_path / name).touch()
    journal.prepare(tmp_path)

    assert sorted(kept) == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("totals", "complete", "expected"),
    [
        ({"passed": 3}, True, Exit.HOLDS),
        ({"passed": 3, "declined": 9, "not_judged": 1, "waived": 1}, True, Exit.HOLDS),
        ({"passed": 3, "failed": 1}, True, Exit.FAILED),
        ({"passed": 3, "crashed": 1}, True, Exit.FAILED),
        ({"hung": 1}, True, Exit.FAILED),
        ({"declined": 9}, True, Exit.NOTHING_JUDGED),
        ({"declined": 9, "not_judged": 1}, True, Exit.NOTHING_JUDGED),
        ({}, True, Exit.NOTHING_JUDGED),
        ({"passed": 3, "failed": 1, "error": 1}, True, Exit.BROKEN),
        ({"passed": 3}, False, Exit.BROKEN),
    ],
)
def test_the_exit_code_says_what_the_run_decided(totals: dict[str, int], complete: bool, expected: Exit) -> None:  # noqa: FBT001
    """Only a complete run whose judged properties all hold ends with 0; a run without judged ones does not."""
    assert expected is report.exit_code(totals, complete=complete)


@pytest.mark.parametrize("totals", [{"passed": 3}, {"passed": 3, "failed": 1}, {"declined": 9}])
def test_a_waiver_that_is_out_of_date_fails_what_would_hold(totals: dict[str, int]) -> None:
    """A stale waiver is a failure like any other, whatever the verdicts."""
    assert Exit.FAILED is report.exit_code(totals, complete=True, stale=1)


def test_an_interrupted_run_is_neither_right_nor_broken(tmp_path: Path, shard: journal.Journal) -> None:
    """The run keeps its verdicts and failures, is marked incomplete, and lists nothing line by line."""
    shard.started(OTHER, CASE)
    subject = Subject(Named())
    header, items = report.header(subject, profile="quick", seed=0), [str(ITEM), str(OTHER)]
    built = report.build(_written(tmp_path, PASSED, FAILED), header, items, 1.5, interrupted=True)
    shown = _summary(built, 120)

    assert (False, True, Exit.INTERRUPTED) == (
        built.footer.complete,
        built.footer.interrupted,
        built.footer.exit_code,
    )
    assert {"passed": 1, "failed": 1} == built.footer.verdicts
    assert "1 of 2 items were not judged to their end" in shown
    assert str(OTHER) not in shown


def test_what_did_not_finish_is_listed_up_to_a_length(tmp_path: Path) -> None:
    """A suite that breaks immediately names some of the items, and counts the others."""
    items = [Item("rms_norm", "values", "float32", chunk=number) for number in range(30)]
    shown = _summary(_built(_written(tmp_path, PASSED), ITEM, *items), 120)

    assert 10 == shown.count("float32")
    assert "and 20 more items did not finish" in shown


def test_a_report_is_json_whatever_the_numbers_are(tmp_path: Path, shard: journal.Journal) -> None:
    """NaN and infinities, which JSON lacks, are written as text for float()."""
    shard.failed(Failure(ITEM, FAILED, CASE, "a note"), tmp_path / "repro.py")
    path = report.write(tmp_path, _built(_written(tmp_path, FAILED), ITEM))
    (failure,) = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)["failures"]

    assert {"output": "y", "index": [1, 2], "got": "nan", "lo": 1.0, "hi": "inf", "ulps": "nan"} == failure[
        "first"
    ]
    assert ("a note", str(tmp_path / "repro.py")) == (failure["note"], failure["reproducer"])


def test_the_cases_of_failures_lie_beside_the_report(tmp_path: Path, shard: journal.Journal) -> None:
    """Files have both the shrunk case and the drawn one, and both can be replayed."""
    drawn = replace(CASE, seed=9)
    shard.failed(Failure(ITEM, FAILED, drawn, ""), tmp_path / "repro.py")
    report.write(tmp_path, _built(_written(tmp_path, FAILED), ITEM))
    files = (tmp_path / "cases").iterdir()

    assert {CASE, drawn} == {Case.from_json(file.read_text(encoding="utf-8")) for file in files}


def test_a_row_has_an_exact_share_only_where_elements_were_compared(tmp_path: Path) -> None:
    """A row without compared elements differs from one without exact elements."""
    records = _written(tmp_path, PASSED, Verdict("memory", CASE, Status.PASSED))
    rows = {row.property: row for row in _built(records, ITEM).results}

    assert pytest.approx(5 / 6) == rows["values"].exact
    assert (None, None) == (rows["memory"].exact, rows["memory"].worst)


def test_the_header_names_what_the_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has versions, device, contract, options of the run and numerics switches, also a forced path."""
    monkeypatch.setenv("NORMKERNELS_PATH", "native")
    decided: dict[str, Any] = {"profile": "ci", "seed": 3}
    made = report.header(Subject(Named()), **decided)

    assert "native" == made.numerics["environment"]["NORMKERNELS_PATH"]
    assert ("normalised", "weighted") == made.adapter.contracts["rms_norm_gated"].rounds
    named = {"suite", "python", "torch", "triton", "hypothesis", "device", "platform", "commit"}
    assert named <= dict(facts(made)).keys()
    assert decided == {name: getattr(made, name) for name in IN_HEADER}
    assert any(line.startswith("profile ci, seed 3") for line in table.heading(made))


def _summary(built: report.Report, width: int, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    console.print(report.summary(built, "somewhere/report.json"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the file is the StringIO above


def _mixed(directory: Path) -> report.Report:
    """Return a report with every kind of cell."""
    with closing(journal.Journal(directory, "gw1")) as shard:
        shard.failed(Failure(ITEM, FAILED, CASE, "a note"), directory / "the repro.py")
        shard.settled(OTHER, Status.NOT_JUDGED, "the adapter does not declare it")
        shard.finished(OTHER, compiled=Compiled(3, 4.4, 1200), seconds=30.0)
        shard.finished(replace(OTHER, property="layout"), seconds=10.0)
    declined = [Verdict("values", CASE, Status.DECLINED, f"no {what}") for what in "abcde"]
    return _built(_written(directory, PASSED, FAILED, *declined), ITEM, OTHER)


def test_the_summary_shows_what_failed_and_how_to_see_it(tmp_path: Path) -> None:
    """The summary has property, case, bad element, remark, reproducer, totals, and the report's path."""
    shown = " ".join(_summary(_mixed(tmp_path), 200).split())

    for part in ("1 failed of 2", CASE.id, "y[1, 2] = nan", "a note", f"python '{tmp_path / 'the repro.py'}'"):
        assert part in shown
    assert "1 cases, 12 elements compared in 1.5 s" in shown
    assert "compiled: 3 kernels in 4 s of all processes; 1,200 lay in Triton's cache" in shown
    assert "time: 40 s of all processes, most of it for determinism 75%, layout 25%; " in shown
    assert f"{OTHER} alone took 30.0 s" in shown
    assert shown.endswith("somewhere/report.json")


def test_no_cell_of_the_summary_is_empty_without_a_reason(tmp_path: Path) -> None:
    """Cells that were declined, not judged or not requested say so, with a footnote for each reason."""
    shown = _summary(_mixed(tmp_path), 120)

    assert "5 declined [1,2,3,…]" in shown
    assert "not judged [4]" in shown
    assert "[4] the adapter does not declare it" in shown
    assert 2 == shown.count("not in this run")


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_fits_and_needs_no_colour(tmp_path: Path, width: int) -> None:
    """On a terminal without colours there are no escape sequences, and words carry the meaning."""
    shown = _summary(_mixed(tmp_path), width)
    # a path is never broken into lines, because a broken path cannot be copied
    script = str(tmp_path)

    assert "\x1b" not in shown
    assert width >= max(len(line) for line in shown.splitlines() if script not in line)


def test_an_exact_share_below_one_is_never_shown_as_all(tmp_path: Path) -> None:
    """99.999 % is shown as 99.99 %."""
    nearly = replace(PASSED, comparison=Comparison(100_000, 0, 99_999, 0.5))

    assert "exact 99.99%" in _summary(_built(_written(tmp_path, nearly), ITEM), 80)


def test_progress_rewrites_one_line_on_a_terminal() -> None:
    """Every item moves the line, without a new one."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = report.Progress(console, 3)
    progress.item({"passed": 5})
    progress.item({"passed": 1, "failed": 2})
    shown = str(console.file.getvalue())  # type: ignore[attr-defined]  # the file is the StringIO above

    assert "\n" not in shown
    assert "2/3 items, 8 verdicts" in shown
    assert "2 failed" in shown


def test_progress_is_silent_where_lines_cannot_be_rewritten() -> None:
    """The log of a short run has no line of progress."""
    console = Console(file=io.StringIO(), force_terminal=False)
    progress = report.Progress(console, 3)
    progress.item({"passed": 5})
    progress.close()

    assert "" == console.file.getvalue()  # type: ignore[attr-defined]  # the file is the StringIO above


def test_what_a_terminal_would_execute_is_written_out(tmp_path: Path) -> None:
    """Control characters in an implementation's words are escaped; commands are quoted for a shell."""
    crash = Verdict("values", CASE, Status.CRASHED, "\033[31mred\a", trace="line\r")
    with closing(journal.Journal(tmp_path, "gw0")) as shard:
        shard.smoked(ITEM, CASE, Crashed("\033[2J", "\N{RIGHT-TO-LEFT OVERRIDE}"))
        shard.started(ITEM, CASE)
        shard.judged(ITEM, crash)
        shard.judged(ITEM, Verdict("values", CASE, Status.DECLINED, "\033[1mno"))
        shard.failed(Failure(ITEM, crash, CASE, "\x9bnote"), tmp_path / "my kernels" / "repro_1.py")
        shard.finished(ITEM)
    path = report.write(tmp_path, _built(journal.read(tmp_path), ITEM))
    (tmp_path / "output.log").write_text("said", encoding="utf-8")
    console = Console(width=300, record=True, file=io.StringIO())
    report.show(path, console)
    shown = console.export_text()

    assert [] == [c for c in shown if not c.isprintable() and c != "\n"]
    for words in ("\\x1b[31mred\\x07", "\\x1b[1mno", "\\x1b[2J", "\\u202e", "\\x9bnote"):
        assert words in shown
    assert "python '" in shown
    assert "my kernels/repro_1.py'" in shown
    assert f"what the implementation printed: {tmp_path / 'output.log'}" in shown


def test_what_importing_changed_is_said(tmp_path: Path) -> None:
    """The header and the top of the summary name the changes."""
    subject = Subject(Named())
    greeting = Greeting(subject.declared, "", {"threads": 1}, ("the default dtype from float32 to float64",))
    made = report.header(subject, profile="quick", seed=0, greeting=greeting)

    assert ("the default dtype from float32 to float64",) == made.changed_by_import
    assert {"threads": 1} == made.numerics
    assert "importing it changed the default dtype from float32 to float64" in table.heading(made)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_committed_report_is_read_and_written_as_it_is(path: Path) -> None:
    """Nothing of a report is lost between its file and its dataclasses, old ones apart, which lack entries."""
    data = json.loads(path.read_text(encoding="utf-8"))
    read = report.read(path)
    text = report.in_lines(to_data(read))
    again = json.loads(text)

    # as text: NaN is unlike itself
    assert repr(read) == repr(from_data(report.Report, again))
    assert [] == _lost(data, again)
    if path.stem in {"normkernels_cuda", "mamba_cpu"}:
        assert path.read_text(encoding="utf-8") == text


def _lost(data: Any, again: Any, place: str = "") -> list[str]:
    """Return the places where entries of the one are missing or different in the other."""
    if isinstance(data, dict) and isinstance(again, dict):
        return [lost for name, value in data.items() for lost in _lost(value, again.get(name), f"{place}.{name}")]
    if isinstance(data, list) and isinstance(again, list) and len(data) == len(again):
        return [
            lost
            for number, pair in enumerate(zip(data, again, strict=True))
            for lost in _lost(*pair, f"{place}[{number}]")
        ]
    return [] if data == again else [place]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("footer"), "it has no 'footer'"),
        (lambda data: data["footer"].update(cases="9"), "footer.cases is '9', must be a whole number"),
        (lambda data: data["footer"].update(complete=1), "footer.complete is 1, must be true or false"),
        (lambda data: data["results"][1].pop("dtype"), r"results\[1\] has no 'dtype'"),
        (lambda data: data["results"][0].update(worst="big"), r"results\[0\].worst is 'big', must be a number"),
        (lambda data: data["results"][0].update(counts=[3]), r"results\[0\].counts is \[3\], must be an object"),
        (lambda data: data["failures"][0].update(case={}), r"failures\[0\].case is no case"),
        (lambda data: data.update(causes=None), "causes is None, must be a list"),
    ],
)
def test_a_file_that_is_no_report_says_where_not(change: Any, said: str, tmp_path: Path) -> None:
    """The message names the file, and the entry that is missing or has another type."""
    data = to_data(_mixed(tmp_path))
    change(data)
    (tmp_path / "other.json").write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(report.NoReport, match=rf"other\.json: is no report of a run that ended: {said}"):
        report.read(tmp_path / "other.json")
