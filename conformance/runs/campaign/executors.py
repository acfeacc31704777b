"""Machines that judge the chunks of a campaign: this one, or those of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from conformance.adapter import UsageError
from conformance.runs.campaign.task import Result, Task, judge

Take = Callable[[], Task | None]  # the next task; None where there is none now


class Executor(Protocol):
    """A place where tasks run. ``device``: the lane that all of them run on."""

    device: str

    def slots(self) -> int:
        """Return how many tasks run at a time."""

    def results(self, take: Take) -> Iterator[Result]:
        """Yield the result of every task that is taken, as they end; a result may make further tasks."""

    def close(self) -> None:
        """End what still runs."""


class Here:
    """This machine, one chunk at a time."""

    def __init__(self, device: str) -> None:
        self.device = device

    def slots(self) -> int:
        """Return how many tasks run at a time."""
        return 1

    def results(self, take: Take) -> Iterator[Result]:
        """Yield the result of every task that is taken."""
        while (task := take()) is not None:
            yield judge(task)

    def close(self) -> None:
        """Do nothing: a task that was interrupted has ended with its process."""


class Cluster:
    """A Ray cluster: each task has ``workers`` cores, and a GPU where there are any.

    Until it is closed, nothing can be printed to stdout.
    """

    def __init__(self, address: str, workers: int, device: str | None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UsageError("--ray: Ray is not installed here, run: pip install 'normkernels[ray]'") from error
        self._ray: Any = ray
        self._quiet = ExitStack()
        # whatever it is told, Ray prints the end of a lost machine's log there, at the latest when it is left
        nowhere = self._quiet.enter_context(Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it is one
        self._quiet.enter_context(redirect_stdout(nowhere))
        # a cluster of one's own, which ends with the campaign, needs no page
        own = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, ValueError) as error:
            self.close()
            raise UsageError(f"--ray {address}: no cluster answers there: {error}") from error
        gpus = ray.cluster_resources().get("GPU", 0)
        if device == "cuda" and not gpus:
            self.close()
            raise UsageError("--device cuda: this cluster shows no GPU; leave --device out to judge on CPUs")
        self.device = device or ("cuda" if gpus else "cpu")
        self._needs = {"num_cpus": workers, "num_gpus": int(self.device == "cuda")}
        if not any(_fits(each["Resources"], self._needs) for each in ray.nodes() if each["Alive"]):
            self.close()
            raise UsageError(
                f"-n {workers}: no machine of this cluster has {workers} cores for a chunk, give fewer"
            )
        # a chunk that was lost is handed out again by the campaign, which counts how often
        options = {**self._needs, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._judge = ray.remote(judge).options(**options)

    def slots(self) -> int:
        """Return how many tasks run at a time, on the machines that the cluster has now."""
        return slots(self._ray.cluster_resources(), self._needs)

    def results(self, take: Take) -> Iterator[Result]:
        """Yield the result of every task that is taken, as they end; one whose machine is lost has no report."""
        running: dict[Any, Task] = {}
        try:
            yield from self._ended(take, running)
        finally:
            for each in running:
                self._ray.cancel(each, force=True)

    def _ended(self, take: Take, running: dict[Any, Task]) -> Iterator[Result]:
        while True:
            while len(running) < self.slots() and (task := take()) is not None:
                running[self._judge.remote(task)] = task
            if not running:
                return
            (ended,), _ = self._ray.wait(list(running), num_returns=1)
            yield self._result(ended, running.pop(ended))

    def _result(self, ended: Any, task: Task) -> Result:  # noqa: ANN401 - Ray is optional, and has the type
        try:
            result: Result = self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            said = str(error).partition("\n")[0].partition(". ")[0]
            return Result(task, None, f"{type(error).__name__}: {said}")
        return result

    def close(self) -> None:
        """Leave the cluster, which ends what still runs for this campaign."""
        self._ray.shutdown()
        self._quiet.close()


def slots(resources: Mapping[str, float], needs: Mapping[str, int]) -> int:
    """Return how many tasks with the same needs run at a time; one waits where all machines are lost."""
    return max(1, _fits(resources, needs))


def _fits(resources: Mapping[str, float], needs: Mapping[str, int]) -> int:
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return min(int(resources.get(names[need], 0) // count) for need, count in needs.items() if count)
