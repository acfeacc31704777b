"""Results from a file: ratios, means, invariance, tables and pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.draw import FORMATS, caption, draw, host_medians, in_order, panels, peers_of, series
from benchmarks.results import (
    Entry,
    Results,
    Row,
    fastest,
    fastest_invariant,
    geometric_mean,
    invariant,
    off,
    ratio,
    read,
    summary,
    write,
)
from benchmarks.table import line, remarks, show
from benchmarks.timing import Timing

EXAMPLE = Path(__file__).parent / "test_results.json"
RESULTS = read(EXAMPLE)
ROWS = RESULTS.rows
DECODE, PREFILL, STRIDED, NORM = ROWS


def _name(entry: Entry | None) -> str | None:
    return entry.name if entry else None


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    """A written result is read back, and the file is whole whenever the process ends."""
    write(RESULTS, tmp_path / "new" / "results.json")

    assert RESULTS == read(tmp_path / "new" / "results.json")
    assert ["results.json"] == [path.name for path in (tmp_path / "new").iterdir()]


@pytest.mark.parametrize("missing", ["rows", "header", "left_out"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, missing: str) -> None:
    """The message names the file and its missing part."""
    data = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    del data[missing]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(ValueError, match=rf"other\.json: is no result .*{missing}"):
        read(path)


def test_ratios_are_our_time_over_theirs() -> None:
    """A ratio below one means that ours is faster."""
    assert pytest.approx(2.0 / 1.9) == ratio(DECODE, fastest(DECODE))
    assert pytest.approx(2.0 / 2.5) == ratio(DECODE, fastest_invariant(ROWS, DECODE))
    assert ratio(DECODE, None) is None
    assert ratio(replace(DECODE, entries=DECODE.entries[1:]), fastest(DECODE)) is None


def test_the_control_is_no_peer() -> None:
    """Our duplicate gives the possible error of a ratio, and is never the fastest peer."""
    quickest = replace(DECODE, entries=tuple(e for e in DECODE.entries if e.name in {"normkernels", "control"}))

    assert fastest(quickest) is None
    assert pytest.approx(1 - 2.0 / 2.02) == off(DECODE)


def test_one_batch_that_changes_bits_is_enough() -> None:
    """A change at one size counts at all sizes of the operation and width, and not elsewhere."""
    assert [False, False] == [invariant(ROWS, row, "original") for row in (DECODE, PREFILL)]
    assert [False, True] == [invariant(ROWS, row, "eager") for row in (PREFILL, NORM)]
    assert ("original", "fla fused") == (_name(fastest(PREFILL)), _name(fastest_invariant(ROWS, PREFILL)))


def test_who_was_not_timed_is_nobodys_peer() -> None:
    """A failed verdict or a missing package leaves an entry without a time to compare with."""
    assert "eager" == _name(fastest(NORM))
    assert {"quack", "liger"} <= {entry.name for entry in NORM.entries}


def test_shares_and_rates_are_of_our_cold_time() -> None:
    """The ceiling has the workload's own pattern: a triad for a gate, a copy for a norm."""
    assert pytest.approx(24.0 / 25.0) == PREFILL.of_ceiling()
    assert pytest.approx(80.0 / 82.0) == NORM.of_ceiling()
    assert pytest.approx(8192 * 5120 * 8 / 82.0 / 1e6, rel=1e-3) == NORM.bandwidth()
    assert replace(NORM, ceilings={}).of_ceiling() is None


def test_a_mean_of_ratios_is_geometric() -> None:
    """The mean of a half and two is one."""
    assert pytest.approx(1.0) == geometric_mean([0.5, 2.0])


def test_the_summary_counts_rows_that_hold() -> None:
    """The summary counts ratios at most 1 within the control's spread and at most 1.03, and has their mean."""
    to_any = summary(ROWS, fastest)
    to_invariant = summary(ROWS, lambda row: fastest_invariant(ROWS, row))
    assert to_any is not None
    assert to_invariant is not None

    assert (4, 3, 3) == (to_any.rows, to_any.even, to_any.near)
    assert (3, 3, 3) == (to_invariant.rows, to_invariant.even, to_invariant.near)
    assert pytest.approx((0.8 * (25 / 26.5) * (82 / 600)) ** (1 / 3)) == to_invariant.mean
    assert summary(ROWS, lambda row: None) is None


def test_a_ratio_within_the_spread_is_even() -> None:
    """A slightly slower result is even only if our own duplicate was off by as much."""
    peer = Entry("peer", "passed", cold=replace(_ours(NORM), median=82.0 / 1.004))
    close = replace(NORM, entries=(*NORM.entries[:1], peer, *NORM.entries[2:]))
    steady = tuple(e if e.name != "control" else replace(e, cold=_ours(NORM)) for e in close.entries)

    assert [1, 0] == [
        found.even for row in (close, replace(close, entries=steady)) if (found := summary([row], fastest))
    ]


def _ours(row: Row) -> Timing:
    assert row.ours is not None
    return row.ours


def test_a_line_says_who_was_fastest() -> None:
    """A line has plan, time, rate, share, both ratios with names, the spread, and the row of the same bytes."""
    cells = line(ROWS, DECODE)

    assert ("gated 64x32x128", "rows/decode128", "2") == (cells[0], cells[2], cells[3])
    assert ("95% of triad", "0.800 fla fused", "1.053 original", "±1.0%", "-") == cells[5:]
    assert "1.100" == line(ROWS, STRIDED)[-1]


def test_the_tables_show_everybody_and_every_reason() -> None:
    """Tables have times, marks of batch dependence, and untimed entries and workloads with reasons."""
    console = Console(width=250, record=True, file=io.StringIO())
    show(RESULTS, console)
    said = console.export_text()

    for words in (
        "an example, measured nowhere",
        "geometric mean 0.469 over 3 rows, 3 at most 1",
        "1.9* (1.8)",
        "liger failed: y[0, 1] = 2, must be exactly 1; 1 of 4 elements outside (gemma+res 8192x5120)",
        "quack not installed: quack: needs its package, pip install quack-kernels (gated 64x32x128 and 3 more)",
        "no time or memory was left for 1 workloads: gemma 128x5120",
    ):
        assert words in said


def test_what_is_not_implemented_is_no_remark() -> None:
    """Most peers have two operations of six, so missing ones are not listed."""
    entry = Entry("narrow", "declined", "not implemented")

    assert () == remarks([replace(NORM, entries=(entry,))])


def test_pictures_are_drawn_from_the_file(tmp_path: Path) -> None:
    """Times, ceilings, ratios and host times are drawn, in both formats, none empty."""
    pytest.importorskip("matplotlib", reason="pictures are drawn where matplotlib is: the extra bench")
    paths = draw(RESULTS, tmp_path)

    assert {f"{name}.{kind}" for name in ("times", "ceilings", "ratios", "host") for kind in FORMATS} == {
        p.name for p in paths
    }
    drawn = {path.name: path.read_bytes() for path in paths}
    assert all(drawn[name].startswith(b"\x89PNG") for name in drawn if name.endswith(".png"))
    assert all(b"</svg>" in drawn[name] for name in drawn if name.endswith(".svg"))


def test_an_empty_result_can_be_drawn_and_shown(tmp_path: Path) -> None:
    """A run that ended before its first row is a result."""
    pytest.importorskip("matplotlib", reason="pictures are drawn where matplotlib is: the extra bench")
    nothing = Results(RESULTS.header, ())

    assert 8 == len(draw(nothing, tmp_path))
    show(nothing, Console(file=io.StringIO()))


def test_a_line_of_a_picture_is_an_implementation() -> None:
    """Sizes are in order, our duplicate is left out, and ours is above all others."""
    lines = series((PREFILL, DECODE))

    assert ["eager", "original", "fla fused", "normkernels"] == list(lines)
    assert [(DECODE.bytes / 1e6, 2.0), (PREFILL.bytes / 1e6, 25.0)] == lines["normkernels"]


def test_panels_are_kinds_of_calls() -> None:
    """Panels ignore layouts; sizes are in order, followed by other forms of a call."""
    assert {"gated norm": 3, "norm with a residual": 1} == {k: len(some) for k, some in panels(ROWS).items()}
    assert (DECODE, PREFILL, STRIDED, NORM) == in_order((PREFILL, STRIDED, NORM, DECODE))


def test_peers_stand_to_the_right_where_we_are_faster() -> None:
    """The values are peers' times over ours, without ours and its duplicate."""
    found = peers_of(DECODE)

    assert pytest.approx({"eager": 12.0, "original": 0.95, "fla fused": 1.25}) == found
    assert {} == peers_of(replace(DECODE, entries=DECODE.entries[1:]))


def test_a_caption_says_what_the_numbers_depend_on() -> None:
    """The caption has device, versions, commit, clock, and the clocks if they were read."""
    header = {**RESULTS.header, "clocks": {"SM MHz": 1980}, "peers": {"liger-kernel": "0.8.5", "fla-core": None}}
    said = caption(replace(RESULTS, header=header))

    for words in (
        RESULTS.header["device"],
        f"torch {RESULTS.header['torch']}",
        "liger-kernel 0.8.5",
        "1980 SM MHz",
    ):
        assert words in said
    assert "fla-core" not in said


def test_host_bars_are_medians() -> None:
    """Bars are medians over the rows of one operation, without the control."""
    assert {"normkernels": 8.0, "eager": 90.0, "original": 20.0, "fla fused": 80.0} == host_medians(ROWS[:3])
