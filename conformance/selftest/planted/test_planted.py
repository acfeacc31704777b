"""The table of planted bugs: each has a name, a public report, and a fake that the suite catches.

``test_fakes.py`` judges the fakes, each once, however many bugs share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conformance.calls.call import Subject
from conformance.operations import OPERATIONS
from conformance.prove.judging import Trial, _by_items, in_order
from conformance.prove.planted import TWO, planted
from conformance.runs.item import EARLY
from conformance.selftest.fakes import FAKES, Fake, launches
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.kernels_gpu import TWO_GPUS
from conformance.selftest.fakes.kernels_rows import UnusedRowsConstexpr
from conformance.selftest.first_failure import Found
from conformance.selftest.planted import OUTSIDE, PLANTED, Outside, Planted
from conformance.selftest.planted.__main__ import table

FEWEST = 120
REPORT = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues/\d+|commit/[0-9a-f]{7,40})")


def test_enough_bugs_are_planted() -> None:
    """There are many bugs, and nearly as many fakes: a score over the rows is not one fake's."""
    assert len(PLANTED) >= FEWEST
    assert len({bug.fake for bug in PLANTED}) >= FEWEST


def test_each_bug_has_a_name_a_report_and_a_sentence() -> None:
    """Names are unique over both tables, reports are public, and each row has a mechanism or a reason."""
    every: tuple[Planted | Outside, ...] = (*PLANTED, *OUTSIDE)
    unsaid = [bug.name for bug in PLANTED if not bug.mechanism.endswith(".")]

    assert len(every) == len({bug.name for bug in every})
    assert [] == [bug.source for bug in every if not REPORT.fullmatch(bug.source)]
    assert [] == unsaid + [bug.name for bug in OUTSIDE if not bug.reason.endswith(".")]


def test_each_bug_is_a_fake_of_its_operations() -> None:
    """The linked class is collected, so that it is judged, as every operation of the row."""
    strange = [bug.name for bug in PLANTED if not bug.operations or not set(bug.operations) <= set(OPERATIONS)]
    elsewhere = [bug.name for bug in PLANTED if not set(bug.operations) <= set(bug.kind().operations)]

    assert [] == strange + elsewhere
    assert [] == [bug.name for bug in PLANTED if bug.kind() not in FAKES]


def test_each_bug_is_judged_where_its_fake_can_be_wrong() -> None:
    """Fakes of kernels run on both devices, or on a GPU alone; those that fault, and all others, on a CPU."""
    assert {bug.name: _lanes(bug.kind()) for bug in PLANTED} == {bug.name: bug.lanes for bug in PLANTED}


@pytest.mark.parametrize(("visible", "lanes"), [("0", {"cuda"}), ("0,1", {"cuda", TWO})], ids=["one", "two"])
def test_bugs_of_two_gpus_need_them(visible: str, lanes: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On one GPU all bugs are judged that can exist there, on two all that need the second as well."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = {f"{bug.name}: {name}" for bug in PLANTED if lanes & set(bug.lanes) for name in bug.operations}

    assert expected == {bug.id for bug in planted("cuda")}
    assert not expected & {
        f"{bug.name}: {name}" for bug in PLANTED if bug.lanes == ("cpu",) for name in bug.operations
    }


@pytest.mark.parametrize(("lane", "first"), [("cpu", EARLY[0]), ("cuda", "variants")])
def test_what_a_bug_names_comes_first_on_a_gpu(lane: str, first: str) -> None:
    """Elsewhere the order is the same for all bugs, so that the time until one is found says something."""
    trial = Trial(Path(), "quick", lane, (("bug", "rms_norm"),), ())
    found = in_order(trial, {"bug": Subject(UnusedRowsConstexpr(), lane)})

    assert found[0][1].property == first
    assert {item.property for _, item in found} >= {*EARLY, "variants"}


def test_a_place_is_told_before_its_calls() -> None:
    """The survey before the first case may end the process, and its place is then known."""
    made = []

    class Counted(CorrectNorm):
        """A norm whose calls are counted, of which a survey finds out what it takes."""

        takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}

        def check(self, *given: Any) -> None:
            """Count."""
            made.append(given)
            super().check(*given)

    trial = Trial(Path(), "quick", "cpu", (("bug", "rms_norm"),), ())
    judged = _by_items(trial, {"bug": Subject(Counted())}, lambda: None)
    prop, where, _, verdicts = next(judged)

    assert (EARLY[0], "bug:rms_norm/values/bfloat16", []) == (prop, where, made)
    next(iter(verdicts))
    assert made


def _lanes(kind: Fake) -> tuple[str, ...]:
    if hasattr(kind, "gpu"):
        return (TWO,) if kind.gpu == TWO_GPUS else ("cuda",)
    return ("cpu", "cuda") if launches(kind) and not hasattr(kind, "ends_its_process") else ("cpu",)


def test_the_table_names_what_is_caught_and_what_is_not() -> None:
    """A row of a bug that nothing caught says so, one that needs a GPU says why, and only the former counts."""
    bugs = [
        Planted(name, "", ("rms_norm",), (), fake, "")
        for name, fake in (
            ("a", "sums.SumTruncated"),
            ("b", "sums.SumSaturates"),
            ("c", "kernels_gpu.RowsPastTheGrid"),
        )
    ]
    found = [Found("SumTruncated", "rms_norm", "chain", 1.5, 40), Found("SumSaturates", "rms_norm", "", 9.0, 700)]
    caught, missed, elsewhere, *sums = table(bugs, found).splitlines()

    assert " chain " in caught
    assert "NOT CAUGHT" in missed
    assert elsewhere.endswith("not judged: as many interpreted programs are over the budget")
    assert sums[1:] == [
        "1 of 2 caught where they can exist without a GPU",
        "time to detection: median 1.50 s, longest 1.5 s",
    ]
