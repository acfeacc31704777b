"""The command from end to end, on this machine: two tiny workloads, two peers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks.environment import WALL, clocks, highest
from benchmarks.judged import judge
from benchmarks.peers import OURS, PEERS
from benchmarks.results import CONTROL, PASSED, Row, read
from benchmarks.shapes import Workload, with_tokens, workloads
from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status
from conformance.cases.case import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BY_NAME = {workload.name: workload for workload in workloads()}
EXAMPLE = read(Path(__file__).parent / "test_results.json")
TINY = ("gated 1x24x128", "mrope in place 1x(24+4)x256")


def test_two_workloads_from_end_to_end(tmp_path: Path) -> None:
    """Results are judged, timed, written, read and shown; entries that pass have times, cases are unchanged."""
    out = tmp_path / "results.json"
    wanted = [part for name in TINY for part in ("--only", name.replace("(", "[(]"))]
    rest = ["--peers", "eager,F.rms_norm", "--rounds", "2", "--out", str(out)]
    done = CliRunner().invoke(command.cli, [*wanted, *rest], catch_exceptions=False)
    found = read(out)

    assert 0 == done.exit_code
    assert list(TINY) == [row.name for row in found.rows]
    for row in found.rows:
        assert {OURS, "eager", "F.rms_norm", CONTROL} == {entry.name for entry in row.entries}
        assert all(entry.status == PASSED and entry.cold and entry.host for entry in row.entries)
        assert {"copy", "triad"} <= set(row.ceilings)
        assert BY_NAME[row.name].case == Case.from_data(dict(row.case))
        assert row.name in done.output
    if not torch.cuda.is_available():
        assert WALL == found.header["clock"]
        assert "no measurement of anything" in done.output


def test_a_spent_budget_leaves_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workloads without time are named in the result, and in the printed table."""
    monkeypatch.setattr(command, "measure", lambda *given: pytest.fail("there was no time for it"))
    found = command.run((BY_NAME[TINY[0]],), (), tmp_path / "results.json", budget=-1.0)

    assert ((), TINY[:1]) == (found.rows, found.left_out)
    assert found == read(tmp_path / "results.json")


def test_a_workload_too_large_for_the_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other workloads are still measured."""

    def measure(workload: Workload, *given: object) -> Row:
        if workload.name == TINY[0]:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return replace(EXAMPLE.rows[0], name=workload.name)

    monkeypatch.setattr(command, "measure", measure)
    found = command.run(tuple(BY_NAME[name] for name in TINY), (), tmp_path / "results.json")

    assert (TINY[:1], list(TINY[1:])) == (found.left_out, [row.name for row in found.rows])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing like it"], "matches no workload of gated 1x24x128"),
        (["--peers", "eager,lager"], "--peers lager: must be among eager"),
        (["draw", "nowhere.json"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments: list[str], said: str) -> None:
    """Bad usage has exit status two, and the message lists the valid choices."""
    done = CliRunner().invoke(command.cli, arguments)

    assert 2 == done.exit_code
    assert said in " ".join(done.output.replace("│", " ").split())


def test_patterns_choose_workloads() -> None:
    """Workloads are chosen by name, with wildcards, in their usual order."""
    found = command.chosen(("gemma 8192x*", "rms fp8 *"))

    assert {"gemma 8192x5120", "rms fp8 512x1536", "rms fp8 8192x1536"} <= {workload.name for workload in found}
    assert all(workload.name.startswith(("gemma 8192x", "rms fp8 ")) for workload in found)


def test_the_highest_clocks_are_kept() -> None:
    """Each clock keeps its highest reading; a machine without readings has none."""
    assert {"SM MHz": 1980, "memory MHz": 3201} == highest({"SM MHz": 1980}, {"SM MHz": 1755, "memory MHz": 3201})
    assert isinstance(clocks(), dict)


@pytest.mark.parametrize("name", ["eager", "F.rms_norm", "original", "multi-row"])
def test_peers_of_our_own_are_right(name: str) -> None:
    """Peers without a package pass every call that they take, and take one call of each of their operations."""
    adapter = load(PEERS[name])
    taken = set()
    for workload in _one_of_each():
        found = judge(Subject(adapter, DEVICE), workload, values_of(workload.case), crowd=5)
        assert found.status in {Status.PASSED, Status.DECLINED}, f"{workload.name}: {found.reason}"
        taken |= {workload.case.operation} if found.status is Status.PASSED else set()

    timed = {workload.case.operation for workload in workloads()}

    assert timed & set(adapter.contracts) == taken


def _one_of_each() -> list[Workload]:
    """Return a workload of each kind, with two tokens."""
    kinds = {workload.name.rpartition(" ")[0]: workload for workload in reversed(workloads())}
    return [replace(workload, case=with_tokens(workload.case, 2)) for workload in kinds.values()]
