"""The cost of a campaign follows from what its chunks took and saw."""

from __future__ import annotations

from conformance.report import costs
from conformance.report.costs import Spent, State
from conformance.report.table import Section, Table

STATE = State(left=10, slots=4, unit="GPU")


def _spent(node: str, seconds: float, pairs: int, cases: int = 30) -> Spent:
    return Spent(node, seconds, cases, 1_000 * cases, {"rms_norm": pairs}, {"rms_norm": 400})


# bits of the pairs: 16, then two more, then none, then one
CHUNKS = (
    _spent("a", 60.0, 0xFFFF),
    _spent("b", 30.0, 0x3000F),
    _spent("a", 30.0, 0x1),
    _spent("a", 40.0, 0x40000, cases=60),
    _spent("b", 40.0, 0x1),
)


def _lines(shown: Table) -> dict[str, list[str]]:
    return {name: [said.text for cell in cells for said in cell] for name, _, cells in shown.lines}


def _section(state: State = STATE) -> Section:
    return costs.section(CHUNKS, state)


def test_speed_is_that_of_one_task() -> None:
    """Each machine has a line, and all together one: its seconds are those of all tasks."""
    cost, _ = _section().tables

    assert ("chunks", "minutes", "cases", "cases a second", "elements a second") == cost.dtypes
    assert {
        "a": ["3", "2.2", "120", "0.9", "923.1"],
        "b": ["2", "1.2", "60", "0.9", "857.1"],
        "all": ["5", "3.3", "180", "0.9", "900.0"],
    } == _lines(cost)
    assert "180 cases in 3.3 minutes of a GPU: 0.9 a second" == _section().end.text


def test_coverage_grows_by_chunk() -> None:
    """Pairs are counted once, after one chunk, two, four, and all."""
    _, growth = _section().tables

    assert ("1", "2", "4", "5", "have a name") == growth.dtypes
    assert {"rms_norm": ["16", "18", "19", "19", "400"]} == _lines(growth)
    _, shorter = costs.section(CHUNKS[:4], STATE).tables
    assert ("1", "2", "4", "have a name") == shorter.dtypes


def test_coverage_has_a_price() -> None:
    """The first chunks that saw most of the pairs, in minutes of a GPU."""
    said = "of the 19 pairs of levels seen so far: 90% after 2 chunks (90 seconds of a GPU), "

    assert said + "99% after 4 chunks (2.7 minutes of a GPU), 100% after 4 chunks (2.7 minutes of a GPU)" in (
        _section().notes
    )


def test_more_chunks_have_a_price() -> None:
    """Open ones take their turns on the tasks that run at a time; without any, a hundred are told."""
    assert "10 more chunks: about 2.0 minutes with 4 GPUs (6.7 minutes of a GPU)" in _section().notes
    ended = _section(State(left=0, slots=1, unit="task")).notes
    assert "100 more chunks: about 66.7 minutes with 1 task (66.7 minutes of a task)" in ended
    assert ended == _section(State(left=None, slots=1, unit="task")).notes


def test_what_is_missing_is_said() -> None:
    """Open chunks, those that came back, and those that were given up."""
    section = _section(State(left=2, slots=1, unit="task", lost=3, given_up=(4, 9)))

    assert (
        "campaign: 5 chunks on 2 machines, 2 are open",
        "chunks came back without a report 3 times",
    ) == section.heading
    assert ("chunk 4 has no report: given up", "chunk 9 has no report: given up") == section.wrong
    assert ("campaign: 5 chunks on 2 machines, without an end",) == _section(State(None, 1, "task")).heading


def test_nothing_costs_nothing() -> None:
    """A campaign without a chunk has a section as well."""
    section = costs.section((), STATE)

    assert ("campaign: 0 chunks on 0 machines, 10 are open", ()) == (section.heading[0], section.notes)
