"""Causes of failures in words: a card each."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.cases.case import Case
from conformance.report.document import Cause, Level, Rate, Report
from conformance.runs.failed import Failed

MOST_IDS = 8  # a card must stay readable; the rest is in report.json


@dataclass(frozen=True, slots=True)
class Card:
    """One cause of failures: where and how often it shows, and its failures, the smallest case first.

    Where it has no failures, ``example`` is one in words, and ``case`` its case, if that is known.
    """

    number: int
    head: str
    example: str
    case: Case | None
    often: str
    levels: tuple[str, ...]  # the rates in words, a line for each factor
    shows: str
    rates: tuple[tuple[str, tuple[tuple[str, str, float], ...]], ...]  # by factor: level, rate, share that fails
    failures: tuple[Failed, ...]
    others: str  # the cases of further failures, to replay

    @property
    def lines(self) -> tuple[str, ...]:
        """Return how often and where the cause shows, where no table has the rates."""
        return self.often, *self.levels, self.shows


def cards(report: Report) -> tuple[Card, ...]:
    """Return a card for every cause of failures, the worst first."""
    return tuple(_card(number, cause, report) for number, cause in enumerate(report.causes, start=1))


def _card(number: int, cause: Cause, report: Report) -> Card:
    properties = ", ".join(f"{prop} ({count})" for prop, count in cause.properties.items())
    failures = tuple(report.failures[place] for place in cause.failures)
    return Card(
        number=number,
        head=f"{cause.says}: {', '.join(cause.operations)}, {', '.join(cause.dtypes)}",
        example=cause.example if cause.case is None else f"case {cause.case.id}: {cause.case}\n{cause.example}",
        case=cause.case,
        often=_how_often(cause),
        levels=tuple(map(_elsewhere, cause.rates)),
        shows=f"shows in {properties}",
        rates=tuple((rate.factor, tuple(map(_rate, rate.levels))) for rate in cause.rates),
        failures=failures,
        others=_others(failures),
    )


def _how_often(cause: Cause) -> str:
    """Return how many cases fail that meet every condition of a cause, and how many fail beside them."""
    if not cause.rates:
        return f"{cause.cases:,} of {cause.judged:,} judged cases fail"
    # the levels of a rate are counted among cases that meet all other conditions
    inside = [level for level in cause.rates[0].levels if level.level in cause.rates[0].where]
    failing, judged = sum(level.failing for level in inside), sum(level.judged for level in inside)
    where = " and ".join(_told(rate) for rate in cause.rates)
    others = f"; {cause.cases - failing:,} fail elsewhere" * (cause.cases > failing)
    return f"{failing:,} of {judged:,} judged cases fail where {where}{others}"


def _others(failures: tuple[Failed, ...]) -> str:
    ids = list(dict.fromkeys(failure.id for failure in failures))[1:]
    more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
    return f"also cases {', '.join(ids[:MOST_IDS])}{more}" if ids else ""


def _told(rate: Rate) -> str:
    return f"{rate.factor} is {' or '.join(rate.where)}"


def _elsewhere(rate: Rate) -> str:
    """Return the rate of every level of the rule, and one rate for all other levels."""
    inside = [level for level in rate.levels if level.level in rate.where]
    outside = [level for level in rate.levels if level.level not in rate.where]
    failing, judged = sum(level.failing for level in outside), sum(level.judged for level in outside)
    said = [f"{name} {share}" for name, share, _ in map(_rate, inside)]
    said += [f"others {failing:,} of {judged:,}"] * bool(outside)
    return f"{rate.factor}: {', '.join(said)}"


def _rate(level: Level) -> tuple[str, str, float]:
    return level.level, f"{level.failing:,} of {level.judged:,}", level.failing / level.judged
