"""Dependencies of a run's numbers: device, clocks, versions, commit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.report.header import header
from conformance.runs.data import to_data

PACKAGES = ("liger-kernel", "fla-core", "quack-kernels", "flashinfer-python", "nvidia-cutlass-dsl")
GRAPHS = "replayed CUDA graphs, by the device's events"
WALL = "the host's clock, for want of CUDA: no measurement of anything"


def environment(device: str) -> dict[str, Any]:
    """Return the header of a run: the header of the suite's reports, and more that timings need."""
    suite = to_data(header(Subject(load("normkernels"), device), profile="benchmarks", seed=0))
    versions = {name: _version(name) for name in PACKAGES}
    clock = GRAPHS if device != "cpu" else WALL
    return {**suite, "peers": versions, "clock": clock, "cuda": torch.version.cuda, "clocks": {}}


def machine(header: Mapping[str, Any]) -> str:
    """Return device, versions and commit of a run, in a line."""
    versions = f"torch {header['torch']}, triton {header['triton'] or 'not installed'}"
    return f"{header['device']}; {versions}, commit {header['commit'] or 'unknown'}"


def highest(seen: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Return the higher of two readings of each clock."""
    return {name: max(seen.get(name, 0), now.get(name, 0)) for name in (*seen, *(n for n in now if n not in seen))}


def clocks() -> dict[str, int]:
    """Return the current clocks of the first GPU, in MHz; nothing if they cannot be read."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    asked = [tool, "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits", "--id=0"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603
        return dict(zip(("SM MHz", "memory MHz"), map(int, said.split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
