"""Texts for the authors of adapters: how an operation is called, and what a survey found."""

from __future__ import annotations

from conformance.calls.claim import APART, pasted, said, size_names
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS, flags_of
from conformance.runs.survey import Survey

MOST_REASONS = 3


def method(name: str) -> str:
    """Return the method that an adapter has for an operation, with its signature."""
    operation = OPERATIONS[name]
    named = (*operation.keywords, *flags_of(operation))
    arguments = ", ".join(["self", *operation.positional, *(["*", *named] if named else [])])
    lines = [f"def {name}({arguments}):"]
    if operation.in_place:
        over = ", ".join(f"{output} over {argument}" for output, argument in operation.in_place.items())
        lines.append(f"def {name}_({arguments}):  # optional: in place, {over}")
    return "\n".join(lines)


def claimed_with(name: str) -> dict[str, str]:
    """Return the words of a claim: every factor with its levels, and every size."""
    factors = {"dtype": DTYPES, **OPERATIONS[name].factors}
    words = {factor: ", ".join(levels) for factor, levels in factors.items()}
    sizes = dict.fromkeys(size_names(name), "a number, several of them, or a range")
    return {**words, **sizes, APART: "pairs of levels that exclude each other: {factor: level, factor: level}"}


def terms(name: str) -> str:
    """Return the terms that a wrong formula may lack, and the mistakes that must raise."""
    operation = OPERATIONS[name]
    return f"{', '.join(term.name for term in operation.terms)}; wrong in {len(operation.invalid)} ways on purpose"


def found(operation: str, survey: Survey) -> str:
    """Return in words what a survey found, and the claim to paste."""
    if survey.claimed:
        return f"{operation}: claims: {said(operation, survey.taken)}"
    lines = [f"{operation}: {survey.ran} of {survey.calls} calls ran"]
    if survey.ran:
        lines.append(f"  {said(operation, survey.taken)}")
    lines += [f"  refused {count} times: {reason}" for reason, count in survey.refusals[:MOST_REASONS]]
    if survey.ran:
        lines += ["  as a claim, to stand in the adapter's takes:"]
        lines += [f"    {line}" for line in pasted(operation, survey.taken).splitlines()]
    return "\n".join(lines)
