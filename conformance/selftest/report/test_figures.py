"""Figures of a page draw what the report has, and nothing where it has nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from conformance import report
from conformance.oracle.histogram import LEAST, MOST, Histogram, Sizes
from conformance.report.document import Row
from conformance.report.figures import HEIGHT, WIDTH, charts, picture
from conformance.runs.behind import Behind, Operand, Without
from conformance.runs.failed import Picture
from conformance.selftest.report.test_report import CASE, REPORTS

SIZES = Sizes(Histogram(-2, (7, 90, 0, 3)), Histogram(-3, (97, 0, 0, 0, 0, 3)), Histogram(2, (3,)))
OLD = report.read(REPORTS / "fla_cpu.json")


def _with(*sizes: tuple[str, Sizes]) -> report.Report:
    rows = tuple(
        Row("rms_norm", f"p{n}", dtype, {"passed": 1}, 1, 0.0, 1.0, sizes=size)
        for n, (dtype, size) in enumerate(sizes)
    )
    return replace(OLD, results=rows)


def test_a_run_of_wrong_cells_is_one_rectangle() -> None:
    """It stands at its place, as dark as its digit, and all is as wide as there are columns."""
    drawn = picture(Picture(CASE, "y", 2, 6, ("000000", "009910")))
    high = drawn.height / 2
    parts = [(part.x, part.y, part.width, part.shade) for part in drawn.parts]

    assert [(12.0, high, 12.0, 1.0), (24.0, high, 6.0, 1 / 9)] == parts
    assert 36.0 == drawn.width
    assert "2 rows × 6 columns of y" == drawn.said


def test_the_bars_of_a_chart_are_its_counts() -> None:
    """Wrong elements have bars of their own, properties of one dtype count together, and most fills the height."""
    ((dtype, (share, ulps)),) = charts(_with(("float16", SIZES), ("float16", SIZES)), "rms_norm")

    assert "float16" == dtype
    assert [("14 elements: 1/4 to 1/2", False), ("180 elements: 1/2 to 1", False)] == [
        (part.said, part.wrong) for part in share.parts[:2]
    ]
    assert ["6 elements: 2 to 4", "6 wrong elements: 2 to 4"] == [part.said for part in share.parts[2:]]
    assert HEIGHT == max(part.height for part in share.parts)
    assert share.said == ulps.said == "6 of 200 elements are wrong"


def test_charts_of_one_operation_share_an_axis() -> None:
    """Bars of equal sizes stand below each other, whatever the dtypes have beside; every part is inside."""
    far = Sizes(Histogram(MOST, (1,)), Histogram(LEAST, (1,)))
    (_, (one, _)), (_, (other, _)) = charts(_with(("bfloat16", SIZES), ("float16", far)), "rms_norm")

    assert [label.x for label in one.labels] == [label.x for label in other.labels]
    assert (-2 - LEAST) * WIDTH / (MOST + 1 - LEAST) == one.parts[0].x
    assert all(0 <= part.x and part.x + part.width <= WIDTH for part in (*one.parts, *other.parts))
    assert "infinite or NaN" in other.parts[0].said


def test_an_old_report_has_no_figures() -> None:
    """A report from before sizes and pictures were kept has a page all the same."""
    page = report.page(OLD)

    assert () == charts(OLD, "rms_norm")
    assert "<svg" not in page
    assert "How large the errors are" not in page


def with_everything() -> report.Report:
    """Return a report of failures that has all that a page can show."""
    failing = report.read(REPORTS / "original_h200.json")
    behind = Behind(
        (Operand("x", (1, 2), 0.25, -1.0, 1.0, 0.5), Operand("cos", None, None, 0.0, 1.0, 0.5)),
        (Without("eps", 1.0, 2.0, explains=False), Without("offset", 3.0, 3.0, explains=True)),
    )
    drawn = Picture(replace(CASE, seed=77), "y", 2, 6, ("000000", "009910"))
    failures = tuple(replace(failure, behind=behind, picture=drawn) for failure in failing.failures)
    rows = tuple(replace(row, sizes=SIZES) for row in failing.results)
    header = replace(failing.header, command="conform run original")
    return replace(failing, header=header, failures=failures, results=rows)


def test_the_page_has_the_figures_and_the_numbers_behind_an_element(tmp_path: Path) -> None:
    """All of it is read from the report: picture, charts, arguments, and the term that explains what came out."""
    path = report.write(tmp_path, with_everything())
    page = report.write_page(path).read_text(encoding="utf-8")

    assert json.loads(path.read_text(encoding="utf-8"))["failures"][0]["picture"]["cells"] == ["000000", "009910"]
    assert "2 rows × 6 columns of y" in page
    assert "seed 77" in page
    assert '<th scope="row">x[1, 2]</th><td>0.25</td><td>-1 to 1</td><td>0.5</td>' in page
    assert '<th scope="row">cos</th><td></td>' in page
    assert '<th scope="row">offset</th><td>3.0 exactly</td><td>what came out</td>' in page
    assert '<th scope="row">eps</th><td>1.0 to 2.0</td><td></td>' in page
    assert "error ÷ allowed" in page
    assert "error in ulps" in page
    assert "<pre>conform run original</pre>" in page
