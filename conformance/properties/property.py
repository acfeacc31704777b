"""The type of a property: a promise, the cases that can test it, and how one case is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from conformance.calls.call import Subject
from conformance.calls.verdict import Verdict
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import Operation

Fixed = tuple[tuple[str, tuple[str, ...]], ...]


def nothing_against(subject: Subject, operation: str, dtype: str) -> str:
    """Return nothing: every machine can judge the property."""
    return ""


def nothing_to_add(operation: str, verdicts: Iterable[Verdict]) -> str:
    """Return nothing: each verdict speaks for itself."""
    return ""


def everything(operation: Operation) -> Fixed:
    """Return no restriction: every level of every factor."""
    return ()


def every_operation(operation: Operation) -> str:
    """Return nothing: no operation is without this promise."""
    return ""


@dataclass(frozen=True, slots=True)
class Property:
    """A promise and how one case of it is judged.

    ``judge`` runs where the implementation runs. ``fixed`` narrows the operation's factors to the levels that
    can test the promise. ``given`` lists cases in place of drawing them, which with ``beyond_claims`` may be
    outside of the claim; ``like`` names the property whose cases are sampled instead. ``cannot`` returns why a
    subject cannot be judged here, ``void`` why the promise says nothing of an operation, or nothing.
    ``concluded`` takes an operation and all verdicts on an item, and returns why together they are no evidence,
    or nothing. ``passive`` properties see all that they judge in one call. ``form`` ends the name of the judged
    method: ``_`` for the in-place form. ``whole_gpu``: a case takes what it needs of a GPU, not a worker's share.
    """

    name: str
    promise: str
    judge: Callable[[Subject, Case], tuple[Verdict, ...]]
    fixed: Callable[[Operation], Fixed] = everything
    given: Callable[[Operation, Scope], tuple[Case, ...]] | None = None
    cannot: Callable[[Subject, str, str], str] = nothing_against
    form: str = ""
    passive: bool = False
    beyond_claims: bool = False
    like: str = ""
    concluded: Callable[[str, Iterable[Verdict]], str] = nothing_to_add
    void: Callable[[Operation], str] = every_operation
    whole_gpu: bool = False


def contiguous(operation: Operation) -> Fixed:
    """Return every layout factor at ``contiguous``."""
    return tuple((name, ("contiguous",)) for name in operation.factors if name.endswith("layout"))


def ordinary(operation: Operation) -> Fixed:
    """Return the levels of finite values far from overflow."""
    return (("values", operation.ordinary),)


def special(operation: Operation) -> Fixed:
    """Return the levels of the other values: NaN, infinities, subnormals, overflow."""
    rest = tuple(level for level in operation.factors["values"] if level not in operation.ordinary)
    return (("values", rest),)


def several_rows(operation: Operation) -> Fixed:
    """Return the levels of more than one row, in at least one leading dimension."""
    return (("rows", ("few", "many")), ("rank", ("2", "3", "4")))


def narrowed(operation: Operation, *choices: Fixed) -> Fixed:
    """Return the levels that several choices have in common, but never none at all."""
    levels = dict(operation.factors)
    for name, kept in (one for choice in choices for one in choice):
        if name in levels:
            levels[name] = tuple(level for level in levels[name] if level in kept) or levels[name]
    return tuple(levels.items())
