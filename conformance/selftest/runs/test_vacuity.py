"""A run that could not have failed is red: blind or missing cases, collapsed factors, declined operations."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch

from conformance import report
from conformance.adapter import Adapter, Declined
from conformance.calls.call import Subject
from conformance.calls.claim import said
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.discovery import Evidence, follow
from conformance.report import Exit
from conformance.runs import journal
from conformance.runs.item import Item, cases_of, items, listed_cases, scope_of
from conformance.runs.judge import judge_item, nothing_judged, share_of_array, surveyed, tried, vacuous
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.memory import ReturnsX
from conformance.selftest.fakes.state import ConstantReturned

DTYPES = ("bfloat16", "float16", "float32")


def _sensitivity(operation: str, dtype: str) -> tuple[Item, list[Verdict]]:
    item = Item(operation, "sensitivity", dtype)
    return item, list(judge_item(item, Subject(right(operation)())))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_term_of_every_operation_shows(operation: str, dtype: str) -> None:
    """The quick profile has cases that would notice each term of the formula being dropped."""
    item, verdicts = _sensitivity(operation, dtype)
    seen = {name for verdict in verdicts for name, shows in verdict.terms if shows}

    assert {term.name for term in OPERATIONS[operation].terms} == seen
    assert "" == vacuous(item, verdicts)


def test_cases_that_are_blind_to_a_term_are_no_evidence() -> None:
    """If no case shows a term, the item names it: passing would prove nothing about the term."""
    item, verdicts = _sensitivity("rms_norm_gated", "bfloat16")
    blinded = [
        replace(verdict, terms=tuple((name, shows and name != "eps") for name, shows in verdict.terms))
        for verdict in verdicts
    ]

    assert "no case of values would notice if eps were dropped" == vacuous(item, blinded)


def test_large_values_hide_eps() -> None:
    """At values around 1e4 adding 1e-9 to the mean of their squares does not show."""
    judge = PROPERTIES["sensitivity"].judge
    operation = OPERATIONS["rms_norm_gated"]
    plain = {name: levels[0] for name, levels in operation.factors.items()}
    case = operation.complete({**plain, "values": "large"}, random.Random(0), Scope("bfloat16"))  # noqa: S311
    [hidden] = judge(Subject(Correct()), case.with_flag("eps", 1e-9))
    [shown] = judge(Subject(Correct()), case.with_flag("eps", 1e10))

    assert dict(hidden.terms)["eps"] is False
    assert dict(shown.terms)["eps"] is True
    assert dict(hidden.terms)["weight"] is True


def test_no_case_is_no_evidence() -> None:
    """An item without drawn cases does not hold."""
    assert "no case was drawn" == vacuous(Item("rms_norm", "values", "float32"), [])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_factor_collapses(operation: str) -> None:
    """Every two levels of a factor make different calls."""
    factors = OPERATIONS[operation].factors
    scope = Scope("bfloat16")
    # another factor must not hide a level's change: a gate's layout needs a gate
    bases = [{name: levels[place % len(levels)] for name, levels in factors.items()} for place in range(3)] + [
        dict.fromkeys(factors, "")
    ]

    def made(base: Mapping[str, str], name: str, level: str) -> set[str]:
        full = {other: base[other] or levels[-1] for other, levels in factors.items()}
        cases = (
            OPERATIONS[operation].complete({**full, name: level}, random.Random(seed), scope)  # noqa: S311
            for seed in range(12)
        )
        return {replace(case, seed=0).to_json() for case in cases}

    for name, levels in factors.items():
        for one, other in pairwise(levels):
            assert any(made(base, name, one) != made(base, name, other) for base in bases), (name, one, other)


class Half(CorrectNorm):
    """An implementation that takes every call of the norms, and declines every gated call."""

    def rms_norm_gated(self, x: torch.Tensor, *rest: object, **flags: object) -> torch.Tensor:
        """Say no."""
        raise Declined("not on Mondays")


def test_an_operation_declined_as_a_whole_is_an_alarm() -> None:
    """Other operations pass, but the run is red, and names the operation that was not judged."""
    subject = Subject(Half())
    lines: list[journal.Line] = []
    for operation in ("rms_norm", "rms_norm_gated"):
        item = Item(operation, "empty", "float32")
        for verdict in judge_item(item, subject):
            rest = {"reason": verdict.reason} if verdict.reason else {}
            line = {"event": "judged", "item": str(item), "property": "empty", "status": verdict.status, **rest}
            lines.append(line)
        lines.append({"event": "finished", "item": str(item), "array": [0, 0]})
    header = report.header(subject, profile="quick", seed=0)
    built = report.build(journal.merge(lines), header, [], 1.0)

    assert built.footer.verdicts["passed"] > 0
    said = "rms_norm_gated: every call was declined (not on Mondays): take some, or drop the method"
    assert (said,) == built.footer.alarms
    assert Exit.FAILED == built.footer.exit_code


class NoFloat32Weight(Correct):
    """An implementation that declines one level of one factor."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Say no to a weight of another dtype."""
        if weight.dtype != x.dtype:
            raise Declined("weight in x's dtype")
        return super().rms_norm_gated(x, gate, weight, **flags)


def test_the_share_of_the_covering_array_counts_what_ran() -> None:
    """The array covers only calls that are taken, and all of its rows run."""
    item = Item("rms_norm_gated", "values", "bfloat16")
    subject = Subject(NoFloat32Weight())
    listed = listed_cases(item, scope_of(item, subject))
    found = surveyed(item.operation, subject, partial(tried, subject), profile="quick", seed=0)
    taken = listed_cases(item, scope_of(item, subject, found))
    weights = {weight.dtype for case in taken if (weight := case.tensor("weight"))}
    ran, of = share_of_array(item, subject, found, list(judge_item(item, subject, found=found)))

    assert {"bfloat16"} == weights
    assert "takes a weight in x's dtype; bf16, fp16 and fp32" == said(item.operation, found.taken)
    assert len(taken) == ran == of
    assert 0 < of <= len(listed)


@pytest.mark.parametrize(
    ("fake", "said"),
    [(ReturnsX, "an output is x as it came"), (ConstantReturned, "an output is 0 everywhere")],
)
def test_an_output_that_was_not_computed_is_recognised(fake: type[Adapter], said: str) -> None:
    """A failure's explanation says if the output is an argument, or a single number."""
    subject = Subject(fake())
    item = next(item for item in items(subject, operations=("rms_norm_gated",), properties=("values",)))

    assert said == follow(subject, Evidence(tuple(cases_of(item, subject))))


def test_the_sample_of_sensitivity_is_of_the_cases_of_values() -> None:
    """The sample has only cases of ``values``, so that its evidence is about them."""
    subject = Subject(Correct())
    values = set(cases_of(Item("rms_norm_gated", "values", "float16"), subject))
    sample = list(cases_of(Item("rms_norm_gated", "sensitivity", "float16"), subject))

    assert 12 <= len(sample) <= 24
    assert set(sample) <= values


def test_an_error_is_neither_a_pass_nor_a_failure_of_the_implementation() -> None:
    """A vacuous item ends the run with the status of a broken suite."""
    assert Exit.BROKEN == report.results.exit_code({Status.ERROR: 1, Status.PASSED: 9}, complete=True)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ("declined declined", "declined: no"),
        ("not_judged declined not_judged", "not_judged: no"),
        ("declined passed", ""),
        ("not_judged failed", ""),
        ("waived", ""),
    ],
)
def test_an_item_in_which_nothing_is_judged_is_not_green(statuses: str, said: str) -> None:
    """Such an item is skipped with its most frequent reason; a single judged case is enough."""
    case = Case("rms_norm", (("x", TensorSpec((1, 2), "float32")),), (("eps", 1e-6), ("weight_offset", 0.0)))
    verdicts = [Verdict("threads", case, Status(status), "no") for status in statuses.split()]

    assert said == nothing_judged(verdicts)
