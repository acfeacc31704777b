"""The page has everything that the terminal shows, from report.json alone, in a single file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from conformance import report
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.properties import PROMISES
from conformance.report import table
from conformance.report.document import Level, Rate
from conformance.report.table import Said, Section, Tone
from conformance.runs import journal
from conformance.runs.data import to_data
from conformance.runs.item import Failure, Item
from conformance.runs.waivers import Waiver, Waivers, Where
from conformance.selftest.every import every
from conformance.selftest.report.test_report import BAD, CASE, FAILED, ITEM, OTHER, PASSED, Named

ISSUE = "https://example.org/issues/7"
VOID = {"meta", "br"}

REPORTS = Path(__file__).resolve().parents[3] / "reports"


class _Page(HTMLParser):
    """The words of a page, the resources that it would load, its anchors, and unclosed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.classes: set[str] = set()
        self.named: set[str] = set()
        self.linked: set[str] = set()
        self.loads: list[str] = []
        self.folded = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        self.classes |= set(given.get("class", "").split())
        self.named |= {given[name] for name in ("id",) if name in given}
        self.linked |= {value[1:] for name, value in given.items() if name == "href" and value.startswith("#")}
        if tag in {"link", "img", "iframe"} or {"src", "srcset", "xlink:href"} & set(given):
            self.loads.append(tag)
        self.scripts += [""] * (tag == "script")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.words.append(data)
            self.folded += data * ("details" in self.open)


@pytest.fixture(name="built")
def _built(tmp_path: Path) -> report.Report:
    """Return a report with every kind of cell, a failure with much markup, and waivers."""
    crashed = Verdict("layout", replace(CASE, seed=4), Status.CRASHED, "killed by SIGSEGV")
    evil = replace(FAILED, reason="y[1, 2] = <script>alert(1)</script> & more", comparison=FAILED.comparison)
    waived = Verdict("layout", CASE, Status.WAIVED, f"failed: known ({ISSUE})")
    declined = [Verdict("values", CASE, Status.DECLINED, f"no {what}") for what in "abcde"]
    with closing(journal.Journal(tmp_path, "gw0")) as shard:
        shard.started(ITEM, CASE)
        for verdict in (PASSED, replace(PASSED, property="metadata"), evil, crashed, *declined):
            shard.judged(ITEM, verdict)
        shard.judged(ITEM, waived, (0,))
        shard.failed(Failure(ITEM, evil, replace(CASE, seed=9), "a note"), tmp_path / "a b's" / "repro_1.py")
        for seed in range(12):
            again = replace(crashed, case=replace(CASE, seed=seed))
            shard.failed(Failure(ITEM, again, again.case, ""), tmp_path / f"repro_2{seed}.py")
        shard.finished(ITEM)
        shard.settled(OTHER, Status.NOT_JUDGED, "the adapter does not declare it")
        shard.finished(OTHER)
        missing = Item("rms_norm", "values", "float16")
        shard.settled(missing, Status.DECLINED, "not implemented")
        shard.finished(missing)
    where = Where(property=("layout",))
    waivers = Waivers((Waiver(ISSUE, where, "known"), Waiver(ISSUE + "1", Where(n=(77777,)), given="n = 77777")))
    header = report.header(Subject(Named()), profile="quick", seed=0)
    items = [str(item) for item in (ITEM, OTHER, missing)]
    return report.build(journal.read(tmp_path), header, items, 1.5, waivers=replace(waivers, held=(0, 1)))


@pytest.fixture(name="page")
def _page(built: report.Report, tmp_path: Path) -> Iterator[_Page]:
    """Return the page of that report, made from the file alone."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(to_data(built)), encoding="utf-8")
    page = _Page(report.write_page(folder / "report.json").read_text(encoding="utf-8"))
    yield page
    assert [] == page.open


def test_the_page_says_all_that_the_terminal_says(built: report.Report, page: _Page) -> None:
    """The words agree, except footnote brackets, the report's place, and text cut on a terminal."""
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    console.print(report.summary(built, ""))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # the file is the StringIO above
    # footnotes are numbers in brackets on the terminal, and links on the page
    lines = (re.sub(r" \[[\d,…]+\]", "", line).strip() for line in shown.splitlines() if "─" not in line)
    phrases = [part for line in lines for part in re.split(r"  +", re.sub(r"^\[\d+\] ", "", line)) if part]
    said = "".join(page.text.split())
    cut = [phrase for phrase in phrases if "".join(phrase.split()) not in said]

    assert [] == cut
    assert len(phrases) > 40


def test_the_page_needs_nothing_beside_it(page: _Page) -> None:
    """The page loads no script, picture, style sheet or font; a footnote's number leads to its reason.

    Its one script is the suite's own, and stands in the page.
    """
    own = (Path(report.__file__).parent / "templates" / "copy.js").read_text(encoding="utf-8")

    assert [] == page.loads
    assert [own.strip()] == [script.strip() for script in page.scripts]
    assert page.linked
    assert page.linked <= page.named


def test_every_failure_is_on_the_page(page: _Page) -> None:
    """A failure has its smallest case, first bad element, remark, script, and a command that replays it."""
    for seed in range(12):
        assert f"repro_2{seed}.py" in page.text
    assert CASE.id in page.text
    assert "element y[1, 2] came out nan" in page.text
    assert f"1.0 to {BAD.hi}" in page.text
    assert "1 of 6 elements" in page.text
    assert "a note" in page.text
    assert str(replace(CASE, seed=9)) in page.text
    assert f"conform replay '{CASE.to_json()}'" in page.text
    # split as a shell splits it
    assert """b'"'"'s/repro_1.py'""" in page.text


def test_a_cell_leads_to_the_cause_of_its_failures(built: report.Report, page: _Page) -> None:
    """The number of failures in a cell is a link to the card that explains them."""
    linked = {name for name in page.linked if name.startswith("cause-")}

    assert {f"cause-{number}" for number in range(1, len(built.causes) + 1)} == linked
    assert linked <= page.named


def test_lines_of_which_nothing_was_judged_are_folded(page: _Page) -> None:
    """These lines unfold without a script; lines with a verdict are not folded."""
    promise = PROMISES["determinism"]

    assert promise in page.folded
    assert PROMISES["values"] in page.text
    assert PROMISES["values"] not in page.folded


def test_a_cause_shows_its_rates_and_a_traceback(built: report.Report) -> None:
    """A card shows the rate of each level, and the traceback of a raising call if the report has one."""
    rate = Rate("gate_layout", ("step",), (Level("step", 3, 4),))
    causes = (replace(built.causes[0], rates=(rate,)), *built.causes[1:])
    failures = tuple(
        replace(failure, trace="in norm: 1 / 0" * (place == causes[0].failures[0]))
        for place, failure in enumerate(built.failures)
    )
    page = _Page(report.page(replace(built, causes=causes, failures=failures)))

    assert 1 == page.text.count("step 3 of 4")
    assert "judged cases fail where gate_layout is step" in page.text
    assert "in norm: 1 / 0" in page.text


def test_what_an_implementation_says_is_text(page: _Page) -> None:
    """An implementation's words cannot become markup of the page."""
    assert "<script>alert(1)</script> & more" in page.text


def test_waivers_are_on_the_page(page: _Page) -> None:
    """The page shows the failures that each waives, and why one must be removed."""
    assert "1 waived" in page.text
    assert "matches nothing" in page.text
    assert f"the waiver of {ISSUE}1 where n = 77777: matches nothing, take it out" in page.text


def test_colours_add_to_words_and_nothing_else(page: _Page) -> None:
    """Every tone has a style, in light and in dark."""
    assert {"good", "wrong", "aside"} <= page.classes
    assert {str(tone) for tone in table.Tone} <= page.classes


def test_the_page_says_what_is_taken_and_has_the_claim_to_paste(tmp_path: Path) -> None:
    """The page has a table of capabilities, which library authors need."""
    read = json.loads((REPORTS / "original_h200.json").read_text(encoding="utf-8"))
    (tmp_path / "report.json").write_text(json.dumps(read), encoding="utf-8")
    page = report.write_page(tmp_path / "report.json").read_text(encoding="utf-8")

    assert "rms_norm_gated takes rank 3, 128 columns" in page
    assert "refused: it gates after the norm, with silu" in page
    assert "&#39;columns&#39;: (128,)," in page


SECTION = Section("Compiled code", Said("all of it", Tone.GOOD), ("by a compiler",), ("a kernel spills",), (), ())


UNREADABLE: dict[str, tuple[tuple[str, str], str]] = {
    "no JSON": (("{", ""), "Extra data"),
    "another tone": (('"good"', '"loud"'), "end.tone is 'loud', must be one of good, wrong, aside"),
    "an entry less": (('"wrong"', '"other"'), "it has no 'wrong'"),
}


@every(("change", "message"), [pytest.param(*UNREADABLE[name], id=name) for name in UNREADABLE])
def test_a_section_that_cannot_be_read_says_so(
    built: report.Report, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    """A page has the sections of its folder; a file from another version of the suite costs its section alone."""
    path, kept = report.write(tmp_path, built), tmp_path / "sections" / "codegen.json"
    report.write_section(tmp_path, "codegen", SECTION)
    said = _Page(report.write_page(path).read_text(encoding="utf-8")).text
    kept.write_text(kept.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    page = _Page(report.write_page(path).read_text(encoding="utf-8")).text

    assert "Compiled code all of it by a compiler a kernel spills" in said
    assert "a kernel spills" not in page
    assert f"{kept}: is no section of a page: {message}" in page


def test_the_page_begins_with_what_is_known(page: _Page) -> None:
    """Failing, holding and unproved properties stand before everything else, with their reasons."""
    known = page.text[: page.text.index("Causes of failures")]

    assert "fails values (bfloat16), layout (bfloat16) cause 1 cause 2" in known
    assert "holds metadata (bfloat16)" in known
    assert "no evidence determinism (float16): the adapter does not declare it" in known
    assert "not implemented: rms_norm" in known


def test_a_cause_without_a_failure_names_a_case(built: report.Report, tmp_path: Path) -> None:
    """The card has the case, and the command that replays it; its file lies beside the report."""
    case = replace(CASE, seed=123)
    alone = replace(built.causes[0], failures=(), case=case, example="y[0] = 7")
    path = report.write(tmp_path / "alone", replace(built, causes=(alone,)))
    page = _Page(report.write_page(path).read_text(encoding="utf-8"))

    assert f"case {case.id}: {case} y[0] = 7" in page.text
    assert f"conform replay '{case.to_json()}' TARGET" in page.text
    assert case == Case.from_json((path.parent / "cases" / f"{case.id}.json").read_text(encoding="utf-8"))
