"""The time that a process had for its work: on a busy machine it waits for a processor, which is no hang."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
STARVED = 20.0  # a process that gets less than this part of a processor is given up
RUNNABLE = "R"


@dataclass(slots=True)
class Patience:
    """A clock of one process: of a time in which it wanted to run, only the time in which it ran counts.

    All other time counts whole: a process that waits for a lock or for a GPU has its time. ``limit`` is in
    seconds.
    """

    pid: int | None
    limit: float
    _spent: float = field(default=0.0, init=False)
    _seen: tuple[float, float] = field(init=False)  # seconds on the wall, and of the process on a processor
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._seen = self._begun, progress(self.pid)[1]

    def left(self) -> float:
        """Return the seconds that are left, 0 at the end."""
        now, (state, used) = time.monotonic(), progress(self.pid)
        passed, ran = now - self._seen[0], used - self._seen[1]
        self._seen = now, used
        self._spent += min(passed, ran + TICK) if state == RUNNABLE else passed
        if now - self._begun > STARVED * self.limit:
            return 0.0
        return max(0.0, self.limit - self._spent)


def progress(pid: int | None) -> tuple[str, float]:
    """Return the state of a process, and its seconds on a processor; neither where the system does not tell."""
    try:
        # behind the name, which may contain anything
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return text[0], TICK * (int(text[11]) + int(text[12]))
