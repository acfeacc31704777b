"""Outputs of the caller: right implementations pass everywhere, and what is wrong is said."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch

from conformance.adapter import Adapter, UsageError
from conformance.adapters.native import Native
from conformance.calls.call import Subject
from conformance.calls.declared import Traits, check
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.properties import PROPERTIES
from conformance.properties.given_outputs import OWN, SHARED, STRIDED, UNFIT, weave
from conformance.runs.item import Item, cases_of
from conformance.runs.judge import unjudged
from conformance.selftest.every import every
from conformance.selftest.fakes import given_outputs as fakes
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.given_outputs import CorrectOutputs

GIVEN_OUTPUTS = PROPERTIES["given_outputs"]


def _cases(adapter: Adapter, operation: str, dtype: str, profile: str = "ci") -> list[Case]:
    return list(cases_of(Item(operation, "given_outputs", dtype, profile), Subject(adapter)))


def _verdict(adapter: Adapter, case: Case) -> Verdict:
    (verdict,) = GIVEN_OUTPUTS.judge(Subject(adapter), case)
    return verdict


@every(
    ("kind", "operation"),
    [(CorrectOutputs, "rms_norm"), *((Native, name) for name in ("rms_norm", "gemma_rms_norm", "rms_norm_gated"))],
)
def test_right_outputs_pass(kind: type[Adapter], operation: str) -> None:
    """All dtypes and layouts of the outputs: the seeds of ci choose each one, of which one case is judged."""
    cases = {(dtype, case.seed % len(OWN)): case for dtype in DTYPES for case in _cases(kind(), operation, dtype)}
    assert set(range(len(OWN))) == {place for _, place in cases}
    for case in cases.values():
        verdict = _verdict(kind(), case)
        assert Status.PASSED is verdict.status, str(verdict)
        assert verdict.comparison.elements


SAID = {
    "OutputStridesIgnored": ("y[", "s[", "memory beside a given output was written"),
    "OutputOverlapsArguments": ("y overlaps ",),
    "OverlapSoughtAtTheCorners": ("y shares ",),
    "WovenOutputRefused": ("ValueError: an output shares memory",),
    "OutputOfSharedRows": ("rows of y share memory, which was accepted: y[",),
    "OneOutputForTwo": ("y and s are one tensor, which was accepted: ",),
    "OutputLeftAsItWas": ("returned another tensor for y than the one that was given",),
    "OutputVersionKept": ("a given output is still at its version from before it was written",),
    "OutputBesideAnArgumentRefused": ("crashed: ValueError: an output shares memory", "ValueError: an output"),
    "WrittenBeforeItIsRefused": (
        "refused, as rows of y share memory, after something was written",
        "refused, as y",
    ),
    "WiderOutputAccepted": ("y has a column too many, which was accepted: y has no such tensor for its result",),
    "OutputOfAnotherDtype": ("y is torch.float64, which was accepted: y has no such tensor for its result",),
}


@every("name", SAID)
def test_what_is_wrong_is_said(name: str) -> None:
    """The first bad verdict of the profile says which output, and what was accepted or left out."""
    adapter = getattr(fakes, name)()
    verdicts = (_verdict(adapter, case) for case in _cases(adapter, "rms_norm", "bfloat16"))
    bad = next(verdict for verdict in verdicts if verdict.status is not Status.PASSED)

    assert bad.reason.startswith(SAID[name]), bad.reason


class _Blocks(fakes.OutputOverlapsArguments):
    """A norm that claims every call, reads eight rows before it writes them, and looks at no overlap."""

    takes: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({"rms_norm": {}})

    def rms_norm_out(self, x: torch.Tensor, weight: torch.Tensor | None, **named: Any) -> Any:
        residual, out = named.pop("residual"), named.pop("out")
        self.check_outputs(x, [x], out)
        for at in range(0, len(x), 8):
            rows = slice(at, at + 8)
            part = None if residual is None else residual[rows]
            self.written(tuple(each[rows] for each in out), self.rms_norm(x[rows], weight, residual=part, **named))
        return out if len(out) > 1 else out[0]


def test_an_overlap_shows_in_calls_of_several_programs() -> None:
    """A program that reads all rows of a small call before it writes is right, whatever they share."""
    drawn = [(case, case.tensors[0][1].shape) for case in _cases(_Blocks(), "rms_norm", "float32")]
    cases = [case for case, (rows, *others) in drawn if rows <= 8 and math.prod(others) <= 2**11]
    verdicts = [_verdict(_Blocks(), case) for case in cases]

    assert cases
    assert {Status.FAILED} == {verdict.status for verdict in verdicts}
    assert cases == [verdict.case for verdict in verdicts]
    assert all(re.search(r"; in a call of [0-9]+ rows$", verdict.reason) for verdict in verdicts)


def test_weaves_share_early_rows_then_nothing_then_little() -> None:
    """Each number takes the pair of strides that tells most, out of those that are drawn."""
    shape, seeds = (64, 5, 48), range(20)
    early, none, little = (
        [weave(random.Random(seed), shape, number) for seed in seeds]  # noqa: S311 - test data
        for number in range(3)
    )

    assert all(each.early > each.shared // 8 > 0 for each in early)
    assert sum(not each.shared for each in none) > len(none) // 2
    assert all(each.early and each.shared < shape[0] * shape[2] for each in little)


class _Contiguous(CorrectOutputs):
    """A norm that takes contiguous outputs alone."""

    strided_outputs = False

    def fits(self, out: Any, x: Any) -> bool:
        return super().fits(out, x) and out.is_contiguous()


def test_strided_outputs_may_be_refused_where_they_are_not_declared() -> None:
    """A contiguous one is judged in their place; who declares them fails."""

    class Declares(_Contiguous):
        strided_outputs = True

    cases = _cases(_Contiguous(), "rms_norm", "bfloat16")
    refused = [case for case in cases if list(OWN)[case.seed % len(OWN)] in STRIDED]

    assert refused
    assert all(_verdict(_Contiguous(), case).status is Status.PASSED for case in cases)
    assert all(_verdict(_Contiguous(), case).comparison.elements for case in cases)
    assert all(_verdict(Declares(), case).status is Status.CRASHED for case in refused)


def test_what_does_not_fit_is_refused_by_those_that_validate() -> None:
    """Others may write into any tensor."""

    class Careless(fakes.WiderOutputAccepted):
        validates = False

    assert all(
        _verdict(Careless(), case).status is Status.PASSED for case in _cases(Careless(), "rms_norm", "float16")
    )
    assert not {*OWN, *SHARED} & {*UNFIT}


def test_a_method_says_that_outputs_can_be_given() -> None:
    """Its name does; an item without the method says which one is missing, and another signature is refused."""

    class Other(CorrectNorm):
        def rms_norm_out(self, x: Any, weight: Any, *, residual: Any, weight_offset: float, eps: float) -> None:
            """Take no outputs."""

    assert ("_", "_out") == Traits.of(CorrectOutputs(), "rms_norm").forms
    assert (Status.NOT_JUDGED, "the adapter has no rms_norm_out") == unjudged(
        Item("rms_norm", "given_outputs", "bfloat16"), Subject(CorrectNorm())
    )
    with pytest.raises(UsageError, match=r"Other\.rms_norm_out: .*'out'.*weight_offset, out\)"):
        check(Other(), ("rms_norm",))
