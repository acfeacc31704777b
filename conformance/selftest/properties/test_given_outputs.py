"""Outputs of the caller: right implementations pass everywhere, and what is wrong is said."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.adapter import Adapter, UsageError
from conformance.adapters.native import Native
from conformance.calls.call import Subject
from conformance.calls.declared import Traits, check
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.properties import PROPERTIES
from conformance.properties.given_outputs import OWN, SHARED, STRIDED, UNFIT
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
    """All dtypes, and every layout of the outputs: the seeds of ci choose each one."""
    cases = [case for dtype in DTYPES for case in _cases(kind(), operation, dtype)]
    assert set(range(len(OWN))) == {case.seed % len(OWN) for case in cases}
    for case in cases:
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
