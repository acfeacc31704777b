"""Runs of several adapters on several lanes: a command and a process for each, one after another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from conformance.adapter import find
from conformance.runs.host import version


@dataclass(frozen=True, slots=True)
class Lane:
    """A run of one adapter on one device, into a folder of its own."""

    adapter: str
    device: str
    folder: Path
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """Return the command that judges it."""
        # a file of options in this folder is about another implementation
        run = [sys.executable, "-m", "conformance", "--isolated", "run", self.adapter, "--device", self.device]
        return [*run, *self.options, "--report", str(self.folder)]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run: its exit status, and its last line."""

    lane: Lane
    status: int
    said: str


def planned(
    adapters: Sequence[str],
    devices: Sequence[str],
    options: Sequence[str],
    folder: Path,
    waivers: Mapping[str, Path],
) -> tuple[Lane, ...]:
    """Return a lane for each adapter and device; ``waivers`` are files by adapter."""
    return tuple(
        Lane(
            adapter,
            device,
            folder / f"{adapter}_{device}",
            (*options, *(("--waivers", str(waivers[adapter])) if adapter in waivers else ())),
        )
        for adapter, device in product(adapters, devices)
    )


def missing(adapters: Sequence[str]) -> dict[str, str]:
    """Return the adapters whose package is not installed, with what to install."""
    packages = {name: find(name).package for name in adapters}
    return {
        name: f"{package} is not installed, pip install {package}"
        for name, package in packages.items()
        if package and version(package) is None
    }


def ran(lanes: Sequence[Lane]) -> Iterator[Ended]:
    """Judge one lane after another, in a process each, and yield their ends."""
    for lane in lanes:
        done = subprocess.run(lane.command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
        yield Ended(lane, done.returncode, lines[-1] if lines else "")
