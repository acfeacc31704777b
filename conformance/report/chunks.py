"""Reports of chunks in the folder of a campaign: each is there whole or not at all, and once."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.adapter import UsageError
from conformance.report.document import NoReport, Report, read
from conformance.report.merging import mismatches
from conformance.runs.campaign.task import Result

CHUNKS, PARTS = "chunks", "parts"  # folders of chunks that are whole, and of those that are being judged
SETTINGS, TASK = "campaign.json", "task.json"
FILES = "files"  # the entry of the settings with a sum for each file that decides verdicts


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that was judged: its report, the machine, and the seconds that it took there with its start."""

    number: int
    report: Report
    node: str
    seconds: float


def begin(directory: Path, settings: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Begin a campaign in a folder, or go on with one of the same settings and files.

    Raises ``UsageError`` where the folder has another campaign, or reports of another command.
    """
    kept = directory / SETTINGS
    sums = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    # as JSON has them
    asked = json.loads(json.dumps({**settings, FILES: sums}))
    if kept.exists():
        begun = json.loads(kept.read_text(encoding="utf-8"))
        for name, was in begun.items():
            if name != FILES and (now := asked.get(name)) != was:
                raise UsageError(f"{directory}: was begun with {name} {was}, not {now}; give another --report")
        for path, content in begun[FILES].items():
            if asked[FILES].get(path) != content:
                raise UsageError(
                    f"{directory}: {path} is not as it was when the campaign began; give another --report"
                )
        return
    if (directory / "report.json").exists():
        raise UsageError(f"--report {directory}: has the report of another command, give another folder")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(kept, json.dumps(asked, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"--report {directory}: cannot be written: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def place_of(directory: Path, number: int) -> Path:
    """Return a new folder for the report of a chunk, as deep as the one in which the report will be kept."""
    return directory / PARTS / f"{number}-{uuid.uuid4().hex[:12]}"


def tidy(directory: Path, places: Iterable[Path]) -> None:
    """Remove the folders of tasks that have ended, and that one of them may have left."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        # another command may judge more chunks for this folder
        (directory / PARTS).rmdir()


def done(directory: Path) -> set[int]:
    """Return the numbers of the chunks that were judged."""
    return {int(path.name) for path in (directory / CHUNKS).glob("*") if path.name.isdecimal()}


def chunk(directory: Path, number: int) -> Chunk:
    """Return a chunk that was judged. Raises ``UsageError`` where its files are damaged."""
    folder = directory / CHUNKS / str(number)
    try:
        task = json.loads((folder / TASK).read_text(encoding="utf-8"))
        return Chunk(number, read(folder / "report.json"), str(task["node"]), float(task["seconds"]))
    except (NoReport, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: is no chunk of a campaign, remove it to judge it again: {error}") from error


def chunks(directory: Path) -> Iterator[Chunk]:
    """Yield the chunks that were judged, in order. Raises ``UsageError`` where one does not fit the first."""
    first: Chunk | None = None
    for number in sorted(done(directory)):
        found = chunk(directory, number)
        first = first or found
        check(first, found)
        yield found


def check(first: Chunk, other: Chunk) -> None:
    """Raise ``UsageError`` where two chunks cannot be parts of one campaign."""
    wrong = mismatches(first.report, other.report)
    if wrong:
        said = "; ".join(f"{each.what} {each.second}, not {each.first}" for each in wrong[:3])
        raise UsageError(
            f"chunk {other.number}, judged on {other.node}, does not fit chunk {first.number}: {said}; "
            "all machines need the same versions, and a change of the implementation needs another --report"
        )


def accept(directory: Path, result: Result, first: Chunk | None) -> Chunk | None:
    """Keep the report of a chunk, and return it; None where it has none, or was not judged to its end.

    Raises ``UsageError`` where it does not fit the ``first``. Another report of the same chunk is left out.
    """
    number, part = result.task.chunk, place_of(directory, result.task.chunk)
    kept = directory / CHUNKS / str(number)
    if not result.files:
        # where the machine that was lost shares this folder
        shutil.rmtree(Path(result.task.folder, result.task.place), ignore_errors=True)
        return None
    old, new = (f"{folder.parent.name}/{folder.name}" for folder in (Path(result.task.place), kept))
    try:
        for name, content in result.files.items():
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # a report names the scripts in its folder
            target.write_bytes(content.replace(old.encode(), new.encode()) if name == "report.json" else content)
        (part / TASK).write_text(json.dumps({"node": result.node, "seconds": result.seconds}), encoding="utf-8")
        found = Chunk(number, read(part / "report.json"), result.node, result.seconds)
        if not found.report.footer.complete:
            return None
        check(first or found, found)
        if kept.exists():
            return chunk(directory, number)
        kept.parent.mkdir(exist_ok=True)
        part.rename(kept)
    except NoReport as error:
        raise UsageError(f"chunk {number}, judged on {result.node}: {error}; it needs the same suite") from error
    else:
        return found
    finally:
        shutil.rmtree(part, ignore_errors=True)
