"""An explanation keeps the cause of a failure, and claims only judged results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from conformance.adapter import Adapter, Declined
from conformance.calls.call import Subject
from conformance.calls.claim import claim, outside
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import BESIDE, LAYOUTS, Case, Layout
from conformance.cases.factors import EVERYTHING, Scope
from conformance.cases.shrink import MEANING, essentials, keeps_the_cause
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.discovery import Evidence
from conformance.runs.explain import TRIES, explained
from conformance.runs.item import Failure, Item, cases_of
from conformance.runs.judge import asked, judge, judge_item
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.residuals import ResidualThatIsXIgnored

LARGE_INDEX = PROPERTIES["large_index"]


def _item(prop: str, dtype: str = "bfloat16") -> Item:
    return Item("rms_norm", prop, dtype)


def _explained(item: Item, subject: Subject, cases: Iterable[Case] | None = None) -> list[Failure]:
    """Return the failures of an item, or of some of its cases, without a child and without discovery."""

    def again(case: Case) -> tuple[Verdict, ...]:
        return asked(lambda name, about: judge(subject, name, about), PROPERTIES[item.property], case)

    verdicts = judge_item(item, subject) if cases is None else (v for case in cases for v in again(case))
    return explained(item, list(verdicts), again, lambda evidence: "", EVERYTHING)


def _drawn(**levels: str) -> Case:
    operation = OPERATIONS["rms_norm"]
    plain = {name: choices[0] for name, choices in operation.factors.items()}
    return operation.complete({**plain, **levels}, random.Random(3), Scope("bfloat16"))  # noqa: S311


def test_every_layout_has_words() -> None:
    """The explanation can name every layout in which something fails."""
    assert {*LAYOUTS, *BESIDE, "slice"} == set(MEANING)
    for kind in LAYOUTS:
        case = _drawn(x_layout=kind)
        plain = case.with_tensor("x", replace(case.tensors[0][1], layout=Layout()))

        assert kind == "contiguous" or [f"x {MEANING[kind]}".format(far="")] == list(essentials(case, [plain]))


def test_a_residual_that_is_x_is_explained_as_that() -> None:
    """A fake that is wrong only there keeps it down to the smallest case, and the remark says so."""
    failures = _explained(_item("layout"), Subject(ResidualThatIsXIgnored()))
    (failure,) = (f for f in failures if f.verdict.property == "layout")

    assert "x" == failure.verdict.case.source("residual")
    assert "residual that is x itself" in failure.note
    assert (1,) == failure.verdict.case.tensors[0][1].shape


class _Wrong(CorrectNorm):
    """A norm that is wrong where ``wrong`` is true, and elsewhere declines, crashes or fails in another way."""

    wrong: Callable[[torch.Tensor, torch.Tensor | None], bool] = staticmethod(lambda x, residual: False)
    otherwise: Callable[[torch.Tensor, torch.Tensor | None], None] = staticmethod(lambda x, residual: None)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> Result:
        """Return twice the right result if ``wrong`` is true."""
        result = super().norm(x, weight, residual, offset, eps)
        if self.wrong(x, residual):
            return result * 2 if isinstance(result, torch.Tensor) else tuple(part * 2 for part in result)
        self.otherwise(x, residual)
        return result


def _decline(x: torch.Tensor, residual: torch.Tensor | None) -> None:
    raise Declined("nothing else")


def _crash(x: torch.Tensor, residual: torch.Tensor | None) -> None:
    raise TypeError("nothing else")


@pytest.mark.parametrize(
    ("otherwise", "said"),
    [(None, "passes without any one of: "), (_decline, ""), (_crash, "")],
    ids=["passes", "declined", "crashes"],
)
def test_what_was_not_judged_is_not_said_to_pass(otherwise: Any, said: str) -> None:
    """A simpler case that was declined, or failed differently, is no evidence about the factor it lacks."""

    class Strided(_Wrong):
        wrong = staticmethod(lambda x, residual: x.stride(-1) != 1)

    if otherwise is not None:
        Strided.otherwise = staticmethod(otherwise)
    (failure,) = (
        f
        for f in _explained(_item("layout"), Subject(Strided()), [_drawn(x_layout="step")])
        if f.verdict.property == "layout"
    )

    assert failure.note.startswith(said) if said else "" == failure.note
    assert "step" == failure.verdict.case.tensors[0][1].layout.kind


# where the adapter is wrong; another mistake in small, plain calls; the smallest case's required feature
CAUSES: list[tuple[dict[str, str], Any, Any, Callable[[Case], bool]]] = [
    (
        {"x_layout": "transposed", "rows": "few"},
        lambda x, residual: not x.is_contiguous(),
        lambda x: x.numel() == 1,
        lambda case: case.tensors[0][1].layout.kind == "transposed",
    ),
    (
        {"residual_layout": "same", "x_layout": "row_gap"},
        lambda x, residual: residual is x,
        lambda x: x.is_contiguous() and x.shape[-1] <= 3,
        lambda case: case.source("residual") == "x",
    ),
    (
        {"width": "wide", "rows": "few"},
        lambda x, residual: x.shape[-1] > 1000,
        lambda x: x.shape[-1] < 3,
        lambda case: case.tensors[0][1].shape[-1] > 1000,
    ),
    (
        {"residual": "other"},
        lambda x, residual: residual is not None and residual.dtype != x.dtype,
        lambda x: x.numel() == 1,
        lambda case: dict(case.tensors)["residual"].dtype != case.dtype,
    ),
]


@pytest.mark.parametrize(("levels", "cause", "other", "kept"), CAUSES, ids=["strides", "same", "width", "dtype"])
def test_shrinking_does_not_slide_to_another_mistake(
    levels: dict[str, str],
    cause: Any,
    other: Any,
    kept: Callable[[Case], bool],
) -> None:
    """A second mistake in small calls does not replace the first one's cause."""

    class Two(_Wrong):
        wrong = staticmethod(lambda x, residual: cause(x, residual) or other(x))

    case = _drawn(**levels)
    verdicts = PROPERTIES["layout"].judge(Subject(Two()), case)
    main = verdicts[0].property
    (failure,) = (f for f in _explained(_item(main), Subject(Two()), [case]) if f.verdict.property == main)

    assert Status.FAILED is verdicts[0].status
    assert kept(failure.verdict.case), failure.verdict.case


class _Far(CorrectNorm):
    """A norm that is wrong if x spans much memory, and for a single element."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Drop values that are far away."""
        far = any(abs(stride) > 2**20 for stride in x.stride())
        return super().normalise(stream, eps, x) * (0.5 if far or x.numel() == 1 else 1.0)


def test_a_large_index_stays_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest case of an overflowing offset keeps the stride that makes it overflow."""
    # every call maps gigabytes
    monkeypatch.setitem(TRIES, Status.FAILED, 20)
    subject = Subject(_Far())
    case = next(iter(cases_of(_item("large_index"), subject)))
    (failure,) = _explained(_item("large_index"), subject, [case])

    assert failure.verdict.case.tensors[0][1].layout.amount > 2**20
    assert failure.note.startswith("as drawn it passes without any one of: x with a gap of ")


class _Half(CorrectNorm):
    """A norm that is always wrong."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Return half of it."""
        return super().normalise(stream, eps, x) * 0.5


def test_no_call_outside_of_a_claim_is_made() -> None:
    """A smaller case is one that is taken, where the failing one is; what fails outside is shrunk outside."""
    taken = claim("wrong", "rms_norm", {"rank": ("3", "4"), "columns": range(2, 8193, 2)})
    called: list[Case] = []

    def again(case: Case) -> tuple[Verdict, ...]:
        called.append(case)
        return asked(lambda name, about: judge(Subject(_Half()), name, about), PROPERTIES["values"], case)

    def smallest(case: Case) -> tuple[int, ...]:
        (failure,) = explained(_item("values"), again(case), again, lambda evidence: "", taken)
        return failure.verdict.case.tensors[0][1].shape

    assert (1, 1, 2) == smallest(_drawn(rank="3", width="wide"))
    assert {""} == {outside(taken, case) for case in called}
    assert (1,) == smallest(_drawn(rank="2", width="wide"))


class _ByChance(CorrectNorm):
    """A norm that is wrong in its first call."""

    def __init__(self) -> None:
        self.calls = 0

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Count the calls, and be wrong in the first."""
        self.calls += 1
        return super().normalise(stream, eps, x) * (0.5 if self.calls <= 1 else 1.0)


def test_a_failure_that_does_not_come_back_is_said_to_be_that() -> None:
    """Such a failure is not shrunk, and no case is said to pass without something."""
    failures = _explained(_item("values"), Subject(_ByChance()), [_drawn(width="wide")])

    assert ["the same case passes when it is judged again: it fails by chance, or for calls before it"] == list(
        {failure.note for failure in failures}
    )


def test_what_was_lost_together_is_the_cause_together() -> None:
    """A simplification that removes two features shows of neither that it is needed alone."""
    case = _drawn(x_layout="step", weight_layout="step")
    x, weight = dict(case.tensors)["x"], dict(case.tensors)["weight"]
    plain_x = case.with_tensor("x", replace(x, layout=Layout()))
    both = plain_x.with_tensor("weight", replace(weight, layout=Layout()))

    assert keeps_the_cause(plain_x, case, [both])
    assert not keeps_the_cause(both, case, [both])
    assert not keeps_the_cause(both, case, [plain_x])


def test_discovery_is_asked_once_for_an_item() -> None:
    """Discovery gets all failing and some passing cases; the first failure with wrong outputs has its sentence."""

    class Strided(_Wrong):
        wrong = staticmethod(lambda x, residual: not x.is_contiguous() or x.dim() == 3)

    item, subject = _item("layout"), Subject(Strided())
    verdicts = list(judge_item(item, subject))
    heard: list[Evidence] = []

    def follow(evidence: Evidence) -> str:
        heard.append(evidence)
        return "told"

    def again(case: Case) -> tuple[Verdict, ...]:
        return PROPERTIES["layout"].judge(subject, case)

    failures = explained(item, verdicts, again, follow, EVERYTHING)
    failed = {v.case for v in verdicts if v.status is Status.FAILED and v.comparison.outside}

    assert [(failed, True)] == [(set(evidence.failing), bool(evidence.passing)) for evidence in heard]
    assert 1 == sum("told" in failure.note for failure in failures)


def test_an_adapter_that_is_right_has_nothing_to_explain() -> None:
    """Without a failure no question is asked."""

    def never(evidence: Evidence) -> str:
        raise AssertionError(evidence)

    subject: Subject = Subject(CorrectNorm())
    verdicts = list(judge_item(_item("values"), subject))

    assert isinstance(subject.adapter, Adapter)
    assert [] == explained(_item("values"), verdicts, lambda case: (), never, EVERYTHING)
