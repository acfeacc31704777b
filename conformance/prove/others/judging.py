"""Judgement of one implementation by the models of suites: calls in used memory, and their results compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from conformance.adapter import Adapter, Crashed, Hung, Misreturned, Ran, load
from conformance.calls.call import Subject, call_with
from conformance.calls.child import Child, Prepared
from conformance.calls.materialize import passed
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, Arguments
from conformance.prove.others.comparing import OUTPUTS, Tensors, cases, in_float32, values, wrong
from conformance.prove.others.memory import placed, pooled
from conformance.prove.others.suites import SUITES, Part, Rule
from conformance.prove.others.tables import OUTSIDE

LANE = "cpu"
LIMIT = 300.0  # seconds of all calls of a suite
EXCEPTION, CRASH, HANG = "exception", "crash", "hang"
NAMED = {suite.name: suite for suite in SUITES}
# roundings that a reference has too: the sum in a stream, and what is quantised
PLAIN = frozenset({"sum", "unquantised"})
IN_PLACE = "_"  # ends the name of a method that writes results over its arguments


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One call of a model, its values, and the outputs that it is compared with."""

    part: Part
    case: Case
    given: dict[str, torch.Tensor]
    want: Tensors
    low: Tensors


@functools.cache
def asked(suite: str, operation: str) -> tuple[Asked, ...]:
    """Return the calls that a model makes of an operation."""
    found = []
    for part in NAMED[suite].parts:
        for case in cases(part, operation) if operation in part.operations else ():
            given = values(part, case)
            low = _outputs(_subject("torch"), case, given) if part.eager or part.rule is Rule.TWICE else ()
            exact = in_float32(case, given) if part.rule is Rule.TWICE else (case, given)
            want = low if part.eager and low else _outputs(_subject("native"), *exact)
            found.append(Asked(part, case, given, want, low))
    return tuple(found)


@functools.cache
def _subject(name: str) -> Subject:
    return Subject(load(name), LANE)


def _outputs(subject: Subject, case: Case, given: Mapping[str, torch.Tensor]) -> Tensors:
    outcome = call_with(subject, case, _arguments(case, given))
    assert isinstance(outcome, Ran), f"no reference for {case}: {outcome}"
    return outcome.outputs


def _arguments(case: Case, given: Mapping[str, torch.Tensor]) -> Arguments:
    """Return the arguments of a call, in memory of their own; None where the case does not pass one."""
    operation = OPERATIONS[case.operation]
    absent = dict.fromkeys((*operation.positional, *operation.keywords))
    flags = {name: passed(name, value) for name, value in case.flags}
    return {**absent, **{name: placed(spec, given[name]) for name, spec in case.tensors}, **flags}


def judged(suite: str, operation: str, subject: Subject) -> str:
    """Return what a model finds wrong with an implementation, in a word, or nothing."""
    model = NAMED[suite]
    for each in asked(suite, operation):
        arguments = _arguments(each.case, each.given)
        with pooled(math.nan if model.poison else None):
            outcome = call_with(subject, each.case, arguments, IN_PLACE if each.part.in_place else "")
        if isinstance(outcome, Crashed):
            return EXCEPTION
        if isinstance(outcome, Misreturned):
            return OUTPUTS
        if isinstance(outcome, Ran):
            got = _overwritten(each.case, arguments) if each.part.in_place else outcome.outputs
            word = wrong(each.part, each.case, got, each.want, each.low, checks_dtype=model.checks_dtype)
            if word:
                return word
    return ""


def _overwritten(case: Case, arguments: Arguments) -> Tensors:
    """Return the arguments that hold the results of an in-place call."""
    operation = OPERATIONS[case.operation]
    return tuple(arguments[operation.in_place[output.name]] for output in operation.outputs(case))


def comparable(subject: Subject, operation: str) -> bool:
    """Return whether an implementation declares no rounding that the references do not have."""
    return subject.contract(operation).rounds <= PLAIN


def contained(adapter: Adapter, operation: str, suites: Sequence[str] = ()) -> dict[str, str]:
    """Return what models find wrong with an implementation, called in another process: by default all of them."""
    subject, chosen = Subject(adapter, LANE), suites or tuple(NAMED)
    if not comparable(subject, operation):
        return dict.fromkeys(chosen, OUTSIDE)
    child: Child[None, str, str] = Child(
        lambda: Prepared(None, lambda suite: judged(suite, operation, subject)), limit=LIMIT
    )
    found = {}
    try:
        for suite in chosen:
            if not asked(suite, operation):
                found[suite] = OUTSIDE
                continue
            answer = child.ask(suite)
            found[suite] = HANG if isinstance(answer, Hung) else CRASH if isinstance(answer, Crashed) else answer
    finally:
        child.close()
    return found
