"""Fixtures of the package's own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from conformance.package.gated_calls import DEVICE
from normkernels import plans, routes
from normkernels.call import interpreting
from normkernels.launch import Launched, Ready, launch


@pytest.fixture(autouse=True)
def fresh_routes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without cached routes, on the plan table that the machine can reach, and leave nothing."""
    if interpreting():
        monkeypatch.setattr(plans, "TABLE", plans.INTERPRETED)
    monkeypatch.delenv(routes.ENVIRONMENT, raising=False)
    routes.reread_environment()
    yield
    routes.reread_environment()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[plans.Plan]:
    """Return a list that receives the plan of every launch."""
    seen: list[plans.Plan] = []

    def note(*args: object) -> Launched:
        seen.extend(arg for arg in args if isinstance(arg, plans.Plan))
        return launch(*args)  # type: ignore[arg-type]  # passed on as they came

    def note_again(ready: Ready, *args: object) -> bool:
        started = start(ready, *args)  # type: ignore[arg-type]  # passed on as they came
        seen.extend([ready.plan] if started else [])
        return started

    start = Ready.start
    monkeypatch.setattr(Ready, "start", note_again)
    for operation in ("rms_norm", "rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8", "mrope"):
        monkeypatch.setattr(f"normkernels.kernels.{operation}.launch", note)
    return seen


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> None:
    """Make the interpreter round as a GPU does, where it is what runs the kernels."""
    if DEVICE == "cpu" and interpreting():
        from conformance import interpreter

        interpreter.install()


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """Return a mesh of one process, this one."""
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not listed
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()
