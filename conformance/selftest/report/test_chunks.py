"""The folder of a campaign has each chunk whole or not at all, and once, and only chunks of that campaign."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import report
from conformance.adapter import UsageError
from conformance.report import chunks
from conformance.report.lines import in_lines
from conformance.runs.campaign.task import Result, Task
from conformance.runs.data import to_data
from conformance.selftest.report.chunk_reports import WAIVERS, report_of

SETTINGS = {"target": "mine.py", "seed": 0, "op": ("rms_norm",)}


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    """Return the report of a chunk with failures."""
    return report_of(tmp_path_factory.mktemp("made") / "7", [7], WAIVERS)


def _result(folder: Path, made: report.Report, number: int = 7, **files: bytes) -> Result:
    """Return the end of a task whose report names a script in the folder of the task."""
    place = chunks.place_of(folder, number)
    failures = tuple(replace(each, reproducer=f"{place}/repro_1.py") for each in made.failures)
    text = in_lines(to_data(replace(made, failures=failures)))
    whole: Mapping[str, bytes] = {"report.json": text.encode(), "repro_1.py": b"1", "cases/1.json": b"{}", **files}
    return Result(Task(number, ("mine.py",), str(folder), str(place)), 1, "it fails", "node-a", 2.5, whole)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_chunk_is_kept_with_its_scripts(tmp_path: Path, made: report.Report) -> None:
    """Its report names them where they are now, and nothing is left of the place where it was judged."""
    found = chunks.accept(tmp_path, _result(tmp_path, made), None)
    assert found is not None

    assert (7, "node-a", 2.5) == (found.number, found.node, found.seconds)
    assert found == chunks.chunk(tmp_path, 7)
    names = {"report.json", "task.json", "repro_1.py", "cases/1.json"}
    assert {f"chunks/7/{name}" for name in names} == _files(tmp_path)
    assert {str(tmp_path / "chunks" / "7" / "repro_1.py")} == {each.reproducer for each in found.report.failures}
    assert {7} == chunks.done(tmp_path)


def test_a_chunk_is_kept_once(tmp_path: Path, made: report.Report) -> None:
    """A second report of it, of a machine that was taken for lost, changes nothing."""
    first = chunks.accept(tmp_path, _result(tmp_path, made), None)
    again = replace(_result(tmp_path, made, more=b"2"), node="node-b")

    assert first == chunks.accept(tmp_path, again, first)
    assert "chunks/7/more" not in _files(tmp_path)
    assert [first] == list(chunks.chunks(tmp_path))


def test_what_was_not_judged_to_its_end_is_not_kept(tmp_path: Path, made: report.Report) -> None:
    """Neither an interrupted report, nor one that is missing: both chunks are still to be judged."""
    cut = replace(made, footer=replace(made.footer, complete=False))
    nothing = replace(_result(tmp_path, made), status=None, files={})
    left = tmp_path / nothing.task.place / "journal.jsonl"
    left.parent.mkdir(parents=True)
    left.touch()

    assert chunks.accept(tmp_path, _result(tmp_path, cut), None) is None
    assert chunks.accept(tmp_path, nothing, None) is None
    assert (set(), set()) == (chunks.done(tmp_path), _files(tmp_path))


def test_what_ended_tasks_left_is_removed(tmp_path: Path) -> None:
    """The folders of another command, which judges as well, stay."""
    ours, theirs = (chunks.place_of(tmp_path, number) for number in (1, 2))
    for place in (ours, theirs):
        place.mkdir(parents=True)
        (place / "output.log").touch()
    chunks.tidy(tmp_path, [ours])

    assert {f"parts/{theirs.name}/output.log"} == _files(tmp_path)
    chunks.tidy(tmp_path, [theirs, ours])
    assert not (tmp_path / "parts").exists()


def test_a_chunk_of_other_versions_is_bad_usage(tmp_path: Path, made: report.Report) -> None:
    """Chunk, machine and difference are named, and the chunk is not kept."""
    first = chunks.accept(tmp_path, _result(tmp_path, made), None)
    other = replace(made, header=replace(made.header, torch="1.0"))
    said = (
        f"chunk 8, judged on node-a, does not fit chunk 7: torch 1.0, not {made.header.torch}; all machines need"
    )
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        chunks.accept(tmp_path, _result(tmp_path, other, 8), first)

    assert {7} == chunks.done(tmp_path)
    # nor where somebody copied it there
    (tmp_path / "chunks" / "8").mkdir()
    for name in ("report.json", "task.json"):
        text = (tmp_path / "chunks" / "7" / name).read_text(encoding="utf-8")
        (tmp_path / "chunks" / "8" / name).write_text(text.replace('"seed":3', '"seed":4'), encoding="utf-8")
    (tmp_path / "chunks" / "8" / "report.json").write_text(in_lines(to_data(other)), encoding="utf-8")
    with pytest.raises(UsageError, match="does not fit chunk 7"):
        list(chunks.chunks(tmp_path))


def test_what_is_no_report_is_bad_usage(tmp_path: Path, made: report.Report) -> None:
    """A report that this suite cannot read comes from another one; a damaged chunk names its folder."""
    wrong = replace(_result(tmp_path, made), files={"report.json": b"{}"})
    with pytest.raises(UsageError, match=r"chunk 7, judged on node-a: .*it needs the same suite"):
        chunks.accept(tmp_path, wrong, None)

    chunks.accept(tmp_path, _result(tmp_path, made), None)
    (tmp_path / "chunks" / "7" / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="chunks/7: is no chunk of a campaign, remove it to judge it again"):
        chunks.chunk(tmp_path, 7)


def test_a_campaign_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    """The folder says with which it was begun; the files that decide verdicts are the same as well."""
    adapter = tmp_path / "mine.py"
    adapter.write_text("1", encoding="utf-8")
    folder = tmp_path / "new" / "campaign"
    chunks.begin(folder, SETTINGS, [adapter])
    chunks.begin(folder, SETTINGS, [adapter])

    assert 0 == json.loads((folder / "campaign.json").read_text(encoding="utf-8"))["seed"]
    with pytest.raises(UsageError, match="campaign: was begun with seed 0, not 1; give another --report"):
        chunks.begin(folder, {**SETTINGS, "seed": 1}, [adapter])
    changed = "mine.py is not as it was when the campaign began; give another --report"
    with pytest.raises(UsageError, match=changed):
        chunks.begin(folder, SETTINGS, [])
    adapter.write_text("2", encoding="utf-8")
    with pytest.raises(UsageError, match=changed):
        chunks.begin(folder, SETTINGS, [adapter])


def test_the_folder_of_another_command_is_left_alone(tmp_path: Path) -> None:
    """Its report would be replaced."""
    (tmp_path / "report.json").touch()
    with pytest.raises(UsageError, match="has the report of another command, give another folder"):
        chunks.begin(tmp_path, SETTINGS, [])

    assert {"report.json"} == _files(tmp_path)
