"""Judgement of a fake as in a run: one that ends its process, as a fault does, ends that of a child."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from conformance.adapter import Adapter, Crashed, Hung
from conformance.calls.call import Subject
from conformance.calls.child import Child, Prepared
from conformance.calls.verdict import Verdict
from conformance.cases.case import Case
from conformance.runs.judge import Ask, judge, surveyed, tried
from conformance.runs.survey import Survey

LIMIT = 60.0  # seconds of a call

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
