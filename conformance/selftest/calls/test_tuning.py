"""A configuration of a tuned kernel is drawn from the run's seed: one that the GPU can run, in every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.selftest.processes import ran

# a kernel that says what it was run with: nothing is compiled, and no GPU is asked
SCRIPT = """\
import json
import sys
import triton
from triton.runtime.autotuner import Autotuner, OutOfResources
from conformance.calls import tuning


class Kernel:
    def __init__(self, much):
        self.much, self.ran = much, []

    @staticmethod
    def fn(x, n, BLOCK):
        pass

    def run(self, x, n, BLOCK, **options):
        if BLOCK >= self.much:
            raise OutOfResources(BLOCK, self.much, "shared memory")
        self.ran.append(BLOCK)


def tuned(much=2**30, blocks=range(1, 31), **options):
    kernel = Kernel(much)
    configs = [triton.Config({"BLOCK": block}) for block in blocks]
    return kernel, Autotuner(kernel, ["x", "n", "BLOCK"], configs, ["n"], None, None, **options)


tuning.draw(int(sys.argv[1]))
said = {}
kernel, tuner = tuned()
said["widths"] = []
for n in range(200):
    tuner.run(None, n, grid=None, warmup=False)
    said["widths"].append(tuner.best_config.kwargs["BLOCK"])
said["runs"] = len(kernel.ran)
tuner.run(None, 7, grid=None, warmup=False)
said["again"] = kernel.ran[-1] == said["widths"][7]

kernel, tuner = tuned(much=4)
for n in range(200):
    tuner.run(None, n, grid=None, warmup=False)
said["fitting"] = sorted(set(kernel.ran))

_, tuner = tuned(blocks=[7])
tuner.run(None, 1, grid=None, warmup=False)
said["single"] = tuner.best_config.kwargs["BLOCK"]

_, tuner = tuned(prune_configs_by={"early_config_prune": lambda configs, named, **_: configs[3:5]})
said["pruned"] = []
for n in range(20):
    tuner.run(None, n, grid=None, warmup=False)
    said["pruned"].append(tuner.best_config.kwargs["BLOCK"])

kernel, tuner = tuned(cache_results=True)
tuner.run(None, 1, grid=None, warmup=False)
said["kept"] = tuner.best_config.kwargs["BLOCK"] == said["widths"][1]
benched = []
# where one configuration is left, Triton 3.9 does not ask
said["disk"] = [tuner.check_disk_cache(("key",), tuner.configs, lambda: benched.append(1)), benched]

kernel, tuner = tuned()
tuner.nargs = {"x": None, "n": 1}
said["ahead"] = [len(tuner.prune_configs({"grid": None})), len(kernel.ran)]

kernel, tuner = tuned(much=0)
try:
    tuner.run(None, 1, grid=None, warmup=False)
except OutOfResources as error:
    said["none"] = type(error).__name__
print(json.dumps(said))
"""


def _drawn(folder: Path, seed: int) -> dict[str, Any]:
    """Return what a process draws, with Triton's own autotuner: other tests replace parts of it in this one."""
    (folder / "tuned.py").write_text(SCRIPT, encoding="utf-8")
    done = ran(folder, "tuned.py", str(seed))
    assert 0 == done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process draws with the seed 5."""
    pytest.importorskip("triton")
    return _drawn(tmp_path_factory.mktemp("tuned"), 5)


def test_every_configuration_is_drawn_for_some_key(said: dict[str, Any]) -> None:
    """Among 200 widths all 30 configurations occur, the first of them no more often than others."""
    assert set(range(1, 31)) == set(said["widths"])
    assert all(said["widths"].count(block) < 20 for block in range(1, 31))


def test_the_seed_decides(said: dict[str, Any], tmp_path: Path) -> None:
    """Another process draws the same with the same seed, and with another one mostly others."""
    assert said == _drawn(tmp_path, 5)
    others = _drawn(tmp_path, 6)["widths"]
    assert 20 > sum(one == other for one, other in zip(said["widths"], others, strict=True))


def test_what_is_not_drawn_does_not_run(said: dict[str, Any]) -> None:
    """A width runs its own configuration alone, a few times instead of hundreds."""
    assert 200 <= said["runs"] <= 600


def test_a_key_keeps_its_configuration(said: dict[str, Any]) -> None:
    """A later call runs what the first one drew, and so does a tuner with a file of results, which is not read."""
    assert said["again"]
    assert said["kept"]
    assert [False, [1]] == said["disk"]


def test_the_gpu_can_run_what_is_drawn(said: dict[str, Any]) -> None:
    """Configurations that need too much are passed over; where all do, the call fails as it would."""
    assert [1, 2, 3] == said["fitting"]
    assert "OutOfResources" == said["none"]


def test_pruning_comes_first(said: dict[str, Any]) -> None:
    """The author's pruning says which may run at all; one that is left runs, whatever its draw."""
    assert {4, 5} == set(said["pruned"])
    assert 7 == said["single"]


def test_nothing_runs_where_kernels_are_compiled_ahead(said: dict[str, Any]) -> None:
    """All configurations are left to who compiles without running."""
    assert [30, 0] == said["ahead"]
