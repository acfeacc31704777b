"""Reports of chunks add up to one report, which says what a single run over the same chunks says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import report
from conformance.adapter import Adapter
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.oracle.comparison import BadElement, Comparison
from conformance.report import merging
from conformance.runs import journal
from conformance.runs.item import Failure, Item
from conformance.runs.waivers import Waiver, Waivers, Where

WAIVERS = Waivers((Waiver("https://example.org/1", Where(dtype=("float16",))),), (0,))
# elements, and those that had to be exact: 30 of 44, of which the share times 44 is less than 30
ELEMENTS = ((6, 5), (28, 22), (7, 0), (3, 3))
GAPS = ("contiguous", "row_gap", "contiguous", "row_gap")


class Named(Adapter):
    """An adapter with only a name and a contract, which a header shows."""

    name = "named"
    contracts = {"rms_norm": "fp32"}  # noqa: RUF012 - read only


HEADER = report.header(Subject(Named()), profile="quick", seed=3)


def _case(rows: int, kind: str, dtype: str) -> Case:
    layout = Layout(kind, 8 if kind == "row_gap" else 0)
    spec = TensorSpec((rows, 8), dtype, layout=layout)
    return Case("rms_norm", (("x", spec),), (("eps", 1e-6), ("weight_offset", 0.0)))


def _judged(chunk: int, dtype: str) -> tuple[Item, list[Verdict]]:
    """Return an item of a chunk and its verdicts: all statuses, and failures where rows have gaps."""
    item = Item("rms_norm", "values", dtype, seed=3, chunk=chunk)
    verdicts = []
    for number, ((elements, exact), kind) in enumerate(zip(ELEMENTS, GAPS, strict=True)):
        case = _case(2 + number + 10 * chunk, kind, dtype)
        if kind == "row_gap":
            bad = BadElement("y", (1, 2), 5.0, 1.0, 2.0, 3.0)
            compared = Comparison(elements, 1, exact, 2.0 + chunk, bad)
            verdicts.append(Verdict("values", case, Status.FAILED, "y[1, 2] = 5, must lie in [1, 2]", compared))
        else:
            compared = Comparison(elements, 0, exact, 0.25 + chunk / 8)
            terms = (("weight", number == 0),)
            verdicts.append(Verdict("values", case, Status.PASSED, "", compared, terms=terms))
    declined = [Verdict("values", _case(90, "contiguous", dtype), Status.DECLINED, f"why {chunk % 2}")]
    return item, verdicts + declined * (chunk + 1)


def _write(shard: journal.Journal, chunk: int) -> list[str]:
    """Write what a chunk judged, and return its items."""
    planned = []
    for dtype in ("bfloat16", "float16"):
        item, verdicts = _judged(chunk, dtype)
        planned.append(str(item))
        for verdict in verdicts:
            shard.started(item, verdict.case)
            waived = WAIVERS.applied(verdict)
            shard.judged(item, waived, WAIVERS.of(waived))
            if waived.status is Status.FAILED:
                shard.failed(Failure(item, verdict, verdict.case, "a note"), Path(f"chunks/{chunk}/repro.py"))
        shard.finished(item, (chunk, 9))
    return planned


def _report(folder: Path, chunks: Sequence[int], waivers: Waivers) -> report.Report:
    """Return the report of a single run over some chunks."""
    folder.mkdir()
    planned = []
    with closing(journal.Journal(folder, "main")) as shard:
        for chunk in chunks:
            planned += _write(shard, chunk)
    header = replace(HEADER, chunks=merging.spans(chunks))
    return report.build(journal.read(folder), header, planned, 1.5 * len(chunks), waivers=waivers)


@pytest.fixture(name="reports", scope="module")
def _reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, report.Report]:
    """Return reports of chunks, each judged alone, and so without a verdict on waivers."""
    folder = tmp_path_factory.mktemp("chunks")
    alone = replace(WAIVERS, held=())
    return {chunk: _report(folder / str(chunk), [chunk], alone) for chunk in range(4)}


def _merged(reports: Mapping[int, report.Report], chunks: Sequence[int]) -> report.Report:
    found = merging.merged(((number, reports[number]) for number in chunks), held=(0,))
    assert found is not None
    return found


def test_no_verdict_is_lost_or_counted_twice(reports: Mapping[int, report.Report], tmp_path: Path) -> None:
    """Rows, totals, coverage, waivers, header and exit status are those of one run over the same chunks."""
    whole, parts = _report(tmp_path / "whole", [0, 1, 2, 3], WAIVERS), _merged(reports, [0, 1, 2, 3])

    assert {row.key(): row for row in whole.results} == {row.key(): row for row in parts.results}
    assert whole.footer == parts.footer
    assert whole.coverage == parts.coverage
    assert whole.waivers == parts.waivers
    assert whole.header == parts.header
    assert "0 to 3" == parts.header.chunks


def test_causes_add_up(reports: Mapping[int, report.Report], tmp_path: Path) -> None:
    """A cause that every chunk found has the cases and rates of all; its smallest failure of all is shown."""
    whole, parts = _report(tmp_path / "whole", [0, 1, 2, 3], WAIVERS), _merged(reports, [0, 1, 2, 3])
    (cause,), (found,) = whole.causes, parts.causes

    assert (cause.says, cause.cases, cause.properties) == (found.says, found.cases, found.properties)
    assert [whole.failures[cause.failures[0]]] == list(parts.failures)
    assert (0,) == found.failures


def test_the_order_of_chunks_changes_no_number(reports: Mapping[int, report.Report]) -> None:
    """Whichever chunk ends first, the sum is the same."""
    sums = {repr(_merged(reports, order)) for order in itertools.permutations(range(4))}

    assert 1 == len(sums)


def test_a_chunk_counts_once(reports: Mapping[int, report.Report]) -> None:
    """The number of a chunk is its name: a second report of it is a mistake of the caller."""
    with pytest.raises(AssertionError, match="chunk 1 counts once"):
        merging.merged([(1, reports[1]), (1, reports[2])])


def test_nothing_adds_up_to_nothing() -> None:
    """There is no report without a chunk."""
    assert merging.merged([]) is None


def test_a_waiver_that_no_chunk_needs_is_out_of_date(reports: Mapping[int, report.Report]) -> None:
    """Only where all of the profile was judged: else the places of such waivers are not given."""
    passing = {
        n: replace(r, waivers=tuple(replace(w, counts={"passed": 1}) for w in r.waivers))
        for n, r in reports.items()
    }
    held, free = _merged(passing, [0, 1]), merging.merged(passing.items())
    assert free is not None

    assert ("nothing that it matches fails any more", 1) == (held.waivers[0].stale, held.footer.stale_waivers)
    assert ("", 0) == (free.waivers[0].stale, free.footer.stale_waivers)


def test_other_versions_do_not_fit(reports: Mapping[int, report.Report]) -> None:
    """Another seed, torch or switch is named; another machine or chunk is none of these."""
    first = reports[0]
    other = replace(
        first, header=replace(first.header, seed=4, platform="elsewhere", chunks="7", numerics={"threads": 2})
    )

    assert () == merging.mismatches(first, reports[1])
    assert {"seed", "numerics.threads"} <= {each.what for each in merging.mismatches(first, other)}
    assert {"platform", "chunks"}.isdisjoint(each.what for each in merging.mismatches(first, other))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((), ""), ((4,), "4"), ((3, 1, 2), "1 to 3"), ((0, 2, 3, 9), "0, 2 to 3, 9")],
)
def test_numbers_of_chunks_are_told_by_their_spans(numbers: tuple[int, ...], words: str) -> None:
    """Neighbours are one span, in whatever order they came."""
    assert words == merging.spans(numbers)
