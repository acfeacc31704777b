"""``conform campaign`` judges chunks once each, here and on a cluster that loses one of its machines."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import cli, report
from conformance.report.document import Report
from conformance.selftest.processes import ROOT, judged, started

WRONG = cli.init.SKELETON.replace("+ eps", "+ 2 * eps + 0.01")
CHOSEN = ("--op", "rms_norm_gated", "--property", "determinism")
WAIT = 240.0  # seconds that a campaign may take


def _campaign(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a campaign into ``out``, in a process of its own, as its chunks are."""
    return judged(folder, "-m", "conformance", "campaign", *arguments, "-n", "1", "--report", "out", nested=True)


def _totals(reports: list[Report]) -> Counter[tuple[str, str, str, str]]:
    """Return the verdicts of reports by row and status."""
    found = Counter[tuple[str, str, str, str]]()
    for row in (row for made in reports for row in made.results):
        found.update({(*row.key(), status): count for status, count in row.counts.items()})
    return found


def _chunks(folder: Path) -> list[Report]:
    return [report.read(path) for path in sorted(folder.glob("chunks/*/report.json"))]


def test_a_chunk_is_judged_as_a_run_judges_it(tmp_path: Path) -> None:
    """Its report has the same rows; the campaign shows what all chunks say, and what they cost."""
    (tmp_path / "right.py").write_text(cli.init.SKELETON, encoding="utf-8")
    run = _campaign(tmp_path, "right.py", *CHOSEN, "--chunks", "1-1")
    made = report.read(tmp_path / "out" / "report.json")

    assert 0 == run.returncode, run.stderr
    assert run.stderr.startswith("chunk 1, "), run.stderr
    assert ("1", 1) == (made.header.chunks, made.footer.chunks)
    assert "mynorms: every judged property holds" in run.stdout
    assert "campaign: 1 chunk on 1 machine, 0 are open" in run.stdout
    assert "pairs of levels in judged cases" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    alone = judged(
        tmp_path, *f"-m conformance run right.py {' '.join(CHOSEN)} --chunk 1 -n 1 --report one".split()
    )
    assert 0 == alone.returncode, alone.stderr
    assert 0 == judged(tmp_path, "-m", "conformance", "compare", "one", "out/chunks/1").returncode


def test_a_campaign_goes_on_where_it_ended(tmp_path: Path) -> None:
    """With ``-x`` no chunk is begun after the first that fails; the same command without it judges the others.

    The report has the verdicts of all chunks, and the scripts of failures are in the folder.
    """
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    chosen = ("wrong.py", "--op", "rms_norm_gated", "--property", "contract", "--chunks", "2-4")
    run = _campaign(tmp_path, *chosen, "-x")
    made = report.read(tmp_path / "out" / "report.json")

    assert (1, "2") == (run.returncode, made.header.chunks), run.stderr
    assert "campaign: 1 chunk on 1 machine, 2 are open" in run.stdout
    assert not (tmp_path / "out" / "parts").exists()
    script = made.failures[made.causes[0].failures[0]].reproducer
    assert script.startswith("out/chunks/2/repro_")
    assert f"python {script}" in run.stdout
    assert 1 == judged(tmp_path, script).returncode

    then = _campaign(tmp_path, *chosen)
    made = report.read(tmp_path / "out" / "report.json")
    assert (1, "2 to 4") == (then.returncode, made.header.chunks), then.stderr
    assert made.header.command.startswith("conform campaign wrong.py --op rms_norm_gated --property contract ")
    assert made.header.command.endswith(" --chunks 2-4")
    assert ["chunk 2", "chunk 3", "chunk 4"] == [
        line.partition(",")[0] for line in (run.stderr + then.stderr).splitlines()
    ]
    assert _totals([made]) == _totals(_chunks(tmp_path / "out"))

    other = _campaign(tmp_path, *chosen, "--seed", "1")
    assert 2 == other.returncode
    assert "conform: out: was begun with seed 0, not 1; give another --report\n" == other.stderr


def test_a_target_that_cannot_be_judged_ends_the_campaign(tmp_path: Path) -> None:
    """The line of the run is the campaign's, with the chunk; nothing is tried again."""
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    run = _campaign(tmp_path, "broken.py", "--chunks", "5")

    assert 2 == run.returncode
    assert run.stderr.startswith("conform: chunk 0, on "), run.stderr
    assert "broken.py: cannot be loaded: ZeroDivisionError" in run.stderr
    assert 1 == run.stderr.count("\n")


@pytest.fixture(name="cluster")
def _cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a Ray cluster of two machines with a core each, all on this one, and without a page or statistics."""
    pytest.importorskip("ray", reason="Ray is an extra of its own: pip install 'normkernels[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


def _half_way(folder: Path) -> bool:
    """Return whether a chunk was judged, and both machines are judging another."""
    done = {path.name for path in folder.glob("chunks/*")}
    running = {path.name.partition("-")[0] for path in folder.glob("parts/*")}
    return bool(done) and len(running - done) == 2


def test_a_cluster_may_lose_a_machine(cluster: Any, tmp_path: Path) -> None:
    """The chunk that was judged there is judged elsewhere, and no verdict is lost or counted twice."""
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    (tmp_path / "right.py").write_text(cli.init.SKELETON, encoding="utf-8")
    options = [*CHOSEN, "--chunks", "4", "--ray", cluster.address, "--report", "out"]
    running = started(tmp_path, "-m", "conformance", "campaign", "right.py", *options)
    until = time.monotonic() + WAIT
    while not _half_way(tmp_path / "out") and time.monotonic() < until:
        time.sleep(0.1)
    cluster.remove_node(machines[0], allow_graceful=False)
    ended = running.ended(WAIT)
    made = report.read(tmp_path / "out" / "report.json")

    assert 0 == ended.returncode, ended.stderr
    assert 1 == ended.stderr.count("has no report: "), ended.stderr
    assert "0 to 3" == made.header.chunks
    assert _totals([made]) == _totals(_chunks(tmp_path / "out"))
    assert {"0", "1", "2", "3"} == {path.name for path in (tmp_path / "out" / "chunks").iterdir()}
    assert not (tmp_path / "out" / "parts").exists()
    # the words of Ray about it are in its logs
    assert ended.stdout.lstrip().startswith("mynorms on CPU")
    assert len(ended.stderr.splitlines()) == 5, ended.stderr


def test_the_options_of_a_project_are_those_of_its_campaigns() -> None:
    """But for the folder: the report of a run and that of a campaign do not replace each other."""
    values = {"report": "out", "seed": 3, "op": ["rms_norm"], "target": "mine.py"}

    assert {"seed": 3, "operations": ["rms_norm"]} == {
        name: value for name, value in cli._defaults(cli.campaign.campaign, values).items() if name != "target"
    }
    assert "directory" in cli._defaults(cli.run.run, values)
