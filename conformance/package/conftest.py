"""Fixtures of the package's own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from conformance.package.calls.tensors import DEVICE
from normkernels import launch, plans
from normkernels.call import interpreting
from normkernels.operations.operation import ENVIRONMENT, reread_environment


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without cached decisions, and leave none."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    reread_environment()
    yield
    reread_environment()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[plans.Plan]:
    """Return a list to which the plan of every launch is appended."""
    seen: list[plans.Plan] = []

    def note(cached: launch.Launch, *given: object) -> None:
        start(cached, *given)  # type: ignore[arg-type]  # passed on unchanged
        seen.append(cached.plan)

    start = launch.launch
    monkeypatch.setattr(launch, "launch", note)
    return seen


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> None:
    """Make the interpreter round as a GPU does, if the interpreter runs the kernels."""
    if DEVICE == "cpu" and interpreting():
        from conformance import interpreter

        interpreter.install()


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """Return a device mesh of this process alone."""
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not listed
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()
