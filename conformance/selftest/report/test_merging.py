"""Reports of chunks add up to one report, which says what a single run over the same chunks says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import report
from conformance.report import merging
from conformance.selftest.report.chunk_reports import WAIVERS, WHOLE, report_of


@pytest.fixture(name="reports", scope="module")
def _reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, report.Report]:
    """Return reports of chunks, each judged alone, and so without a verdict on waivers."""
    folder = tmp_path_factory.mktemp("chunks")
    alone = replace(WAIVERS, held=())
    return {chunk: report_of(folder / str(chunk), [chunk], alone) for chunk in range(4)}


def _merged(reports: Mapping[int, report.Report], chunks: Sequence[int]) -> report.Report:
    found = merging.merged(((number, reports[number]) for number in chunks), held=(0,), command=WHOLE)
    assert found is not None
    return found


def test_no_verdict_is_lost_or_counted_twice(reports: Mapping[int, report.Report], tmp_path: Path) -> None:
    """Rows, totals, coverage, waivers, header and exit status are those of one run over the same chunks."""
    whole, parts = report_of(tmp_path / "whole", [0, 1, 2, 3], WAIVERS), _merged(reports, [0, 1, 2, 3])

    assert {row.key(): row for row in whole.results} == {row.key(): row for row in parts.results}
    assert whole.footer == parts.footer
    assert whole.coverage == parts.coverage
    assert whole.waivers == parts.waivers
    assert whole.header == parts.header
    assert "0 to 3" == parts.header.chunks


def test_causes_add_up(reports: Mapping[int, report.Report], tmp_path: Path) -> None:
    """A cause that every chunk found has the cases and rates of all; its smallest failure of all is shown."""
    whole, parts = report_of(tmp_path / "whole", [0, 1, 2, 3], WAIVERS), _merged(reports, [0, 1, 2, 3])
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
    """Only where all of the profile was judged: else the places of such waivers are not given.

    One that is not strict never is.
    """
    passing = {
        n: replace(r, waivers=tuple(replace(w, counts={"passed": 1}) for w in r.waivers))
        for n, r in reports.items()
    }
    held, free = _merged(passing, [0, 1]), merging.merged(passing.items())
    assert free is not None

    assert ("nothing that it matches fails any more", 1) == (held.waivers[0].stale, held.footer.stale_waivers)
    assert ("", 0) == (free.waivers[0].stale, free.footer.stale_waivers)
    lax = {n: replace(r, waivers=tuple(replace(w, strict=False) for w in r.waivers)) for n, r in passing.items()}
    assert 0 == _merged(lax, [0, 1]).footer.stale_waivers


def test_other_versions_do_not_fit(reports: Mapping[int, report.Report]) -> None:
    """Another seed, torch or switch is named; another machine or chunk, also in the command, is none of these."""
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
