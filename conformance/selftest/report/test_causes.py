"""Failures are grouped by cause: a card for each mistake, with the levels at which it shows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING
from conformance.report import causes
from conformance.report.causes import conditions, grouped
from conformance.report.document import Cause
from conformance.report.signature import WRONG_VALUES, signature
from conformance.runs import journal
from conformance.runs.explain import explained
from conformance.runs.item import Item
from conformance.runs.journal import Judged, Records
from conformance.runs.judge import judge, judge_item
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result

PROPERTIES = ("values", "layout", "specials", "contract", "determinism", "row_independence", "state")


class FourMistakes(CorrectNorm):
    """An implementation with four unrelated mistakes."""

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None) -> None:
        """Raise for a weight of another dtype."""
        super().check(x, weight, residual)
        if weight is not None and weight.dtype != x.dtype:
            raise TypeError(f"a weight of {weight.dtype} beside {tuple(x.shape)}")

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Read every second column of a strided residual as its columns."""
        strided = residual.stride(-1) != 1 and residual is not x
        return super().add(x, residual.flip(-1) + 1 if strided else residual)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Clamp negative offsets to zero."""
        return super().scale(weight, max(offset, 0.0))

    def pair(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the sum in other strides if it has three dimensions."""
        return y, torch.cat((s, s), -1)[..., : s.shape[-1]] if s.dim() == 3 else s


def _records(kind: type[CorrectNorm], properties: Iterable[str], dtypes: Iterable[str]) -> Records:
    """Return the explained records of a run over some items in this process."""
    subject = Subject(kind())
    with TemporaryDirectory() as folder, closing(journal.Journal(Path(folder), "gw0")) as shard:
        for prop in properties:
            for dtype in dtypes:
                item = Item("rms_norm", prop, dtype)
                begun = lambda case, item=item: shard.started(item, case)  # noqa: E731
                verdicts = list(_judged(shard, item, judge_item(item, subject, begun=begun)))

                def again(case: Case, prop: str = prop) -> Any:
                    return judge(subject, prop, case)

                for failure in explained(item, verdicts, again, lambda evidence: "", EVERYTHING):
                    shard.failed(failure, Path("repro.py"))
                shard.finished(item)
        return journal.read(Path(folder))


def _judged(shard: journal.Journal, item: Item, verdicts: Iterable[Any]) -> Iterable[Any]:
    for verdict in verdicts:
        shard.judged(item, verdict)
        yield verdict


def _grouped(records: Records) -> tuple[Cause, ...]:
    return grouped(records, records.failures)


@cache
def _records_of_four() -> Records:
    return _records(FourMistakes, PROPERTIES, ("bfloat16", "float32"))


def _four() -> tuple[Cause, ...]:
    return _grouped(_records_of_four())


def test_four_mistakes_are_four_causes() -> None:
    """Each mistake is one cause, in any number of properties."""
    found: dict[str, list[list[str]]] = {}
    for cause in _four():
        found.setdefault(cause.says, []).append([rate.factor for rate in cause.rates])

    assert 4 == len(_four()), found
    assert [["offset"], ["residual_layout"]] == sorted(found[WRONG_VALUES])
    (raised,) = (said for said in found if said.startswith("TypeError"))
    assert [["weight"]] == found[raised]
    assert ["rank"] == found["an output has strides (#), must be contiguous"][0][:1]


def test_what_is_silently_wrong_comes_before_what_raises_and_what_is_formal() -> None:
    """Cards are ordered by severity, and then by the number of failures."""
    order = [cause.says for cause in _four()]

    assert [WRONG_VALUES, WRONG_VALUES] == order[:2]
    assert order[2].startswith("TypeError")
    assert sorted(cause.severity for cause in _four()) == [cause.severity for cause in _four()]


def test_a_cause_has_rates_its_properties_and_its_smallest_case() -> None:
    """The failing level has its own rate, next to the rates of passing levels."""
    offset = next(cause for cause in _four() if cause.rates[0].factor == "offset")
    (rate,) = offset.rates
    by_level = {each.level: (each.failing, each.judged) for each in rate.levels}

    assert "minus_a_tenth" == rate.levels[0].level
    assert by_level["minus_a_tenth"][0] >= 0.8 * by_level["minus_a_tenth"][1] > 0
    assert {0} == {failing for level, (failing, _) in by_level.items() if level != "minus_a_tenth"}
    assert {"values", "layout", "specials"} <= set(offset.properties)
    assert len(offset.failures) >= 3


def test_a_cause_without_a_failure_has_its_smallest_case() -> None:
    """The report names a case to replay for every cause; with a failure that is the failure's."""
    records = _records_of_four()
    failing = {row.id: row for row in records.rows if row.bad}
    causes = grouped(records, ())

    assert all((cause.case is None) == bool(cause.failures) for cause in _four())
    assert 4 == len(causes)
    for cause in causes:
        assert cause.case is not None
        assert cause.example in {bad.reason for bad in failing[cause.case.id].bad}
        sizes = [
            math.prod(Case.from_data(bad.case).tensors[0][1].shape)
            for row in failing.values()
            for bad in row.bad
            if bad.reason == cause.example and bad.case is not None
        ]
        assert math.prod(cause.case.tensors[0][1].shape) == min(sizes)


class Right(CorrectNorm):
    """An implementation without a mistake."""


def test_a_right_implementation_has_no_causes() -> None:
    """Without a failure no rows are kept and there is no card."""
    records = _records(Right, ("values",), ("bfloat16",))

    assert () == tuple(records.rows)
    assert () == _grouped(records)


class AlwaysWrong(CorrectNorm):
    """An implementation that is wrong in every call."""

    def norm(self, *given: Any) -> Result:
        """Return twice the right result."""
        result = super().norm(*given)
        return result * 2 if isinstance(result, torch.Tensor) else (result[0] * 2, *result[1:])


def test_what_fails_everywhere_is_one_cause_without_a_level() -> None:
    """No factor separates failing from passing."""
    (cause,) = _grouped(_records(AlwaysWrong, ("values", "layout"), ("bfloat16",)))

    assert (WRONG_VALUES, ()) == (cause.says, cause.rates)
    assert cause.judged == cause.cases


MEAN = "the mean is # ulp over # elements, must be within ±#"
SIGNATURES = [
    ("failed", "y[1, 2] = 3.5, must be exactly 3.25 (1 ulp off); 2 of 6 elements outside", WRONG_VALUES),
    ("failed", "s[0] = nan, must lie in [1, 2]; 1 of 1 elements outside", WRONG_VALUES),
    ("failed", "parameters cast to another dtype: y[1] = 2, must be NaN; 2 of 6 elements outside", WRONG_VALUES),
    ("failed", "nothing to compare: y is torch.float32, must be torch.bfloat16", None),
    ("failed", "s is torch.float32, must be torch.bfloat16", "an output is torch.float32, must be torch.bfloat16"),
    ("failed", "y has strides (4, 1, 2), must be contiguous", "an output has strides (#), must be contiguous"),
    ("failed", "3 of 24 elements were never written, the first at (0, 7)", None),
    ("failed", "the mean is +5.4 ulp over 17 elements, must be within ±0.9", MEAN),
    ("failed", "the mean is -5.4 ulp over 17 elements, must be within ±0.9", MEAN),
    ("crashed", "TypeError: shape (2, 3) is not (4,)", "TypeError: shape (#) is not (#)"),
    ("crashed", "parameters moved to other memory: TypeError: 1", "TypeError: #"),
    ("crashed", "AssertionError: 3 rows (kernels.py:34, in norm)", "AssertionError at kernels.py:34, in norm"),
    ("crashed", "killed by SIGSEGV at kernels.py:34, in launch", "killed by SIGSEGV at kernels.py:34, in launch"),
    ("crashed", "killed by SIGSEGV", "killed by SIGSEGV"),
    ("hung", "no answer within 20 s", "gives no answer"),
]


@pytest.mark.parametrize(("status", "reason", "says"), SIGNATURES)
def test_reasons_of_one_cause_have_one_signature(status: str, reason: str, says: str | None) -> None:
    """Numbers and elements are removed; crashes are distinguished by exception and place."""
    found = signature(status, reason)

    assert says in {None, found}
    # other numbers give the same signature, except in the line of a crash
    other = reason.translate(str.maketrans("12", "34")) if ".py" not in reason else reason
    assert found.replace("torch.float34", "torch.float32") == signature(status, other).replace(
        "torch.float34", "torch.float32"
    ).replace("torch.bfloat36", "torch.bfloat16")


def _rows(count: int, fails: Any, seed: int = 0) -> tuple[list[Judged], list[Judged]]:
    """Return random rows of three factors, and the failing ones among them."""
    rng = random.Random(seed)  # noqa: S311
    rows = [
        Judged("rms_norm", "layout", str(place), {f: rng.choice("abcd") for f in ("one", "two", "three")})
        for place in range(count)
    ]
    return rows, [row for row in rows if fails(row.levels)]


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (lambda at: at["one"] == "a", {"one": {"a"}}),
        (lambda at: at["one"] in "ab", {"one": {"a", "b"}}),
        (lambda at: at["one"] == "a" and at["two"] != "b", {"one": {"a"}, "two": {"a", "c", "d"}}),
        (lambda at: True, {}),
    ],
)
def test_a_rule_has_the_levels_that_matter_and_no_others(fails: Any, expected: dict[str, set[str]]) -> None:
    """Random levels of other factors are not part of it."""
    rows, failing = _rows(300, fails)

    assert expected == {factor: set(levels) for factor, levels in conditions(failing, rows).items()}


@pytest.mark.parametrize("seed", range(5))
def test_two_rules_are_told_apart(seed: int) -> None:
    """Mistakes of two different factors with the same message are two causes."""
    rows, failing = _rows(400, lambda at: at["one"] == "a" or (at["two"] == "b" and at["three"] != "c"), seed)
    found = causes._split(WRONG_VALUES, failing, rows)

    assert [{"one"}, {"three", "two"}] == sorted((set(cause.conditions) for cause in found), key=len)
    assert len(failing) == sum(len(cause.failing) for cause in found)


STRAY = (("one", "a"), ("two", "b"))


@pytest.mark.parametrize("seed", range(5))
def test_a_failure_for_another_reason_does_not_split_a_cause(seed: int) -> None:
    """At each level of the rule one more row fails beside it: the rule holds of nearly all others all the same."""
    drawn, _ = _rows(400, bool, seed)
    # levels that all have: more rows fail at one of them and one of the rule's than at both of the rule's
    rows = [replace(row, levels={**row.levels, **dict.fromkeys(("four", "five", "six"), "e")}) for row in drawn]
    failing = [row for row in rows if row.levels["one"] == "a" and row.levels["two"] == "b"]
    stray = [next(row for row in rows if row.levels[f] == level and row not in failing) for f, level in STRAY]
    first, *rest = causes._split(WRONG_VALUES, [*failing, *stray], rows)

    assert {"one": frozenset("a"), "two": frozenset("b")} == first.conditions
    assert failing == first.failing
    assert 1 == len(rest)
