"""Whole runs: with waivers, chunk by chunk, and cut short by Ctrl-C."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance import cli
from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.cases.factors import DTYPES
from conformance.cli.init import SKELETON
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.report import Exit
from conformance.runs.deadline import Deadline
from conformance.runs.item import EARLY, LONG, PROFILES, SHORT, SHORTER, TURNS, Item, cases_of, items, scope_of
from conformance.runs.judge import judge_item
from conformance.selftest.processes import Command, gone, started

CONFORM = "from conformance import cli; cli.main()"
VALUES = ("--op", "rms_norm_gated", "--property", "values")
# its bfloat16 rows are wrong, and it records the width of every call
WRONG = SKELETON.replace(
    "        y = x.float()\n",
    "        with open('called', 'a') as called:\n"
    "            print(x.shape[-1], file=called)\n"
    "        y = x.float() * (2 if x.dtype == torch.bfloat16 else 1)\n",
).replace("(x.dtype).contiguous()", "(x.dtype).contiguous() * (2 if x.dtype == torch.bfloat16 else 1)")
# records importing processes and their parents and, for a call, whether the host has Triton
WHO = """import os
from pathlib import Path

print("imported\\033[31m")
with open("imported", "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")


def note():
    with open("judged", "a") as file:
        file.write(f"{'libtriton' in Path(f'/proc/{os.getppid()}/maps').read_text()}\\n")


"""
# every child answers a few calls of any kind, and then hangs
HANGS = SKELETON.replace(
    "        y = x.float()\n",
    "        self.calls = getattr(self, 'calls', 0) + 1\n"
    "        while self.calls > 6: __import__('time').sleep(1)\n"
    "        y = x.float()\n",
).replace("    validates = False\n", "    validates = False\n    takes = {'rms_norm_gated': {'group': 'none'}}\n")


def _started(
    folder: Path,
    text: str,
    *arguments: str,
    code: str = CONFORM,
    ready: bool = True,
    workers: int = 1,
) -> Command:
    """Start ``conform run`` on an adapter, in separate processes, and always on the CPU.

    It is told the number of its ``workers``, unless that is 0.
    """
    (folder / "mine.py").write_text(text, encoding="utf-8")
    number = ("-n", str(workers)) if workers else ()
    given = ("run", "mine.py", "--report", "out", "--device", "cpu", *number, *arguments)
    return started(folder, "-c", code, *given, ready=ready)


def _noted(text: str) -> str:
    """Return the text of an adapter that records who imports and calls it."""
    return WHO + text.replace("        y = x.float()", "        note()\n        y = x.float()")


def _ran(folder: Path, text: str, *arguments: str, **how: Any) -> tuple[int, str, dict[str, Any]]:
    """Return the exit status of a run, its output, and its report."""
    ended = _started(folder, text, *arguments, **how).ended(timeout=300)
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, " ".join(ended.stdout.split()), report


def _rows(report: dict[str, Any]) -> dict[tuple[str, str], tuple[Counter[str], int]]:
    return {(r["property"], r["dtype"]): (Counter(r["counts"]), r["elements"]) for r in report["results"]}


KNOWN = """
[[waiver]]
issue = "https://example.org/issues/1"
reason = "twice too large"
where = { operation = "rms_norm_gated", property = "values", dtype = "bfloat16" }

[[waiver]]
issue = "https://example.org/issues/2"
where = { operation = "rms_norm_gated", n = 128 }
launches = false

[[waiver]]
issue = "https://example.org/issues/3"
where = { device = "cuda" }
"""
STALE = """
[[waiver]]
issue = "https://example.org/issues/4"
where = { operation = "rms_norm_gated", dtype = "float16", n = [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31, 32, 33] }

[[waiver]]
issue = "https://example.org/issues/5"
where = { operation = "rms_norm_gated", n = 77777 }

[[waiver]]
issue = "https://example.org/issues/6"
where = { operation = "rms_norm_gated", n = 77777 }
strict = false
"""


class Run(NamedTuple):
    """A run that several tests look at: its exit status, output, report and folder."""

    code: int
    shown: str
    report: dict[str, Any]
    folder: Path


@pytest.fixture(name="two_workers", scope="module")
def _two_workers(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a wrong adapter with waivers."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "known.toml").write_text(KNOWN, encoding="utf-8")
    given = (*VALUES, "--waivers", "known.toml")
    return Run(*_ran(folder, _noted(WRONG), *given, ready=False, workers=2), folder)


@pytest.fixture(name="one_process", scope="module")
def _one_process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a chunk of a right adapter."""
    folder = tmp_path_factory.mktemp("one")
    return Run(*_ran(folder, _noted(SKELETON), *VALUES, "--seed", "5", "--chunk", "2", ready=False), folder)


# --- waivers ------------------------------------------------------------------------------------------------


def test_what_is_known_does_not_fail_a_run(two_workers: Run) -> None:
    """The run exits with 0 although bfloat16 is always wrong; forbidden calls are not made; waivers are shown."""
    code, shown, report, folder = two_workers
    wrong, forbidden, elsewhere = report["waivers"]

    assert Exit.HOLDS == code, shown
    assert "128" not in (folder / "called").read_text(encoding="utf-8").split()
    assert set(_rows(report)["values", "bfloat16"][0]) <= {"waived", "declined"}
    assert _rows(report)["values", "float16"][0]["waived"]
    assert [] == report["failures"]
    assert wrong["counts"]["waived"]
    assert forbidden["counts"]["waived"]
    assert (False, {}, "") == (elsewhere["held"], elsewhere["counts"], elsewhere["stale"])
    assert 0 == report["footer"]["stale_waivers"]
    assert "failed: twice too large (https://example.org/issues/1)" in shown
    assert "not called: https://example.org/issues/2" in shown
    assert "https://example.org/issues/1" in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_a_waiver_that_is_out_of_date_fails_a_run(tmp_path: Path) -> None:
    """The run exits with 1 and nothing else wrong, also under pytest; each stale waiver has its reason.

    One that is not strict may match nothing.
    """
    (tmp_path / "known.toml").write_text(KNOWN + STALE, encoding="utf-8")
    plain = "import pytest, sys; sys.exit(pytest.main([*'-q -p conformance.plugin --pyargs conformance.suite "
    plain += "-p no:cacheprovider --adapter mine.py'.split(), *sys.argv[3:]]))"
    code, shown, report = _ran(tmp_path, WRONG, *VALUES, "--waivers", "known.toml", code=plain, workers=0)
    why = [entry["stale"] for entry in report["waivers"]]

    assert Exit.FAILED == code == report["footer"]["exit_code"], shown
    assert ["", "", "", "nothing that it matches fails any more", "matches nothing", ""] == why
    assert [True] * 5 + [False] == [entry["strict"] for entry in report["waivers"]]
    assert 2 == report["footer"]["stale_waivers"]
    assert [] == report["failures"]
    assert "the waiver of https://example.org/issues/4" in shown
    assert "the waiver of https://example.org/issues/5" in shown


def test_cheap_properties_that_find_mistakes_are_judged_first() -> None:
    """Long items follow among others, none of them at the end, where the short ones are; no property is lost."""
    judged = [item.property for item in items(Subject(load("native"))) if item.property != TURNS]
    first = judged[: sum(prop in EARLY for prop in judged)]
    later = [prop for prop in PROPERTIES if prop not in {*EARLY, *LONG, TURNS}]
    others = [prop for prop in judged if prop in later]
    places = [place for place, prop in enumerate(judged) if prop in LONG]

    assert set(EARLY) == set(first)
    assert set(later) == set(others)
    assert list(SHORT) == [prop for prop, _ in itertools.groupby(others)][-len(SHORT) :]
    assert len(judged) == len(first) + len(places) + len(others)
    assert {1 + SHORTER} == {b - a for a, b in itertools.pairwise(places)}
    assert places[-1] < len(judged) - SHORTER


def test_an_operation_without_a_method_has_one_item() -> None:
    """It says that the operation is not implemented, whichever properties are chosen."""
    subject = Subject(load("normkernels"))
    for chosen in ((), ("claim", "large_index")):
        found = Counter(item.operation for item in items(subject, properties=chosen))
        lacking = {name for name in OPERATIONS if not subject.traits(name).implemented}

        assert lacking
        assert dict.fromkeys(lacking, 1) == {name: found[name] for name in lacking}


def test_items_that_take_turns_are_far_apart() -> None:
    """Evenly among the cheap ones, whichever operations there are, and at neither end."""
    judged = [item.property for item in items(Subject(load("normkernels")))]
    places = [place for place, prop in enumerate(judged) if prop == TURNS]
    early = sum(prop in EARLY for prop in judged)
    [apart] = {b - a for a, b in itertools.pairwise(places)}

    assert apart - 1 == places[0]
    assert apart == 1 + early // (len(places) + 1)
    assert places[-1] < early + len(places)


def test_long_items_are_of_each_property_in_turns() -> None:
    """Those that wait for the memory of a GPU do not wait for each other."""
    judged = [item.property for item in items(Subject(load("normkernels"))) if item.property in LONG]
    runs = [len(list(run)) for _, run in itertools.groupby(judged)]

    assert set(LONG) == set(judged)
    assert max(runs) <= len(DTYPES)


def test_all_operations_are_judged_by_cheap_properties_first() -> None:
    """An operation of long items, such as one that is tuned at every size, begins with the others."""
    judged = [item.property for item in items(Subject(load("native"))) if item.property != TURNS]
    early = [prop in EARLY for prop in judged]

    assert sorted(early, reverse=True) == early
    assert list(EARLY) == [prop for prop, _ in itertools.groupby(judged[: sum(early)])]


# --- chunks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_chunks_beyond_a_profile_draw_their_share_again(profile: str) -> None:
    """Each chunk has an item per drawing property and cases of its own, the same in every run."""
    subject = Subject(load("native"))
    number = PROFILES[profile].chunks
    drawing = [name for name, prop in PROPERTIES.items() if prop.given is None]
    chunk = items(subject, profile, 3, operations=("rms_norm",), chunk=number)
    cases = {}
    for k in (0, number, number + 1):
        cases[k] = set(cases_of(Item("rms_norm", "determinism", "float16", profile, 3, k), subject))

    # of properties whose cases the profile's chunks share out, and of others
    for prop in ("layout", "bias"):
        item = Item("rms_norm", prop, "float16", profile, 3, number)
        assert len(list(cases_of(item, subject))) == max(1, PROFILES[profile].drawn[prop] // number)

    assert sorted((name, dtype, number) for name in drawing for dtype in DTYPES) == sorted(
        (item.property, item.dtype, item.chunk) for item in chunk
    )
    assert cases[number] == set(cases_of(Item("rms_norm", "determinism", "float16", profile, 3, number), subject))
    assert len(cases[number]) > len(cases[0]) / 2 / number
    assert not cases[number] & (cases[number + 1] | cases[0])


def test_chunks_beyond_a_profile_have_all_rows_that_fit_on_a_gpu() -> None:
    """The profile's rows end at the thresholds of a dispatch; beyond it some cases fill what may be judged."""
    subject = Subject(load("native"), "cuda")

    def largest(*chunks: int) -> int:
        drawn = (Item("rms_norm", "values", "float16", "ci", 0, chunk) for chunk in chunks)
        cases = (case for item in drawn for case in cases_of(item, subject))
        return max(math.prod(case.tensors[0][1].shape) for case in cases)

    number = PROFILES["ci"].chunks
    limit = scope_of(Item("rms_norm", "values", "float16", "ci", 0, number), subject).max_elements
    assert largest(*range(number)) < limit / 2 < largest(number, number + 1) <= limit


def test_a_chunk_of_a_profile_is_a_part_of_it() -> None:
    """Numbers from 0 on name the profile's own items, so that each item can be judged alone."""
    subject = Subject(load("native"))
    parts = [items(subject, "ci", chunk=number) for number in range(PROFILES["ci"].chunks)]

    assert set(items(subject, "ci")) == {item for part in parts for item in part}


def test_chunks_go_on_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole profile comes first; then sessions of many chunks beyond it, none of which begins too late."""
    now = [0.0]
    monkeypatch.setattr("conformance.cli.run.time.time", lambda: now[0])

    def sessions(profile: str, only: int | None, minutes: float | None) -> list[tuple[int | None, int]]:
        now[0], found = 1000.0, []
        for number, count, until in cli.run._sessions(PROFILES[profile], only, minutes):
            # the profile, or a chunk that was asked for, is judged to its end
            expected = None if number in {None, only} else 1000.0 + 60 * (minutes or PROFILES[profile].minutes)
            assert expected == until
            found.append((number, count))
            now[0] += 100
        return found

    many = cli.run.MANY
    assert [(None, 1)] == sessions("ci", None, None)
    assert [(None, 1), (1, many)] == sessions("quick", None, 2)
    assert [(None, 1), (4, many), (4 + many, many)] == sessions("ci", None, 4)
    assert [(7, 1)] == sessions("quick", 7, None)
    assert math.ceil(60 * PROFILES["nightly"].minutes / 100) == len(sessions("nightly", None, None))


def test_a_chunk_begins_in_time_for_all_workers_or_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker that comes to a chunk decides, and others follow it, whatever the time is by then."""
    first, second = Deadline(tmp_path, 10.0), Deadline(tmp_path, 10.0)
    moments = iter((9.0, 11.0, 11.0, 9.0))
    monkeypatch.setattr("conformance.runs.deadline.time.time", lambda: next(moments))

    assert [first.begins(4), second.begins(4)] == [True, True]
    assert [first.begins(5), second.begins(5)] == [False, False]
    assert [second.begun(chunk) for chunk in (4, 5, 6)] == [True, False, False]


def test_a_chunk_is_the_same_alone_and_in_a_run(one_process: Run, tmp_path: Path) -> None:
    """Chunks of one run, on two workers in three sessions, equal separate ones; the header has their numbers.

    Of the last session no chunk begins in time, and the report does not name it.
    """
    sessions = [(1, 2, None), (3, 1, 2 * time.time()), (4, 2, 1.0)]
    both = f"from conformance import cli; cli.run._sessions = lambda *given: {sessions}; cli.main()"
    code, shown, report = _ran(tmp_path, SKELETON, *VALUES, "--seed", "5", code=both, workers=2)
    alone = one_process.report
    here = Counter[str]()
    subject = Subject(load(str(tmp_path / "mine.py")))
    for chunk in (1, 3):
        for item in items(
            subject, "quick", 5, operations=("rms_norm_gated",), properties=("values",), chunk=chunk
        ):
            here.update(verdict.status for verdict in judge_item(item, subject))

    assert Exit.HOLDS == code == one_process.code, shown
    assert "chunks 1 to 3" in shown
    assert "3 chunks beyond the profile" in shown
    assert ["1 to 3", "2"] == [made["header"]["chunks"] for made in (report, alone)]
    assert [3, 1] == [made["footer"]["chunks"] for made in (report, alone)]
    assert set(report["footer"]["verdicts"].items()) == set((here + Counter(alone["footer"]["verdicts"])).items())


# --- interruptions ------------------------------------------------------------------------------------------


def _wait_for_a_verdict(folder: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(b'"passed"' in shard.read_bytes() for shard in folder.glob("out/journal-*/journal-*.jsonl")):
            return
        time.sleep(0.05)
    pytest.fail("no verdict within two minutes")


@pytest.mark.parametrize(
    ("workers", "kill", "number"),
    [
        (1, os.kill, signal.SIGINT),
        (2, os.killpg, signal.SIGINT),
        (1, os.kill, signal.SIGTERM),
        (2, os.kill, signal.SIGTERM),
    ],
    ids=["one_process", "the_group_of_a_terminal", "ended", "ended_with_workers"],
)
def test_an_interrupted_run_leaves_what_it_judged(
    workers: int, kill: Callable[[int, int], None], number: signal.Signals, tmp_path: Path
) -> None:
    """A run of hanging calls exits with 130, an incomplete report, a line about the rest, and no process."""
    process = _started(tmp_path, HANGS, *VALUES, workers=workers)
    _wait_for_a_verdict(tmp_path)
    kill(process.pid, number)
    ended = process.ended(timeout=120)
    out, err = ended.stdout, ended.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    shown = " ".join(out.split())

    assert Exit.INTERRUPTED == ended.returncode == 130, out + err
    assert (True, False) == (report["footer"]["interrupted"], report["footer"]["complete"])
    assert report["footer"]["verdicts"]["passed"]
    left = len(report["footer"]["unfinished"])
    assert 0 < left <= 3
    assert f"{left} of 3 items were not judged to their end" in shown
    assert "mynorms: interrupted before its end" in shown
    assert "did not finish" not in shown
    assert "Traceback" not in err
    assert [] == [path.name for path in (tmp_path / "out").glob("journal-*")]
    assert gone(process.pid)


# --- one process has the implementation ---------------------------------------------------------------------


@pytest.mark.parametrize(("run", "printed", "every"), [("one_process", 1, 1), ("two_workers", 2, 3)])
def test_only_hosts_import_an_adapter(run: str, printed: int, every: int, request: pytest.FixtureRequest) -> None:
    """One host a worker and one for the command line import it, all with Triton, and output is in a file."""
    code, shown, _, folder = request.getfixturevalue(run)
    imported = [line.split() for line in (folder / "imported").read_text(encoding="utf-8").splitlines()]
    hosts, parents = ({pids[i] for pids in imported} for i in (0, 1))
    with_triton = set((folder / "judged").read_text(encoding="utf-8").splitlines())

    assert Exit.HOLDS == code, shown
    assert (every, every) == (len(hosts), len(parents))
    assert not hosts & parents
    assert {"True"} == with_triton
    assert printed * "imported\033[31m\n" == (folder / "out" / "output.log").read_text(encoding="utf-8")
    assert "what the implementation printed: out/output.log" in shown
    assert "\033" not in shown


# --- the first call -----------------------------------------------------------------------------------------

CRASHES = SKELETON.replace("        y = x.float()\n", "        raise ValueError('\\033[31mred')\n").replace(
    'if group_size is not None:\n            raise Declined("no groups")', "pass"
)


def test_a_call_that_crashes_is_said_first_and_once(tmp_path: Path) -> None:
    """The traceback comes before all else, and all calls that crash alike are one failure."""
    code, shown, report = _ran(tmp_path, CRASHES, *VALUES)
    how = "ValueError: \\x1b[31mred (mine.py:21, in rms_norm_gated)"

    assert Exit.FAILED == code
    assert f"the first and plainest call crashes: {how}" in shown
    assert 'mine.py", line 21, in rms_norm_gated' in shown
    assert f"rms_norm_gated: every call crashes alike: {how}" in shown
    assert 1 == len(report["causes"])
    assert "mine.py" in report["failures"][0]["trace"]
    assert "\033" not in shown
