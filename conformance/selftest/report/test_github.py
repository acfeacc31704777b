"""A report as GitHub shows one: where annotations point, what is escaped, and what the summary says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance import report
from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.cases.case import Case, TensorSpec
from conformance.report import github
from conformance.report.document import Cause, Footer, Level, Rate, Report, Row
from conformance.report.results import Exit
from conformance.runs.failed import Failed

CASE = Case(
    "rms_norm",
    (("x", TensorSpec((4, 8), "float32")),),
    (("eps", 1e-6), ("residual", None), ("weight_offset", 0.0)),
)
SOURCE = "class Mine:\n\n    def rms_norm(self, x):\n        return x\n"
REASON = "y[0, 1] = 3 | 100%, must be exactly 1"


def _failing(reason: str = REASON) -> Report:
    """Return a report with one cause of failures."""
    failed = Failed(
        operation="rms_norm",
        property="values",
        dtype="float32",
        status="failed",
        reason=reason,
        id=CASE.id,
        case=CASE,
        original=CASE,
        elements=32,
        outside=1,
        first=None,
        note="",
        reproducer="out/repro_1.py",
    )
    levels = (Level("3", 5, 5), Level("2", 0, 7))
    cause = Cause(
        says="wrong values",
        severity=1,
        operations=("rms_norm",),
        dtypes=("float32",),
        properties={"values": 5},
        cases=5,
        judged=5,
        rates=(Rate("rank", ("3",), levels),),
        failures=(0,),
        example=reason,
    )
    counts = {"passed": 7, "failed": 5}
    footer = Footer(
        items=1,
        unfinished=(),
        cases=12,
        verdicts=counts,
        elements=384,
        seconds=1.0,
        complete=True,
        exit_code=Exit.FAILED,
    )
    return Report(
        header=report.header(Subject(load("native")), profile="quick", seed=0),
        results=(Row("rms_norm", "values", "float32", counts, 384, 2.0, 0.5),),
        failures=(failed,),
        causes=(cause,),
        footer=footer,
    )


def _holding() -> Report:
    made = _failing()
    (row,), verdicts = made.results, {"passed": 12}
    footer = replace(made.footer, verdicts=verdicts, exit_code=Exit.HOLDS)
    return replace(made, results=(replace(row, counts=verdicts),), failures=(), causes=(), footer=footer)


def _annotated(made: Report, target: str | None, **files: str) -> list[str]:
    texts = {name.replace("__", "/") + ".py": text for name, text in files.items()}
    return list(github.commands(made, target, texts.get))


def test_every_cause_is_annotated_after_the_end() -> None:
    """The first line says how the run ended; then each cause, with its rates, smallest case and script."""
    end, cause = _annotated(_failing(), "mine.py", mine=SOURCE)

    assert end.startswith("::error title=conform::native: not every property holds%0Ajudged: ")
    assert cause.startswith("::error file=mine.py,line=3,title=1. wrong values%3A rms_norm%2C float32::")
    told = cause.rpartition("::")[2].split("%0A")
    assert "5 of 5 judged cases fail where rank is 3" == told[0]
    assert {f"case {CASE.id}: {CASE}".replace("%", "%25"), "python out/repro_1.py"} <= set(told)
    assert REASON.replace("%", "%25") in told


def test_a_run_that_holds_is_a_notice() -> None:
    """Nothing is wrong, and one line says so."""
    (end,) = _annotated(_holding(), None)

    assert end.startswith("::notice title=conform::native: every judged property holds%0Ajudged: 12 cases")


def test_other_problems_are_annotated() -> None:
    """A waiver that is out of date, or an operation that declines everything, lies in no file."""
    made = _holding()
    alarmed = replace(made, footer=replace(made.footer, alarms=("rms_norm: every call declined",), exit_code=1))

    assert "::error title=conform::rms_norm: every call declined" == _annotated(alarmed, "mine.py")[-1]


@pytest.mark.parametrize(
    ("reason", "target", "place"),
    [
        (REASON, "mine.py", "file=mine.py,line=3,"),
        (REASON, "mine.py:Mine", "file=mine.py,line=3,"),
        (REASON, "lib.mine:Mine", "file=lib/mine.py,line=3,"),
        (REASON, "deep.mine:Mine", "file=src/deep/mine.py,line=3,"),
        (REASON, "other.py", ""),
        (REASON, "broken.py", "file=broken.py,line=1,"),
        (REASON, "native", ""),
        (REASON, None, ""),
        ("ValueError: no (lib/mine.py:34, in norm)", "mine.py", "file=lib/mine.py,line=34,"),
        ("killed by SIGSEGV at lib/mine.py:4, in norm", "mine.py", "file=lib/mine.py,line=4,"),
        ("ValueError: no (somewhere/else.py:34, in norm)", "mine.py", "file=mine.py,line=3,"),
    ],
)
def test_an_annotation_points_to_a_file_that_exists(reason: str, target: str | None, place: str) -> None:
    """The place that raised, where it lies here; otherwise the method of the adapter, if it is a file here."""
    files = dict.fromkeys(("mine", "lib__mine", "src__deep__mine", "native"), SOURCE)
    cause = _annotated(_failing(reason), target, **files, broken="def rms_norm(:")[1]

    assert cause.startswith(f"::error {place}title=1. wrong values")


def test_the_summary_has_the_table_and_the_causes() -> None:
    """The Markdown says how it ended, where it was judged, each cause, and every cell."""
    said = github.summary(_failing())

    assert said.startswith("## native: not every property holds\n\n")
    assert (
        "**1. wrong values: rms\\_norm, float32**\n\n```text\n5 of 5 judged cases fail where rank is 3\n" in said
    )
    # text in a block stands as it is
    assert f"\n{REASON}\npython out/repro_1.py\n```\n" in said
    assert (
        "### rms_norm\n\n| property | float32 |\n| --- | --- |\n| values | **5 failed of 12**<br>worst 2" in said
    )


def test_nothing_in_a_summary_is_markup_by_accident() -> None:
    """Words of an implementation cannot close the block that they stand in, or become links and tags."""
    said = github.summary(_failing("a ```` b\nsecond"))
    made = _holding()
    alarmed = replace(made, footer=replace(made.footer, alarms=("<img> [a](b) `c`",)))

    assert "\n`````text\n" in said
    assert said.count("\n`````\n") == 1
    assert r"**\<img\> \[a\](b) \`c\`**" in github.summary(alarmed)
