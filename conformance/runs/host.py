"""The process that has the implementation: it imports the adapter, and tells other processes about it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from conformance.adapter import Adapter, UsageError, load
from conformance.calls import state_guard, tuning
from conformance.calls.budget import ALONE, Allowance, memory_of_gpus
from conformance.calls.call import Subject
from conformance.calls.child import START, Child, Prepared, Unprepared
from conformance.calls.compilations import NOTHING, Compiled, listen
from conformance.calls.declared import Declared, check
from conformance.calls.location import in_a_line
from conformance.calls.watch import warm_up
from conformance.cases.case import Case
from conformance.properties.discovery import Evidence
from conformance.runs import reproducer, sharing
from conformance.runs.behind import Place
from conformance.runs.item import Failure
from conformance.runs.worker import Worker, may_be_anothers, starved

LOG = "output.log"  # printed output of an implementation, in the folder of the report


def choose_device(wanted: str | None = None) -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``, where Triton then interprets.

    Call before Triton is imported. The function looks for the driver's device files: asking torch would start
    CUDA, which a forked child could not use.
    """
    device = wanted or ("cuda" if gpus() else "cpu")
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    return device


def faithful_interpreter() -> str:
    """Teach Triton's interpreter to round as hardware does; return why that failed, or nothing."""
    if not _interpret("cpu"):
        return ""
    from conformance import interpreter

    return interpreter.unfaithful() or ""


def _interpret(device: str) -> bool:
    """Make Triton's interpreter run kernels where they run on a CPU, and return whether it does."""
    if device != "cpu" or importlib.util.find_spec("triton") is None:
        return False
    # imports Triton, which must come after choose_device
    from conformance import interpreter

    interpreter.install()
    return True


def gpus() -> list[str]:
    """Return the GPUs that this process sees, under the driver's names."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in {"", "-1"}]
    nvidia = sorted(path.name[len("nvidia") :] for path in Path("/dev").glob("nvidia[0-9]*"))
    return nvidia or [str(number) for number, _ in enumerate(Path("/dev").glob("kfd"))]


def preload(device: str) -> None:
    """Import and prove what every process needs that judges on a device: those forked later have it.

    Call after :func:`choose_device`. What fails is tried again, and reported, where an adapter is imported.
    """
    with contextlib.suppress(Exception):
        importlib.import_module("triton")
        if device == "cpu":
            faithful_interpreter()
    warm_up()


@dataclass(frozen=True, slots=True)
class Judge:
    """Question: judge a property of one case. Answer: verdicts."""

    prop: str
    case: Case


@dataclass(frozen=True, slots=True)
class Smoke:
    """Question: make a call only to see whether it crashes. Answer: None where it does not."""

    case: Case


@dataclass(frozen=True, slots=True)
class Try:
    """Question: make a call only to see whether it is taken. Answer: ``Tried``."""

    case: Case


@dataclass(frozen=True, slots=True)
class Follow:
    """Question: find the contract that explains some failures. Answer: words."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Tune:
    """Question: by which configurations tuned kernels run a case. Answer: a dict of words, by kernel."""

    case: Case


@dataclass(frozen=True, slots=True)
class Reproduce:
    """Question: write the scripts that reproduce a failure, with tuned kernels. Answer: the path of the first."""

    failure: Failure
    tuned: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """Question: which numbers are behind a wrong element. Answer: ``Behind``, or None."""

    case: Case
    place: Place


# Questions to the process that has the adapter. The answer depends on the question, or says how a call ended.
Question = Judge | Smoke | Try | Follow | Tune | Reproduce | Look


@dataclass(frozen=True, slots=True)
class Granted:
    """A question, where its answer may write, and how much of the GPU its calls may hold."""

    question: Question
    directory: Path | None
    allowance: Allowance


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and what was compiled for it."""

    answer: Any
    compiled: Compiled


@dataclass(frozen=True, slots=True)
class Greeting:
    """Facts about an implementation that other processes need.

    ``numerics`` are the switches that can change its bits, ``changed`` the global state that importing it changed,
    ``gpu_memory`` the bytes of all GPUs that judge.
    """

    declared: Declared
    unfaithful: str
    numerics: Mapping[str, Any]
    changed: tuple[str, ...] = ()
    gpu_memory: int = 0


@dataclass(slots=True, eq=False)
class Host:
    """An adapter in a process of its own.

    ``operations`` are those that will be judged, all where none is named. ``limit`` is in seconds per call,
    ``start`` in seconds for importing; ``memory`` is what calls may hold of the machine, ``allowance`` of the GPU.
    Configurations of tuned kernels are drawn from ``seed``, that of the run.
    Reproducers and printed output go into ``directory``, once that is set. ``compiled`` adds up what was compiled
    for answers; what a process compiled that then crashed or hung is lost with it.
    """

    target: str
    device: str
    limit: float
    operations: tuple[str, ...] = ()
    start: float = START
    seed: int = 0
    memory: int | None = None
    allowance: Allowance = ALONE
    directory: Path | None = None
    greeting: Greeting = field(init=False)
    compiled: Compiled = field(default=NOTHING, init=False)
    _child: Child[Greeting, Granted, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Import the adapter. Raises ``UsageError`` with one line where the import fails."""
        self._child = Child(self._prepared, self.limit, self.memory, self.start)
        try:
            self.greeting = self._child.greeting()
        except Unprepared as error:
            said = self._child.printed()
            more = f"; the last line that it printed: {said}" if said else ""
            raise UsageError(f"{self.target}: {_not_imported(str(error), self.start)}{more}") from error

    @property
    def subject(self) -> Subject:
        """Return what is judged, as known to a process that has not imported the adapter."""
        return Subject(None, self.device, self.greeting.unfaithful, known=self.greeting.declared)

    def judge_for(self, directory: Path, limit: float, memory: int | None, allowance: Allowance) -> None:
        """Set the limits of a run's calls, and where the run writes, before the first question."""
        self.directory, self.limit, self.memory, self.allowance = directory, limit, memory, allowance
        self._child.limit, self._child.memory, self._child.log = limit, memory, directory / LOG

    def ask(self, question: Question, more: float = 0.0) -> Any:  # noqa: ANN401 - depends on the question
        """Return the answer of the process to a question, or the crash or hang of its call.

        The answer may take ``more`` seconds than the limit.
        """
        granted = Granted(question, self.directory, self.allowance)
        answer = self._told(granted, more)
        if self.device != "cpu" and sharing.shared() and may_be_anothers(answer):
            sharing.leave()
            self._child.close()
            answer = self._told(granted, more)
        if starved(answer):
            # a new process holds nothing yet, neither kernels nor memory kept for later
            self._child.close()
            answer = self._told(granted, more)
        return answer

    def _told(self, granted: Granted, more: float) -> Any:  # noqa: ANN401 - as above
        told = self._child.ask(granted, self.limit + more)
        if not isinstance(told, Told):
            return told
        self.compiled += told.compiled
        return told.answer

    def close(self) -> None:
        """End the process; the greeting stays."""
        self._child.close()

    def _prepared(self) -> Prepared[Greeting, Granted, Any]:
        """Import the adapter in the process that runs this method."""
        # every worker would start a process a core for Inductor, none of which has its share of the cores
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        choose_device(self.device)
        _interpret(self.device)
        warm_up()
        triton = version("triton")
        taken = listen().taken if triton and self.device != "cpu" else lambda: NOTHING
        if triton:
            tuning.draw(self.seed)
        before = state_guard.captured()
        adapter = _imported(self.target)
        if adapter.reference is not None:
            _imported(adapter.reference)
        declared = _declared(adapter, self.target, self.operations)
        said = numerics()
        changed = state_guard.settle(before)
        # last: proving the interpreter takes longer than refusing an adapter
        unfaithful = faithful_interpreter() if self.device == "cpu" else ""
        worker = Worker(Subject(adapter, self.device, unfaithful, known=declared))
        return Prepared(
            Greeting(declared, unfaithful, said, changed, 0 if self.device == "cpu" else memory_of_gpus()),
            lambda granted: Told(_answered(worker, self.target, granted), taken()),
            worker.healthy,
        )


def _answered(worker: Worker, target: str, granted: Granted) -> Any:  # noqa: ANN401 - depends on the question
    worker.allowance = granted.allowance
    match granted.question:
        case Judge(prop, case):
            return worker.judge(prop, case)
        case Smoke(case):
            return worker.smoke(case)
        case Try(case):
            return worker.attempt(case)
        case Follow(evidence):
            return worker.follow(evidence)
        case Tune(case):
            return worker.tuned(case)
        case Reproduce(failure, tuned):
            assert granted.directory is not None, "a run says where it writes before anything fails"
            return reproducer.write(failure, worker.subject, granted.directory, target, tuned)
        case Look(case, place):
            return worker.look(case, place)


def _not_imported(how: str, start: float) -> str:
    """Return in words how a process ended that should have imported an adapter."""
    if how.startswith("took"):
        return f"cannot be imported: it {how} (--import-limit {start:g})"
    return f"cannot be imported: its process {how} while it was imported"


def _imported(target: str) -> Adapter:
    """Return the adapter of a target. Raises ``UsageError`` with one line, whatever its file does."""
    try:
        return load(target)
    except UsageError:
        raise
    except BaseException as error:
        raise UsageError(f"{target}: cannot be loaded: {in_a_line(error)}") from error


def _declared(adapter: Adapter, target: str, operations: tuple[str, ...]) -> Declared:
    """Return what an adapter declares, once it is checked."""
    try:
        check(adapter, operations)
        return Declared.of(adapter)
    except UsageError:
        raise
    except BaseException as error:
        raise UsageError(f"{target}: its declarations cannot be read: {in_a_line(error)}") from error


def numerics() -> dict[str, Any]:
    """Return the switches outside the code under test that can change its bits, as they are in this process."""
    names = sorted(name for name in os.environ if name.startswith("TRITON_") or name == "NORMKERNELS_PATH")
    return {
        "environment": {name: os.environ[name] for name in names},
        "fp_fusion": _fp_fusion(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _fp_fusion() -> bool | None:
    """Return Triton's default of FP fusion for kernels that set none; None where Triton has no such switch."""
    if version("triton") is None:
        return None
    from triton import knobs

    return getattr(knobs.language, "default_fp_fusion", None)
