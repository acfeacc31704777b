"""Sizes of errors and pictures of wrong elements reach the report, and are read from it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from conformance import report
from conformance.calls.budget import ALONE
from conformance.calls.call import Subject
from conformance.calls.verdict import Verdict
from conformance.cases.factors import EVERYTHING
from conformance.oracle.histogram import Histogram, Sizes
from conformance.oracle.places import Places
from conformance.runs import journal
from conformance.runs.behind import Behind, Operand, Without
from conformance.runs.explain import explained
from conformance.runs.failed import Picture
from conformance.runs.host import Host
from conformance.runs.item import Failure, Item
from conformance.runs.judging import Judging, surveyed_by
from conformance.runs.surveys import Surveys
from conformance.runs.waivers import NONE
from conformance.selftest.fakes.weight_offsets import OffsetOmitted
from conformance.selftest.report.test_report import CASE, FAILED, ITEM, PASSED, Named

RIGHT, WRONG = Sizes(Histogram(-3, (6,)), Histogram(-2, (6,))), Sizes(Histogram(-1, (5, 0, 1)), Histogram(0, (6,)))
WIDE = replace(CASE, seed=8)


def _failed(places: Places | None) -> Verdict:
    return replace(FAILED, comparison=replace(FAILED.comparison, sizes=WRONG, places=places))


def _read(directory: Path, *verdicts: Verdict, failure: Failure, behind: Behind | None = None) -> report.Report:
    """Return the report of some verdicts and a failure, as it is read from its file."""
    with closing(journal.Journal(directory, "gw0")) as shard:
        shard.started(ITEM, CASE)
        for verdict in verdicts:
            shard.judged(ITEM, verdict)
        shard.failed(failure, directory / "repro.py", behind)
        shard.finished(ITEM)
    header = report.header(Subject(Named()), profile="quick", seed=0)
    built = report.build(journal.read(directory), header, [str(ITEM)], 1.5)
    return report.read(report.write(directory, built))


def test_a_row_has_the_sizes_of_all_its_errors(tmp_path: Path) -> None:
    """The counts of several cases are added up; a failure has the picture of its widest case."""
    widest = replace(_failed(Places("y", 2, 2, (0, 1, 1, 0))), case=WIDE)
    right = replace(PASSED, comparison=replace(PASSED.comparison, sizes=RIGHT))
    read = _read(tmp_path, right, widest, failure=Failure(ITEM, FAILED, CASE, "", widest))

    assert Sizes(Histogram(-3, (6, 0, 5, 0, 1)), Histogram(-2, (6, 0, 6))) == read.results[0].sizes
    assert Picture(WIDE, "y", 2, 2, ("09", "90")) == read.failures[0].picture


def test_a_failure_without_places_has_no_picture(tmp_path: Path) -> None:
    """An output of another shape has no wrong elements."""
    assert _read(tmp_path, FAILED, failure=Failure(ITEM, FAILED, CASE, "")).failures[0].picture is None


def test_the_picture_is_of_the_failing_case_that_shows_most() -> None:
    """The first failing case may be small; a case of another property is no picture of this one."""
    small, wide = Places("y", 1, 1, (1,)), Places("y", 1, 3, (1, 0, 0))
    wider = replace(_failed(Places("y", 1, 9, (1,) * 9)), property="layout")
    verdicts = (_failed(small), replace(_failed(wide), case=WIDE), PASSED, wider)
    first, second = explained(ITEM, verdicts, lambda _: (), lambda _: "", EVERYTHING)

    assert (verdicts[1], wider) == (first.widest, second.widest)


def test_the_numbers_behind_an_element_are_in_the_report(tmp_path: Path) -> None:
    """They are read as they were written, infinities and NaN included."""
    inf, nan = float("inf"), float("nan")
    behind = Behind((Operand("x", (0, 1), -inf, -inf, 2.5, inf),), (Without("eps", -inf, inf, explains=True),))
    other = Behind((Operand("cos", None, None, 0.0, 1.0, 0.5),), (Without("mean", nan, nan, explains=False),))
    first = _read(tmp_path, FAILED, failure=Failure(ITEM, FAILED, CASE, ""), behind=behind).failures[0]
    (tmp_path / "journal-gw0.jsonl").unlink()
    second = _read(tmp_path, FAILED, failure=Failure(ITEM, FAILED, CASE, ""), behind=other).failures[0]

    assert behind == first.behind
    assert repr(other) == repr(second.behind)


def test_a_run_gathers_all_that_a_page_shows_of_wrong_elements(tmp_path: Path) -> None:
    """The child that compares elements counts them, and looks behind the first wrong one."""
    host = Host(f"{OffsetOmitted.__module__}:{OffsetOmitted.__name__}", "cpu", 60.0, ("rms_norm",))
    host.judge_for(tmp_path, 60.0, None, ALONE)
    surveys = Surveys(tmp_path, partial(surveyed_by, host, "quick", 0))
    with closing(Judging(host, journal.Journal(tmp_path, "gw0"), NONE, surveys)) as judging:
        judging.run(Item("rms_norm", "contract", "float16"))
    records = journal.read(tmp_path)
    (failure,) = records.failures
    (tally,) = records.tallies.values()

    assert failure.behind is not None
    assert ["offset"] == [term.term for term in failure.behind.without if term.explains]
    assert failure.picture is not None
    assert failure.picture.rows * failure.picture.columns > failure.elements
    assert tally.elements == sum(tally.sizes.share.counts)
    assert sum(tally.sizes.wrong.counts) > 0
