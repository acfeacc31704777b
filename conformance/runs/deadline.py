"""The end of a run of so many minutes: a chunk that was begun before it is judged whole, any other not at all."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

JUDGED, LEFT = "judged", "left"


@dataclass(frozen=True, slots=True)
class Deadline:
    """The last moment at which a chunk may begin, for all workers that share a folder.

    ``until`` is in seconds since the epoch.
    """

    folder: Path
    until: float

    def begins(self, chunk: int) -> bool:
        """Return whether a chunk is judged: the first worker that asks decides, and all others follow it."""
        # the mark and what it says appear as one
        with suppress(FileExistsError):
            self._mark(chunk).symlink_to(JUDGED if time.time() < self.until else LEFT)
        return self.begun(chunk)

    def begun(self, chunk: int) -> bool:
        """Return whether a worker has begun a chunk."""
        mark = self._mark(chunk)
        return mark.is_symlink() and mark.readlink() == Path(JUDGED)

    def _mark(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk}"
