"""Judgement of fakes apart from this process, which a fault would end."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import TypeVar

from conformance.adapter import Adapter, Crashed, Hung
from conformance.calls.call import Subject
from conformance.calls.child import Child, Prepared
from conformance.calls.verdict import Verdict
from conformance.cases.case import Case
from conformance.runs.judge import Ask, judge, surveyed, tried
from conformance.runs.survey import Survey

Task = TypeVar("Task")
Result = TypeVar("Result")

LIMIT = 60.0  # seconds of a call
_FORK = multiprocessing.get_context("fork")

Question = tuple[str, Case]  # a property, and a case to judge
Answer = tuple[Verdict, ...] | Crashed | Hung


@contextlib.contextmanager
def judging(subject: Subject) -> Iterator[Ask]:
    """Return a judge of cases in this process, or in a child where a call may end it."""
    if not getattr(subject.implementation(), "ends_its_process", False):
        yield partial(judge, subject)
        return

    def answer(question: Question) -> Answer:
        return judge(subject, *question)

    child: Child[None, Question, Answer] = Child(lambda: Prepared(None, answer), limit=LIMIT)
    try:
        yield lambda prop, case: child.ask((prop, case))
    finally:
        child.close()


def survey_of(subject: Subject, operation: str, right: Adapter) -> Survey:
    """Return which calls an implementation takes; one that ends its process claims what the right one does."""
    careful = getattr(subject.implementation(), "ends_its_process", False)
    asked = Subject(right, subject.device) if careful else subject
    return surveyed(operation, asked, partial(tried, asked), profile="quick", seed=0)


def in_processes(work: Callable[[Task], Result], tasks: Iterable[Task], count: int) -> Iterator[Result]:
    """Yield the result of each task from a process of its own, ``count`` at once; these may have children."""
    running: dict[Connection, ForkProcess] = {}
    for task in tasks:
        while len(running) >= count:
            yield from _ended(running)
        here, there = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_sent, args=(there, work, task))
        process.start()
        there.close()
        running[here] = process
    while running:
        yield from _ended(running)


def _sent(there: Connection, work: Callable[[Task], Result], task: Task) -> None:
    there.send(work(task))


def _ended(running: dict[Connection, ForkProcess]) -> Iterator[Result]:
    """Yield the results that are there, at least one."""
    for here in wait(list(running)):
        assert isinstance(here, Connection)
        result: Result = here.recv()
        running.pop(here).join()
        yield result
