"""The lines of the package that each case runs, recorded once for a state of the sources and kept in files.

A case that does not run the statement of a mutant has the same result for it as for the package: only the others
are judged. What the package keeps between calls is dropped before each case, so that a case runs all that its
results follow from. Triton's interpreter keeps the lines of kernels; on a GPU they leave no trace.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from conformance.adapter import load
from conformance.calls import state_guard
from conformance.calls.call import Subject
from conformance.calls.child import single_threaded
from conformance.calls.verdict import BAD
from conformance.cases.case import Case
from conformance.prove.codes import source
from conformance.prove.copies import PACKAGE, ROOT
from conformance.prove.mutants import lines_that_run
from conformance.report.header import origin
from conformance.runs.item import items
from conformance.runs.judge import Answer, judge, judge_item, surveyed, tried

FOLDER = ROOT / "build" / "prove"
# Parts of the suite that decide no verdict on a case; a change of one leaves the record as it is.
ASIDE = frozenset({"selftest", "package", "report", "cli", "prove"})

MODULE = "<module>"  # Python's name of the code that is run to import a file

Lines = Mapping[str, frozenset[int]]  # by file of the package


@dataclass(frozen=True, slots=True)
class Step:
    """A case of a property: what it costs with the package as it is, and the lines that it runs."""

    adapter: str
    cell: str
    case: Case
    name: str  # the id of the case
    seconds: float
    lines: Lines

    @property
    def prop(self) -> str:
        """Return the property that the case is judged by."""
        return self.cell.split("/")[1]

    @property
    def where(self) -> str:
        """Return the place of the case, as rows have it."""
        return f"{self.adapter}:{self.cell} {self.name}"


@dataclass(frozen=True, slots=True)
class Reach:
    """The steps of a profile, and the lines that run as the package is imported, which may decide every result."""

    steps: tuple[Step, ...]
    imported: Lines


def recorded(
    pairs: Sequence[tuple[str, str]], profile: str, unfaithful: str, workers: int, folder: Path = FOLDER
) -> Reach:
    """Return the reach of adapters and operations in a profile: from files, and recorded where there is none."""
    files = {pair: _file(*pair, profile, folder) for pair in pairs}
    missing = [(*pair, profile, unfaithful, file) for pair, file in files.items() if not file.exists()]
    if missing:
        _file("", "", "", folder).parent.mkdir(parents=True, exist_ok=True)
        # forked before the package is imported, which mutants have to find unimported
        forks = multiprocessing.get_context("fork")
        # which renews torch's pool of threads: of several that compute at once another may find none
        with forks.Pool(min(workers, len(missing)), initializer=single_threaded) as pool:
            pool.starmap(_record, missing, chunksize=1)
    parts = [_read(file) for file in files.values()]
    names = {name for part in parts for name in part.imported}
    imported = {name: frozenset[int]().union(*(part.imported.get(name, ()) for part in parts)) for name in names}
    return Reach(tuple(step for part in parts for step in part.steps), imported)


def on_file(pairs: Iterable[tuple[str, str]], profile: str, folder: Path = FOLDER) -> bool:
    """Return whether all of this is recorded already."""
    return all(_file(*pair, profile, folder).exists() for pair in pairs)


def _file(adapter: str, operation: str, profile: str, folder: Path) -> Path:
    """Return the file of a record, whose folder follows from the sources and from what runs them."""
    machine = {name: value for name, value in origin().items() if name != "commit"}
    digest = hashlib.sha256(json.dumps([state(), machine], sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"reach-{digest}" / f"{adapter}-{operation}-{profile}.jsonl"


@cache
def state() -> str:
    """Return a digest of the sources that decide what becomes of a mutant: the package, and the suite."""
    digest = hashlib.sha256()
    suite = ROOT / "conformance"
    files = [file for file in suite.rglob("*.py") if file.relative_to(suite).parts[0] not in ASIDE]
    for file in sorted([*files, *(ROOT / PACKAGE).rglob("*.py"), Path(__file__)]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def _record(adapter: str, operation: str, profile: str, unfaithful: str, file: Path) -> None:
    """Judge the package as it is, in a process of its own, and write what each case runs."""
    before, tracer = state_guard.captured(), Tracer(ROOT)
    with tracer:
        subject = Subject(load(adapter), "cpu", unfaithful)
    state_guard.settle(before)
    numbers: dict[str, int] = {}
    temporary = file.with_suffix(".part")
    with temporary.open("w", encoding="utf-8") as out:
        for cell, case, seconds, lines in _steps(subject, operation, profile, tracer):
            for name, where in lines.items():
                assert where <= _running(name), f"{name}: lines {sorted(where - _running(name))} ran, and are none"
            ran = json.dumps({name: sorted(where) for name, where in sorted(lines.items())})
            told = {"cell": cell, "case": case.to_data(), "seconds": round(seconds, 4)}
            # many cases run the same lines: written once, and named by a number
            if ran in numbers:
                told["same"] = numbers[ran]
            else:
                numbers[ran] = len(numbers)
                told["lines"] = json.loads(ran)
            out.write(f"{json.dumps(told)}\n")
        # the last line: modules are imported when they are first needed
        imported = {name: sorted(where) for name, where in tracer.imported.items()}
        out.write(f"{json.dumps({'imported': imported})}\n")
    temporary.rename(file)


@cache
def _running(file: str) -> frozenset[int]:
    """Return the lines of a file that can run: what rewrites a kernel must leave its lines where they are."""
    return lines_that_run(source(file))


def _steps(
    subject: Subject, operation: str, profile: str, tracer: Tracer
) -> Iterator[tuple[str, Case, float, dict[str, set[int]]]]:
    """Yield every case of an operation with its cell, its seconds and the lines that it runs."""
    made: list[tuple[Case, float, dict[str, set[int]]]] = []

    def ask(prop: str, case: Case) -> Answer:
        _forget()
        began = time.perf_counter()
        with tracer:
            answer = judge(subject, prop, case)
        made.append((case, time.perf_counter() - began, tracer.lines))
        return answer

    listed = items(subject, profile, operations=(operation,))
    # the calls of a survey import modules as well
    with tracer:
        found = surveyed(operation, subject, partial(tried, subject), profile=profile, seed=listed[0].seed)
    for item in listed:
        for verdict in judge_item(item, subject, ask, found=found):
            assert verdict.status not in BAD, f"the package as it is: {verdict}"
        yield from ((item.cell(), *each) for each in made)
        made.clear()


class Tracer:
    """Recorder of the lines of the package that run inside of a ``with``, in every thread.

    ``lines`` are those of the last ``with``; ``imported`` has those of all that run while a module is imported.
    """

    def __init__(self, root: Path) -> None:
        self._package = f"{root / PACKAGE}/"
        self._start = len(str(root)) + 1
        self._known: dict[str, str] = {}
        self._importing = 0
        self.lines: dict[str, set[int]] = {}
        self.imported: dict[str, set[int]] = {}

    def __enter__(self) -> None:
        """Begin with no lines."""
        self.lines = {}
        threading.settrace(self._called)
        sys.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        """Stop."""
        sys.settrace(None)
        threading.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        """Return the tracer of a frame of the package, nothing for other frames."""
        name = frame.f_code.co_filename
        file = self._known.get(name)
        if file is None:
            file = self._known[name] = name[self._start :] if name.startswith(self._package) else ""
        if file and frame.f_code.co_name == MODULE:
            self._importing += 1
        return self._ran if file else None

    def _ran(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            held = self.imported if self._importing else self.lines
            held.setdefault(self._known[frame.f_code.co_filename], set()).add(frame.f_lineno)
        elif event == "return" and frame.f_code.co_name == MODULE:
            self._importing -= 1
        return self._ran


def _forget() -> None:
    """Drop what the package keeps between calls."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE:
            for held in list(vars(module).values()):
                if callable(clear := getattr(held, "cache_clear", None)):
                    clear()
            getattr(module, "_cache", {}).clear()


def _read(file: Path) -> Reach:
    adapter = file.name.partition("-")[0]
    known: list[Lines] = []
    steps = []
    *every, last = map(json.loads, file.read_text("utf-8").splitlines())
    for told in every:
        if "lines" in told:
            known.append({name: frozenset(where) for name, where in told["lines"].items()})
        case = Case.from_data(told["case"])
        steps.append(Step(adapter, told["cell"], case, case.id, told["seconds"], known[told.get("same", -1)]))
    return Reach(tuple(steps), {name: frozenset(where) for name, where in last["imported"].items()})
