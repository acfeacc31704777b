"""Tasks run on as many machines as there are, and one whose machine is lost has no report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.adapter import UsageError
from conformance.runs.campaign import executors
from conformance.runs.campaign.executors import Cluster, Here, Take, slots
from conformance.runs.campaign.task import Result, Task

DEAD = 2  # the chunk whose machine is lost


def _tasks(count: int) -> Take:
    """Return what hands out tasks of some chunks, and then none."""
    left = iter([Task(chunk, ("mine.py",), ".", f"parts/{chunk}") for chunk in range(count)])
    return lambda: next(left, None)


def _judge(task: Task) -> Result:
    return Result(task, 0, "judged", "node", 1.0, {"report.json": b"{}"})


class Lost(Exception):
    """The error of a task whose machine is lost, as Ray raises it."""


class FakeRay:
    """Ray, whose machines judge at once, but for the one with chunk ``DEAD``; it notes what it was asked for."""

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(self, resources: Mapping[str, float]) -> None:
        self.resources = resources
        self.given: dict[str, Any] = {}
        self.needs: dict[str, Any] = {}
        self.most = 0
        self.cancelled: list[Task] = []
        self.left = False

    def init(self, **given: Any) -> None:
        """Note the options of a connection."""
        if given["address"] == "nowhere:1":
            raise ConnectionError("nobody")
        self.given = given

    def cluster_resources(self) -> Mapping[str, float]:
        """Return the resources of all machines."""
        return self.resources

    def nodes(self) -> list[dict[str, Any]]:
        """Return one machine with all resources, and one that is lost."""
        return [{"Alive": True, "Resources": self.resources}, {"Alive": False, "Resources": {"CPU": 999.0}}]

    def remote(self, judge: Callable[[Task], Result]) -> Any:
        """Return a function for other machines, whose references are the tasks themselves."""
        self.judge = judge
        return SimpleNamespace(options=self._options)

    def _options(self, **needs: Any) -> Any:
        self.needs = needs
        return SimpleNamespace(remote=lambda task: task)

    def wait(self, running: Sequence[Task], num_returns: int) -> tuple[list[Task], list[Task]]:
        """Return the task that was begun last as the one that ends first."""
        self.most = max(self.most, len(running))
        return [running[-1]], list(running[:-1])

    def get(self, ended: Task) -> Result:
        """Return a result, or raise where a machine is lost."""
        if ended.chunk == DEAD:
            # Ray prints to stdout, where the report goes
            print("a machine is lost")  # noqa: T201
            raise Lost("its node is dead. It was preempted\nand more")
        return self.judge(ended)

    def cancel(self, task: Task, *, force: bool) -> None:
        """Note a task that need not end."""
        assert force
        self.cancelled.append(task)

    def shutdown(self) -> None:
        """Note that the cluster was left, and print what Ray prints at last."""
        print("a machine was lost")  # noqa: T201
        self.left = True


@pytest.fixture(name="cluster")
def _cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeRay, Cluster]]:
    """Return what connects with a cluster of some resources."""
    monkeypatch.setattr(executors, "judge", _judge)

    def connected(
        resources: Mapping[str, float], workers: int = 1, device: str | None = None, address: str = "auto"
    ) -> tuple[FakeRay, Cluster]:
        fake = FakeRay(resources)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake, Cluster(address, workers, device)

    return connected


Connect = Callable[..., tuple[FakeRay, Cluster]]


def test_this_machine_judges_one_chunk_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is taken when the one before has ended."""
    order: list[str] = []
    take = _tasks(2)

    def judging(task: Task) -> Result:
        order.append(f"judged {task.chunk}")
        return _judge(task)

    def taking() -> Task | None:
        task = take()
        order.append(f"took {task.chunk if task else None}")
        return task

    monkeypatch.setattr(executors, "judge", judging)
    found = [result.task.chunk for result in Here("cpu").results(taking)]

    assert ([0, 1], 1) == (found, Here("cpu").slots())
    assert ["took 0", "judged 0", "took 1", "judged 1", "took None"] == order


def test_a_cluster_judges_every_chunk(cluster: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    """As many at a time as it has cores; the chunk of a lost machine comes back, with the reason in a line."""
    fake, executor = cluster({"CPU": 3.0})
    results = {result.task.chunk: result for result in executor.results(_tasks(6))}
    executor.close()

    assert ([0, 1, 2, 3, 4, 5], 3) == (sorted(results), fake.most)
    assert (None, "Lost: its node is dead", {}) == (
        results[DEAD].status,
        results[DEAD].said,
        results[DEAD].files,
    )
    assert all(results[chunk].files for chunk in results if chunk != DEAD)
    assert ("", "") == tuple(capsys.readouterr())
    assert [] == fake.cancelled
    print("the report")  # noqa: T201
    assert "the report\n" == capsys.readouterr().out


def test_a_chunk_that_comes_back_may_be_taken_again(cluster: Connect) -> None:
    """Also where nothing else is left to take: the executor asks after every result."""
    _, executor = cluster({"CPU": 1.0})
    queue = [Task(DEAD, (), ".", "parts/2")]
    found = []
    for result in executor.results(lambda: queue.pop() if queue else None):
        found.append(result.task.chunk)
        if len(found) < 3:
            queue.append(Task(DEAD + len(found) - 1, (), ".", "parts/2"))

    executor.close()

    assert [2, 2, 3] == found


def test_a_gpu_for_each_task(cluster: Connect) -> None:
    """Where the cluster has GPUs tasks run there, unless the CPU is asked for; Ray itself repeats none."""
    fake, executor = cluster({"CPU": 64.0, "GPU": 4.0}, workers=2)
    wanted = {"num_cpus": 2, "num_gpus": 1, "max_retries": 0, "scheduling_strategy": "SPREAD"}

    assert ("cuda", 4, wanted) == (executor.device, executor.slots(), fake.needs)

    executor.close()
    fake, executor = cluster({"CPU": 64.0, "GPU": 4.0}, workers=2, device="cpu")
    executor.close()
    assert ("cpu", 32, 0) == (executor.device, executor.slots(), fake.needs["num_gpus"])


def test_a_cluster_without_gpus_has_no_lane_for_them(cluster: Connect) -> None:
    """It judges on CPUs, or says so where GPUs are asked for."""
    _, executor = cluster({"CPU": 1.0})
    executor.close()
    assert "cpu" == executor.device
    with pytest.raises(UsageError, match="this cluster shows no GPU"):
        cluster({"CPU": 1.0}, device="cuda")


def test_a_chunk_that_fits_no_machine_is_bad_usage(cluster: Connect) -> None:
    """It would wait for ever."""
    with pytest.raises(UsageError, match="-n 4: no machine of this cluster has 4 cores"):
        cluster({"CPU": 3.0}, workers=4)


def test_a_campaign_that_ends_early_ends_its_tasks(cluster: Connect) -> None:
    """Tasks that run are cancelled, and the cluster is left."""
    fake, executor = cluster({"CPU": 3.0})
    results: Iterator[Result] = executor.results(_tasks(9))
    ended = next(results).task.chunk
    results.close()  # type: ignore[attr-defined]  # a generator
    executor.close()

    assert (True, 2) == (fake.left, len(fake.cancelled))
    assert ended not in {task.chunk for task in fake.cancelled}


def test_a_cluster_that_does_not_answer_is_bad_usage(cluster: Connect) -> None:
    """The address stands in the message."""
    with pytest.raises(UsageError, match=r"--ray nowhere:1: no cluster answers there: nobody"):
        cluster({}, address="nowhere:1")


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is an extra of its own."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'normkernels\[ray\]'"):
        Cluster("auto", 1, None)


@pytest.mark.parametrize(("address", "given"), [("local", {"include_dashboard": False}), ("auto", {})])
def test_ray_is_quiet(cluster: Connect, address: str, given: dict[str, Any]) -> None:
    """It prints nothing of its own, and a cluster that a campaign starts has no dashboard."""
    fake, executor = cluster({"CPU": 1.0}, address=address)
    executor.close()

    assert {"address": address, "log_to_driver": False, "logging_level": "ERROR", **given} == fake.given


@pytest.mark.parametrize(
    ("resources", "expected"), [({"CPU": 9.0, "GPU": 2.0}, 2), ({"CPU": 9.0, "GPU": 8.0}, 4), ({}, 1)]
)
def test_what_is_scarce_limits_the_tasks(resources: Mapping[str, float], expected: int) -> None:
    """A task waits where the cluster has lost its machines."""
    assert expected == slots(resources, {"num_cpus": 2, "num_gpus": 1})
