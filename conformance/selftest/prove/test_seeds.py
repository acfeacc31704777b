"""The planted bugs under other seeds: what judges each, what is kept, and the rates."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from conformance.properties import PROPERTIES
from conformance.prove.planted import planted
from conformance.prove.rows import KILLED, SURVIVED, UNTIL_THE_LIMIT, Row, ended, read, row
from conformance.prove.running import Runner, Task
from conformance.prove.seeds import RECORDED, Sight, judge, telling, told
from conformance.prove.seeds import read as sights_of
from conformance.selftest.processes import judged

BUGS = [(bug, "values") for bug in planted("cpu")[:3]]


class _Runner(Runner):
    """A runner that judges nothing: the first bug is missed under the seed 1, and the third cut off under 0."""

    def run(self, waiting: deque[Task], until: float) -> Iterator[tuple[Task, Row]]:
        """Yield what became of each task."""
        for task in waiting:
            assert ("values",) == task.properties
            place = [bug.id for bug, _ in BUGS].index(task.mutant.id), task.seed
            made = row(task.mutant, task.stage, "cpu", KILLED, by="path")
            made = row(task.mutant, task.stage, "cpu", SURVIVED) if place == (0, 1) else made
            cut = row(task.mutant, task.stage, "cpu", SURVIVED, why=UNTIL_THE_LIMIT)
            yield task, cut if place == (2, 0) else made


def test_every_bug_is_judged_once_under_each_seed(tmp_path: Path) -> None:
    """A second run judges what is not in the file: what was cut off is neither found nor missed."""
    out = tmp_path / "rows.jsonl"
    judge(out, BUGS, "ci", range(2), _Runner("cpu", 1, 1.0))
    first = sights_of(out)
    judge(out, BUGS, "ci", range(2), _Runner("cpu", 1, 1.0))

    assert 5 == len(first) == len(sights_of(out))
    assert [Sight(BUGS[0][0].id, "values", "ci", 1, False, "", 0.0)] == [each for each in first if not each.found]
    assert {"path", ""} == {each.by for each in first}


def test_a_bug_that_is_missed_has_a_rate() -> None:
    """Only what every seed found is found; one that was not judged under each seed is not."""
    sights = [Sight("a", "values", "ci", seed, True, "values", 1.0) for seed in range(3)]
    sights += [Sight("b", "layout", "ci", seed, seed != 1, "layout", 1.0) for seed in range(3)]
    sights += [Sight("c", "layout", "ci", 0, True, "layout", 1.0)]
    said = told(sights).splitlines()

    assert [
        "1 of 3 planted bugs are found under each of 3 seeds",
        "b: 2 of 3, by layout",
        "c: 1 of 1, by layout",
    ] == said


def test_the_property_of_an_item_tells() -> None:
    """Every bug has a property with items of its own, also one that a call's other properties found."""
    known = ended(read(RECORDED))

    assert {telling(known[bug.id]) for bug in planted("cpu")} <= set(PROPERTIES)


def test_a_bug_is_found_under_another_seed(tmp_path: Path) -> None:
    """A run of one bug and two seeds finds it twice, by its telling property."""
    out = tmp_path / "seeds.jsonl"
    asked = ("--seeds", "2", "-n", "1", "--bug", "aiter 3078", "--out", str(out))
    finished = judged(tmp_path, "-m", "conformance.prove.seeds", *asked)

    assert finished.returncode == 0, finished.stderr
    assert "1 of 1 planted bugs are found under each of 2 seeds" in finished.stdout
    assert [(0, True), (1, True)] == [(each.seed, each.found) for each in sights_of(out)]
