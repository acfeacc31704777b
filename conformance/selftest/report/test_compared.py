"""A comparison of two reports shows first what got worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance import report
from conformance.cli.compare import compare
from conformance.report.differences import Change, new_causes, of_results
from conformance.report.document import Reason, Row
from conformance.selftest.every import every
from conformance.selftest.report.test_report import REPORTS

HOLDS, FAILS = {"passed": 5}, {"passed": 3, "failed": 2}
UNKNOWN, WAIVED = {"not_judged": 5}, {"passed": 3, "waived": 2}
OLD = report.read(REPORTS / "original_h200.json")  # has causes of failures
RIGHT = replace(OLD, causes=(), failures=())


def _row(counts: Mapping[str, int] | None, prop: str = "values", worst: float = 0.5) -> tuple[Row, ...]:
    reasons = (Reason("not_judged", "needs a GPU", 5),)
    return () if counts is None else (Row("rms_norm_gated", prop, "bfloat16", counts, 9, worst, 1.0, reasons),)


def _report(*rows: Row, of: report.Report = RIGHT) -> report.Report:
    return replace(of, results=rows)


CHANGES: dict[str, tuple[Mapping[str, int] | None, Mapping[str, int] | None, Change]] = {
    "fails now": (HOLDS, FAILS, Change.WORSE),
    "fails no more": (FAILS, HOLDS, Change.BETTER),
    "more fail": (FAILS, {"passed": 1, "crashed": 4}, Change.WORSE),
    "fewer fail": ({"passed": 1, "hung": 4}, FAILS, Change.BETTER),
    "as large a share fails": (FAILS, {"passed": 6, "failed": 4}, Change.OTHER),
    "fails, and has no evidence any more": (FAILS, UNKNOWN, Change.BETTER),
    "is not judged any more": (HOLDS, UNKNOWN, Change.WORSE),
    "too few are judged": (HOLDS, {**HOLDS, "no_evidence": 1}, Change.WORSE),
    "is waived": (FAILS, WAIVED, Change.BETTER),
    "is waived no more": (WAIVED, FAILS, Change.WORSE),
    "other calls": (HOLDS, {"passed": 6}, Change.OTHER),
    "not asked for": (HOLDS, None, Change.OTHER),
    "not asked for, and failed": (FAILS, None, Change.OTHER),
    "asked for first, and holds": (None, HOLDS, Change.OTHER),
    "asked for first, and fails": (None, FAILS, Change.WORSE),
}


@every(("before", "after", "change"), [pytest.param(*CHANGES[name], id=name) for name in CHANGES])
def test_a_difference_has_a_direction(
    before: Mapping[str, int] | None, after: Mapping[str, int] | None, change: Change
) -> None:
    """A row that was not asked for is no loss; one that is not judged any more is."""
    (found,) = of_results(_report(*_row(before)), _report(*_row(after)))

    assert change is found.change


def test_a_larger_error_is_worse_and_a_smaller_one_better() -> None:
    """The worst error decides between rows in which as many cases fail."""
    first, second = _report(*_row(HOLDS, worst=0.5)), _report(*_row(HOLDS, worst=0.75))

    assert [Change.WORSE] == [found.change for found in of_results(first, second)]
    assert [Change.BETTER] == [found.change for found in of_results(second, first)]
    assert () == of_results(first, first)


def test_what_fails_now_comes_first() -> None:
    """Then lost evidence, then larger errors, then what got better, then the rest."""
    before = {"a": FAILS, "b": HOLDS, "c": HOLDS, "d": HOLDS, "e": HOLDS}
    after = {"a": HOLDS, "b": HOLDS, "c": {"passed": 6}, "d": UNKNOWN, "e": FAILS}
    first = _report(*(row for name, counts in before.items() for row in _row(counts, name)))
    second = _report(*(row for name, counts in after.items() for row in _row(counts, name, 0.5 + (name == "b"))))

    assert ["e", "d", "b", "a", "c"] == [found.what.split()[1] for found in of_results(first, second)]


def test_a_cause_is_new_where_the_first_report_has_none_like_it() -> None:
    """Numbers of cases and levels may differ between runs of one fault, its words and factors may not."""
    more = tuple(
        replace(
            cause, cases=cause.cases + 1, rates=tuple(replace(rate, where=("another",)) for rate in cause.rates)
        )
        for cause in OLD.causes
    )
    at = next(place for place, cause in enumerate(more) if cause.rates)
    without = tuple(replace(cause, rates=() if place == at else cause.rates) for place, cause in enumerate(more))
    other = (*more[:-1], replace(more[-1], says="something else"))

    assert len(OLD.causes) > 1
    assert (at + 1,) == new_causes(OLD, replace(OLD, causes=without))
    assert () == new_causes(OLD, replace(OLD, causes=more))
    assert (len(more),) == new_causes(OLD, replace(OLD, causes=other))
    assert tuple(range(1, len(more) + 1)) == new_causes(RIGHT, OLD)


def test_the_page_of_a_comparison_shows_what_got_worse_and_why(tmp_path: Path) -> None:
    """New causes have their cards; the page names both reports and the command that makes it."""
    row = next(row for row in OLD.results if row.counts.get("failed"))
    before, after = _report(replace(row, counts=HOLDS)), _report(row, of=OLD)
    a, b = (report.write(tmp_path / name, made) for name, made in (("a", before), ("b", after)))
    page = tmp_path / "page.html"
    ran = CliRunner().invoke(compare, [str(a), str(b), "--html", str(page)], standalone_mode=False)
    text = page.read_text(encoding="utf-8")

    assert report.Exit.FAILED == ran.return_value
    assert "rows of results: 1 worse" in text
    assert text.index("Got worse") < text.index("New causes of failures")
    assert f"conform compare {a} {b} --html {page}" in text
    assert all(f'id="cause-{number}"' in text for number in range(1, len(OLD.causes) + 1))
    assert "no row of results differs" in report.compared(after, after, ("a", "b"), "")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The command ends with one line, as for every other file."""
    made = report.write(tmp_path, OLD)
    ran = CliRunner().invoke(compare, [str(made), str(made), "--html", str(tmp_path / "no" / "x")])

    assert f"--html {tmp_path / 'no' / 'x'}: cannot be written: No such file" in str(ran.exception)
    assert not ran.stdout
