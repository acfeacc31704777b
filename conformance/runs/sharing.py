"""One GPU for several workers: NVIDIA's Multi-Process Service (MPS), where its control program is installed.

Without MPS processes take turns on a GPU, and changing turns takes longer than the kernels of a small case. Under
MPS their kernels run side by side. The price: a fault of one process ends the calls of all, and a kernel that
never ends may keep the others waiting. Therefore a worker with such an outcome leaves MPS and judges the case
again, in turns with the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
DEFAULT = os.path.join(os.sep, "tmp", "nvidia-mps")  # noqa: PTH118 - where NVIDIA's programs look, on any machine
NOWHERE = os.devnull
_QUIET: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PATIENCE = 5.0  # seconds that the service may take to start or to end


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """The service of a run, for the processes that start while it runs: they find it by the environment."""

    program: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the service; its processes have ended."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            with subprocess.Popen([self.program], stdin=subprocess.PIPE, **_QUIET) as told:  # noqa: S603 - NVIDIA's
                told.communicate(b"quit\n", PATIENCE)
            self.process.wait(PATIENCE)
        self.process.kill()
        self.process.wait()
        for name in (PIPES, LOGS):
            os.environ.pop(name, None)
        shutil.rmtree(self.folder, ignore_errors=True)


def start() -> Service | None:
    """Start the service; None where it is not installed, does not start, runs already, or is named already.

    ``CUDA_MPS_PIPE_DIRECTORY=/dev/null`` therefore keeps a run from using it.
    """
    program = shutil.which(CONTROL)
    if PIPES in os.environ or shared() or program is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="conform-mps-"))
    os.environ[PIPES] = os.environ[LOGS] = str(folder)
    # for all GPUs: workers name theirs by CUDA_VISIBLE_DEVICES, whose numbers count among those of the service
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    process = subprocess.Popen([program, "-f"], env=seen, **_QUIET)  # noqa: S603 - NVIDIA's
    service = Service(program, folder, process)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if shared():
            return service
        time.sleep(0.01)
    service.stop()
    return None


def shared() -> bool:
    """Return whether processes that start now share their GPU by the service."""
    return Path(os.environ.get(PIPES, DEFAULT), "control").exists()


def leave() -> None:
    """Have the processes that start from now on do without the service."""
    os.environ[PIPES] = NOWHERE
