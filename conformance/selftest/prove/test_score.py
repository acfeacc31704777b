"""The score: from rows to tables, and the marks of equivalent mutants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conformance.adapter import UsageError
from conformance.prove.chart import draw, fates
from conformance.prove.command import Asked, _vouched, chosen, left
from conformance.prove.copies import UNCHANGED, mutants
from conformance.prove.equivalent import Mark, equivalent, marks, told
from conformance.prove.mutants import Mutant
from conformance.prove.rows import (
    KILLED,
    SAME,
    SURVIVED,
    UNBORN,
    UNREACHED,
    UNTIL_THE_LIMIT,
    Row,
    ended,
    like,
    line,
    read,
    row,
)
from conformance.prove.score import PLANTED, counted, first_stage, killers, score
from conformance.selftest.every import every


def _mutant(name: str, kind: str = "operator") -> Mutant:
    file = PLANTED if kind == PLANTED else "normkernels/plans.py"
    return Mutant(name, file, 3, "f", kind, "a", "b", 0, 1, "b")


def _row(name: str, verdict: str, seconds: float = 1.0, stage: str = "quick", **more: object) -> Row:
    return row(_mutant(name), stage, "cpu", verdict, seconds=seconds, **more)


ROWS = (
    _row("a", KILLED, 1.0, by="values"),
    _row("b", UNBORN, 9.0),
    _row("c", SURVIVED),
    _row("c", KILLED, 4.0, stage="package", by="package", where="test"),
    _row("d", SURVIVED),
    _row("e", SURVIVED, why=UNTIL_THE_LIMIT),
    row(_mutant("bug", PLANTED), "quick", "cpu", KILLED, by="values", seconds=2.0),
)
APART = frozenset({"d"})
EVERY = mutants(("*",))


def test_counts_tell_the_dead_the_equivalent_and_the_living() -> None:
    """A mutant counts once, where it died; one that does not import has no time to detection."""
    count = counted("all", ROWS[:-1], APART)

    assert (5, 1, 1, 1) == (count.judged, count.unborn, count.equivalent, count.cut)
    assert {"quick, cpu": 1, "package, cpu": 1} == count.killed
    assert (4, 3) == (count.demanded, count.dead)
    assert (1.0, 4.0) == count.times


def test_a_mark_on_a_dead_mutant_counts_for_nothing() -> None:
    """Marking a mutant that is killed raises no share."""
    assert counted("all", ROWS, frozenset({"a"})).equivalent == 0


def test_mutants_that_were_not_judged_have_counts_of_their_own() -> None:
    """One that no case runs is alive, one with the code of the package is equivalent."""
    count = counted("all", [_row("f", UNREACHED), _row("g", SAME), _row("h", SURVIVED)], frozenset())

    assert (3, 1, 2, 0, 1) == (count.judged, count.equivalent, count.demanded, count.dead, count.unreached)


def test_what_a_cpu_cannot_show_is_not_counted_as_judged_whole() -> None:
    """Neither is what was cut off, nor what is equivalent; on another lane the mark of a CPU says nothing."""
    elsewhere = row(_mutant("i"), "quick", "cuda", SURVIVED)
    count = counted("all", [*ROWS[:-1], _row("h", SURVIVED), elsewhere], APART, frozenset({"a", "h", "i"}))

    assert (1, 1, 1, 3) == (count.unseen, count.cut, count.equivalent, count.dead)
    assert 4 == count.whole


def test_a_twin_has_the_fate_of_the_one_that_was_judged() -> None:
    """Its row says of whom; where that one was cut off, so was the twin."""
    killed, cut = (like(row, _mutant("twin")) for row in (ROWS[0], ROWS[5]))

    assert ("twin", KILLED, "values", "as a", 1.0) == (
        killed.id,
        killed.verdict,
        killed.by,
        killed.why,
        killed.seconds,
    )
    assert (SURVIVED, UNTIL_THE_LIMIT) == (cut.verdict, cut.why)


def test_the_dead_stay_dead() -> None:
    """A mutant that was killed once and survives elsewhere, as on another lane, is killed."""
    dead, alive = _row("a", KILLED, by="values"), _row("a", SURVIVED, stage="ci")

    assert {"a": dead} == ended([dead, alive]) == ended([alive, dead])


def test_one_stage_is_scored_alone() -> None:
    """A mutant that a later stage kills is alive in the first."""
    assert "2 of 4 killed, 50.0 %" in first_stage(ROWS[:-1], APART)


def test_the_score_names_every_killer() -> None:
    """The whole score has tables of mutants and of planted bugs, and what killed them."""
    said = score(ROWS, APART, APART)

    assert "## Mutants" in said
    assert "## Planted bugs" in said
    assert "| values | 1 | 1 | 1.5 | 2 |" in killers(ROWS)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    """The picture has a bar for each part."""
    assert {"killed": 2, "does not import": 1, "equivalent": 1, "alive": 1} == fates(ROWS, APART)["plans.py"]
    assert all(path.stat().st_size > 0 for path in draw(ROWS, APART, "a caption", tmp_path))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A run that was killed while it wrote a line leaves the lines before it."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(map(line, ROWS)) + '{"id": "x', encoding="utf-8")

    assert read(file) == ROWS
    assert () == read(tmp_path / "none.jsonl")


def test_a_run_goes_on_where_another_ended() -> None:
    """The dead are not judged again, nor what a stage judged to its end."""
    every = [_mutant(name) for name in "abcdef"]

    assert ["e", "f"] == [task.mutant.id for task in left(every, "quick", "cpu", ROWS)]
    assert ["d", "e", "f"] == [task.mutant.id for task in left(every, "package", "cpu", ROWS)]


def test_a_row_is_of_one_text_and_one_suite() -> None:
    """A mutant that was killed stays so until its file changes; a survivor is judged again by another suite."""
    every = [_mutant(name) for name in "abcdg"]
    known = [*ROWS, _row("g", SAME)]
    changed = [replace(row, content="another") for row in known]

    assert [] == left(every, "quick", "cpu", known)
    assert ["d"] == [task.mutant.id for task in left(every, "quick", "cpu", known, suite="another")]
    assert list("abcdg") == [task.mutant.id for task in left(every, "quick", "cpu", changed)]


def test_a_recorded_kill_is_tried_first_and_at_its_stage() -> None:
    """The stage before the one that killed a mutant is left out, and that stage begins with its killer."""
    recorded = {each.id: each for each in ROWS if each.dead}
    every = [_mutant(name) for name in "ac"]

    assert [("a", "")] == [(task.mutant.id, task.first) for task in left(every, "quick", "cpu", (), recorded)]
    assert [("a", ""), ("c", "test")] == [
        (task.mutant.id, task.first) for task in left(every, "package", "cpu", (), recorded)
    ]


def test_rows_wait_until_their_tests_passed_without_a_mutant() -> None:
    """A test that fails without a mutant kills nothing: no row of its file is given."""
    mutant, other = _row("a", KILLED), replace(_row("b", KILLED), file="normkernels/api.py")
    passes, fails = (replace(_row("unchanged", verdict), kind=UNCHANGED) for verdict in (SURVIVED, KILLED))
    given = list[Row]()

    assert [mutant, mutant] == list(_vouched([mutant, other, passes, mutant]))
    with pytest.raises(UsageError, match="fails without a mutant, must pass here"):
        given.extend(_vouched([mutant, fails, mutant]))
    assert [] == given


def test_a_sample_rotates_with_its_seed() -> None:
    """The same seed gives the same sample, another one another, and neither a marked mutant."""
    every = [_mutant(f"{number:02}") for number in range(50)]
    one, same, other = (
        [m.id for m in chosen(every, Asked(Path("x"), sample=20, seed=seed), ("07",))] for seed in ("1", "1", "2")
    )

    assert one == same != other
    assert 20 == len(set(one))
    assert "07" not in {m.id for m in chosen(every, Asked(Path("x")), ("07",))}


@every("mark", [(f"{mark.id or mark.file or mark.proof} {mark.text}", mark) for mark in marks()])
def test_every_mark_still_applies(mark: tuple[str, Mark]) -> None:
    """A marked mutant exists in today's sources, as the mark shows it, and has a proof."""
    _, given = mark
    found = [mutant for mutant in EVERY if given.holds(mutant)]

    assert found
    assert len(given.proof) > 20
    assert not given.id or [given.mutant] == [told(mutant) for mutant in found]
    assert not given.ids or sorted(given.ids) == sorted(mutant.id for mutant in found)


def test_a_mark_of_a_lane_holds_there_alone() -> None:
    """A mark for the CPU says nothing of a GPU, which may show the mutant."""
    mark = Mark("nothing shows", id="a", lane="cpu")

    assert {"a"} == equivalent([_mutant("a")], "cpu", [mark])
    assert set() == equivalent([_mutant("a")], "cuda", [mark])


def test_the_share_of_the_first_stage_is_that_of_the_lane() -> None:
    """Rows of a GPU alone have no share of a CPU."""
    on_a_gpu = row(_mutant("bug", PLANTED), "quick", "cuda", KILLED, by="stream", seconds=2.0)

    assert "quick on the cuda alone: 1 of 1 killed, 100.0 %" in score([on_a_gpu], frozenset(), frozenset())
    assert "quick on the cpu alone: 1 of 1 killed, 100.0 %" in score(
        [on_a_gpu, ROWS[-1]], frozenset(), frozenset()
    )
