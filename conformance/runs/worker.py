"""The child process of a run: it judges within its memory, and reports when it can no longer go on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from conformance.adapter import Crashed, Hung, poisons
from conformance.calls import state_guard
from conformance.calls.budget import ALONE, FULL, Allowance, allocated, gib, keep, left_behind, out_of_memory
from conformance.calls.call import Subject, perform
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.properties import PROPERTIES
from conformance.properties.discovery import Evidence, follow
from conformance.runs.behind import Behind, Place, behind
from conformance.runs.judge import Answer, judge, lacked, tried
from conformance.runs.survey import Tried

Said = TypeVar("Said")


@dataclass(slots=True, eq=False)
class Worker:
    """Judge of a subject in a process of its own, which keeps within ``allowance`` of its GPU.

    After a fault in a GPU's kernel every later call of the process fails, right ones too: then, or with memory
    that calls left behind, the process is not :meth:`healthy`, and another has to go on.
    """

    subject: Subject
    allowance: Allowance = ALONE
    _spoilt: bool = field(default=False, init=False)

    def judge(self, prop: str, case: Case) -> Answer:
        """Return the verdicts on a case, or the harm that its calls did to the process."""
        subject = self._within_budget()
        answer = _crash_of_the_gpu(lambda: judge(subject, prop, case))
        crashes = _crashes(answer)
        left = "" if any(map(poisons, crashes)) else _left(subject.memory)
        self._spoilt = bool(left) or any(map(poisons, crashes))
        return Crashed(left) if left and not crashes else answer

    def attempt(self, case: Case) -> Tried:
        """Return whether a call is taken."""
        try:
            found = _crash_of_the_gpu(lambda: tried(self._within_budget(), case))
        except torch.OutOfMemoryError:
            return Tried("needs more memory than a worker has")
        self._spoilt = isinstance(found, Crashed) or (found.crash and poisons(found.reason))
        return Tried(found.how, crash=True) if isinstance(found, Crashed) else found

    def follow(self, evidence: Evidence) -> str:
        """Return what the outputs of failing cases are instead; nothing where the GPU fails as well."""
        try:
            said = _crash_of_the_gpu(lambda: follow(self._within_budget(), evidence))
        except torch.OutOfMemoryError:
            # a case of gigabytes, which was judged with more memory than a worker usually has
            return ""
        self._spoilt = isinstance(said, Crashed)
        return "" if isinstance(said, Crashed) else said

    def look(self, case: Case, place: Place) -> Behind | None:
        """Return the numbers behind an element; nothing where the GPU fails, or has too little memory."""
        try:
            found = _crash_of_the_gpu(lambda: behind(self._within_budget(), case, place))
        except torch.OutOfMemoryError:
            return None
        self._spoilt = isinstance(found, Crashed)
        return None if isinstance(found, Crashed) else found

    def tuned(self, case: Case) -> dict[str, str]:
        """Return the configurations of tuned kernels; none where the GPU fails, or has too little memory."""
        try:
            call = _crash_of_the_gpu(lambda: perform(self._within_budget(), case))
        except torch.OutOfMemoryError:
            return {}
        outcome = call if isinstance(call, Crashed) else call.outcome
        self._spoilt = isinstance(outcome, Crashed) and poisons(outcome.how)
        return {} if isinstance(call, Crashed) else call.record.tuned

    def smoke(self, case: Case) -> Crashed | None:
        """Return how a call crashes, or nothing where it does not."""
        outcome = _crash_of_the_gpu(lambda: perform(self._within_budget(), case).outcome)
        self._spoilt = isinstance(outcome, Crashed) and poisons(outcome.how)
        return outcome if isinstance(outcome, Crashed) else None

    def healthy(self) -> bool:
        """Return whether the process can go on."""
        if self._spoilt or not state_guard.healthy():
            return False
        if self.subject.device == "cpu":
            return True
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True

    def _within_budget(self) -> Subject:
        return self.subject if self.subject.device == "cpu" else replace(self.subject, memory=keep(self.allowance))


def _crash_of_the_gpu(said: Callable[[], Said]) -> Said | Crashed:
    """Return the result; or a kernel's fault that shows only after its call, in the suite's own use of the GPU.

    Raises ``torch.OutOfMemoryError`` for every lack of memory.
    """
    try:
        return said()
    except RuntimeError as error:
        if out_of_memory(error):
            raise torch.OutOfMemoryError(str(error)) from error
        how = f"{type(error).__name__}: {error}"
        if not poisons(how):
            raise
        return Crashed(how)


def may_be_anothers(answer: object) -> bool:
    """Return whether an answer tells of a fault that another process on the same GPU may have made."""
    if isinstance(answer, Tried):
        return answer.hung or (answer.crash and poisons(answer.reason))
    if isinstance(answer, tuple | Crashed):
        return any(map(poisons, _crashes(answer)))
    return isinstance(answer, Hung)


def starved(answer: object) -> bool:
    """Return whether an answer tells of no more than a GPU whose memory other processes hold.

    A case that may take the whole GPU is none: it was called twice.
    """
    if isinstance(answer, Tried):
        return answer.reason.startswith(FULL)
    return isinstance(answer, tuple) and lacked(answer) and not PROPERTIES[answer[0].property].whole_gpu


def _crashes(answer: Answer) -> list[str]:
    """Return how the calls of an answer crashed, if they did."""
    if isinstance(answer, tuple):
        return [verdict.reason for verdict in answer if verdict.status is Status.CRASHED]
    return [answer.how] if isinstance(answer, Crashed) else []


def _left(memory: int | None) -> str:
    """Return that finished calls hold too much of the GPU's ``memory`` bytes for the next call, or nothing."""
    if memory is None:
        return ""
    left = allocated()
    if left > left_behind(memory):
        # collect first: objects in unreachable cycles are not left behind
        gc.collect()
        left = allocated()
    return f"left {gib(left)} of GPU memory behind, of {gib(memory)}" if left > left_behind(memory) else ""
