"""Mutants in company: who is judged with whom, and what becomes of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.prove import company
from conformance.prove.codes import source
from conformance.prove.company import Rounds, together
from conformance.prove.copies import write
from conformance.prove.mutants import Mutant, mutants_of
from conformance.prove.rows import CRASHED, HUNG, KILLED, SURVIVED, SUSPECT, UNBORN, UNTIL_THE_LIMIT, Row, row
from conformance.prove.running import Task
from conformance.selftest.every import every

FILE = "normkernels/plans.py"
CASES = [f"case {number}" for number in range(10)]
ALL = [f"m{number}" for number in range(11)]


def _mutant(name: str, start: int, end: int, file: str = FILE) -> Mutant:
    return Mutant(name, file, 1, "f", "operator", "a", "b", start, end, "b")


MUTANTS = [_mutant(name, 10 * number, 10 * number + 5) for number, name in enumerate(ALL)]


def _judged(deadly: dict[str, str], verdict: str = KILLED) -> tuple[dict[str, Row], list[Task]]:
    """Return the rows of eleven mutants of which some die at a case, and the tasks that it took.

    Alone at first, all are suspects; then a company dies at the first case that kills one of it.
    """
    rounds = Rounds(Task(mutant, "quick") for mutant in MUTANTS)
    rows, tasks = {}, []
    while rounds.waiting:
        task = rounds.waiting.popleft()
        tasks.append(task)
        left = [place for place in CASES if not task.start or place >= task.start]
        fatal = [place for place in left if place in {deadly.get(m.id) for m in (task.mutant, *task.others)}]
        if task.budget < float("inf"):
            ended = row(task.mutant, "quick", "cpu", SUSPECT)
        elif fatal:
            ended = row(task.mutant, "quick", "cpu", verdict, by="values", where=fatal[0])
        else:
            ended = row(task.mutant, "quick", "cpu", SURVIVED)
        for found in rounds.taken(task, ended):
            assert found.id not in rows
            assert not (found.dead and task.others)
            rows[found.id] = found
    assert [] == list(rounds.rest("cpu"))
    return rows, tasks


@every("verdict", [KILLED, CRASHED, HUNG])
@every(
    "deadly",
    [
        {},
        {"m3": "case 4"},
        {"m3": "case 4", "m4": "case 4", "m10": "case 0"},
        dict.fromkeys(ALL, "case 9"),
    ],
)
def test_a_company_comes_to_what_each_mutant_is_alone(deadly: dict[str, str], verdict: str) -> None:
    """Every mutant that some case kills is killed by it, alone; all others survive."""
    rows, _ = _judged(deadly, verdict)

    assert {name: (verdict, deadly[name]) if name in deadly else (SURVIVED, "") for name in ALL} == {
        name: (found.verdict, found.where) for name, found in rows.items()
    }


def test_survivors_cost_one_judgement_together() -> None:
    """Eleven mutants that live are judged once more, in one company; a death costs few more, from its case on."""
    _, peaceful = _judged({})
    _, one_dies = _judged({"m3": "case 4"})

    assert len(ALL) + 1 == len(peaceful)
    assert len(ALL) + 1 + 2 * 4 >= len(one_dies)
    assert {"", "case 4"} == {task.start for task in one_dies}


def test_a_company_that_cannot_be_imported_is_parted() -> None:
    """Each can alone: the parts begin where the company began."""
    rounds = Rounds((), [Task(mutant, "quick") for mutant in MUTANTS[:2]])
    task = rounds.waiting.popleft()

    assert 1 == len(task.others)
    assert [] == rounds.taken(task, row(task.mutant, "quick", "cpu", UNBORN))
    assert [("m1", (), ""), ("m0", (), "")] == [(t.mutant.id, t.others, t.start) for t in rounds.waiting]


def test_a_company_has_a_size_and_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait only whole companies form, of one file; then all that are left."""
    monkeypatch.setattr(company, "MOST", 3)
    others = [_mutant(f"n{number}", 10 * number, 10 * number + 5, "normkernels/call.py") for number in range(2)]
    last = _mutant("last", 900, 901)
    rounds = Rounds([Task(mutant, "quick") for mutant in (*MUTANTS[:4], *others, last)])
    for _ in range(6):
        task = rounds.waiting.popleft()
        rounds.taken(task, row(task.mutant, "quick", "cpu", SUSPECT))

    assert [["last"], ["m0", "m1", "m2"]] == _names(rounds)
    task = rounds.waiting.popleft()
    rounds.taken(task, row(task.mutant, "quick", "cpu", KILLED))
    assert [["m0", "m1", "m2"]] == _names(rounds)
    task = rounds.waiting.popleft()
    rounds.taken(task, row(task.mutant, "quick", "cpu", SURVIVED))
    assert [["m3"], ["n0", "n1"]] == sorted(_names(rounds))


def _names(rounds: Rounds) -> list[list[str]]:
    return [[mutant.id for mutant in (task.mutant, *task.others)] for task in rounds.waiting]


def test_who_waits_at_the_end_was_not_judged_whole() -> None:
    """A suspect, alone or in a company that has not ended, has a row that says so, and begins as one next time."""
    rounds = Rounds([Task(mutant, "quick") for mutant in MUTANTS[:2]], [Task(MUTANTS[2], "quick")])
    task = rounds.waiting.popleft()
    rounds.taken(task, row(task.mutant, "quick", "cpu", SUSPECT))

    assert {"m0", "m2"} == {found.id for found in rounds.rest("cpu")}
    assert {(SURVIVED, UNTIL_THE_LIMIT)} == {(found.verdict, found.why) for found in rounds.rest("cpu")}


def test_changes_that_overlap_do_not_meet() -> None:
    """A change inside of another one waits for another company; neighbours may meet."""
    inner, outer, beside = _mutant("inner", 3, 4), _mutant("outer", 0, 5), _mutant("beside", 5, 6)

    assert ["outer", "beside"] == [mutant.id for mutant in together([outer, inner, beside])]
    assert ["inner", "beside"] == [mutant.id for mutant in together([inner, outer, beside])]


def test_a_copy_has_the_changes_of_all(tmp_path: Path) -> None:
    """The file of a company differs in the text of each of its mutants."""
    met = together([mutant for mutant in mutants_of(FILE, source(FILE)) if mutant.kind == "constant"])
    write(tmp_path, *met)
    text = (tmp_path / FILE).read_text("utf-8")
    start = 0
    kept = []
    for mutant in met:
        kept.append(source(FILE).encode()[start : mutant.start].decode())
        start = mutant.end

    assert len(met) > 10
    assert "".join(a + m.text for a, m in zip(kept, met, strict=True)) == text[: -len(source(FILE)[start:])]
