"""Causes of a run's failing verdicts: failures of one kind, the factor levels where they show, and how often."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.report import document
from conformance.report.signature import WRONG_VALUES, severity, signature
from conformance.runs.explain import NOTHING_TO_COMPARE, SAME_CALL
from conformance.runs.failed import Failed
from conformance.runs.journal import Bad, Judged, Records

# a rule is a cause of its own from this share of its cases failing, and better where nearly all do
SURE, CERTAIN = 0.8, 0.95
# and may be a part of another rule from this share
SOME = 0.25
# failures to be expected among the rows that a condition excludes, if the condition did not matter
EXPECTED = 3.0
# two faults are one from this share of common cases
ALIKE = 0.6
# rows in which rules are searched; rates are of all rows
MOST_ROWS = 1500
MOST_PAIRS = 4  # pairs of levels that a search of rules begins with
ABSENT = "absent"  # the level of a factor that a case does not have

Row = Judged
Conditions = dict[str, frozenset[str]]  # levels by factor: a case meets all of them


@dataclass(slots=True, eq=False)
class Cause:
    """Verdicts that fail in the same way, their rows, and the rows that could have failed."""

    says: str
    conditions: Conditions
    failing: list[Row]
    judged: list[Row]
    bad: list[tuple[Row, Bad]] = field(default_factory=list)

    @property
    def inside(self) -> list[Row]:
        """Return the judged rows that meet every condition."""
        return _meeting(self.judged, self.conditions)


def grouped(records: Records, failures: Sequence[Failed]) -> tuple[document.Cause, ...]:
    """Return the causes of a run, the worst first, as a report has them.

    Each has the places of its ``failures``, the one with the smallest case first. A failure like no verdict
    is a cause of its own.
    """
    causes = list(_joined(list(_causes(records.rows))))
    owners = {(row.operation, bad.property, row.id): cause for cause in causes for row, bad in reversed(cause.bad)}
    alike = {(row.operation, cause.says): cause for cause in reversed(causes) for row in cause.failing}
    places: dict[int, list[int]] = {}
    found = []
    for place, failure in enumerate(failures):
        key = failure.operation, failure.property, failure.original.id
        owner = owners.get(key) or alike.get((key[0], signature(failure.status, failure.reason)))
        if owner is not None:
            places.setdefault(id(owner), []).append(place)
        else:
            found.append(_of_one(place, failure))
    found += [_written(cause, by_size(cause.says, places.get(id(cause), []), failures)) for cause in causes]
    return tuple(sorted(found, key=lambda cause: (cause.severity, -cause.cases, cause.says)))


# --- rules ------------------------------------------------------------------------------------------------------


def _causes(rows: Sequence[Row]) -> Iterator[Cause]:
    """Yield the causes of each operation and signature."""
    clusters: dict[tuple[str, str], list[tuple[Row, Bad]]] = {}
    for row in rows:
        for each in row.bad:
            clusters.setdefault((row.operation, signature(each.status, each.reason)), []).append((row, each))
    for (operation, says), bad in clusters.items():
        failing = list({id(row): row for row, _ in bad}.values())
        properties = {row.property for row in failing}
        properties |= SAME_CALL if properties & SAME_CALL else set()
        known = set(map(id, failing))
        judged = [
            row
            for row in rows
            if row.operation == operation
            and row.property in properties
            # a case that ended otherwise did not reach this failure
            and (id(row) in known or not any(map(_ends_early, row.bad)))
        ]
        found = _split(says, failing, judged)
        if bad[0][1].status == Status.CRASHED:
            # one exception from one place is one cause, whichever properties show it
            found = [Cause(says, found[0].conditions, failing, judged)]
        for cause in found:
            inside = set(map(id, cause.failing))
            cause.bad = [(row, each) for row, each in bad if id(row) in inside]
            yield cause


def _ends_early(bad: Bad) -> bool:
    return bad.status != Status.FAILED or bad.reason.startswith(NOTHING_TO_COMPARE)


def _split(says: str, failing: list[Row], judged: list[Row]) -> list[Cause]:
    """Return the fewest rules that are met by the failing rows, and by few others."""
    some_failing, some_judged = _sample(failing, judged)
    whole = Cause(says, conditions(some_failing, some_judged), failing, judged)
    share = len(failing) / max(len(whole.inside), 1)
    if share >= SURE:
        return [whole]
    best: tuple[bool, int, Conditions] = (False, 0, {})
    pairs = _pairs(some_failing, some_judged)
    for start in (*({factor: frozenset([level])} for factor, level in _levels(some_failing)), *pairs):
        part = _meeting(some_failing, start)
        found = conditions(part, some_judged)
        hits, inside = len(_meeting(some_failing, found)), len(_meeting(some_judged, found))
        if len(part) >= EXPECTED and SURE <= hits / inside > share:
            best = max(best, (hits / inside >= CERTAIN, hits, found), key=lambda rule: rule[:2])
    _, hits, found = best
    explained = set(map(id, _meeting(failing, found)))
    rest = [row for row in failing if id(row) not in explained]
    if not hits or not rest:
        return [whole]
    outside = set(map(id, _meeting(judged, found)))
    first = Cause(says, found, [row for row in failing if id(row) in explained], judged)
    others = _split(says, rest, [row for row in judged if id(row) not in outside])
    alike = next((other for other in others if set(other.conditions) == set(first.conditions)), None)
    if alike is not None and len(alike.failing) >= SOME * len(alike.inside):
        # levels of the same factors, at which more or fewer fail: one cause
        for factor, levels in first.conditions.items():
            alike.conditions[factor] |= levels
        alike.failing, alike.judged = [*first.failing, *alike.failing], judged
        return others
    return [first, *others]


def conditions(failing: Sequence[Row], judged: Sequence[Row]) -> Conditions:
    """Return the levels that every failing row has and many others lack: the factor that excludes most first."""
    found: Conditions = {}
    left = list(judged)
    while True:
        expected = len(failing) / max(len(left), 1)
        best: tuple[int, str, frozenset[str]] | None = None
        for factor in sorted({name for row in failing for name in row.levels}, key=lambda name: (len(name), name)):
            levels = frozenset(row.levels.get(factor, ABSENT) for row in failing)
            excluded = sum(row.levels.get(factor, ABSENT) not in levels for row in left)
            better = best is None or (excluded, -len(levels)) > (best[0], -len(best[2]))
            if excluded * expected >= EXPECTED and better:
                best = excluded, factor, levels
        if best is None:
            return found
        found[best[1]] = best[2]
        left = _meeting(left, {best[1]: best[2]})


def _pairs(failing: Sequence[Row], judged: Sequence[Row]) -> list[Conditions]:
    """Return the pairs of levels at which nearly all rows fail, those with most failing rows.

    A failure for another reason at one of the levels hides the other from a search that begins with one level.
    """
    having = dict.fromkeys(_levels(failing), 0)
    bad = dict(having)
    for rows, found in ((judged, having), (failing, bad)):
        for place, row in enumerate(rows):
            for pair in row.levels.items():
                if pair in found:
                    found[pair] |= 1 << place
    sure: list[tuple[int, Conditions]] = []
    for one, other in itertools.combinations(having, 2):
        hits = (bad[one] & bad[other]).bit_count()
        if hits >= EXPECTED and hits >= SURE * (having[one] & having[other]).bit_count():
            sure.append((hits, {name: frozenset([level]) for name, level in (one, other)}))
    return [pair for _, pair in sorted(sure, key=lambda each: -each[0])[:MOST_PAIRS]]


def _meeting(rows: Sequence[Row], wanted: Conditions) -> list[Row]:
    return [row for row in rows if all(row.levels.get(f, ABSENT) in levels for f, levels in wanted.items())]


def _levels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return every level that rows have, the most frequent one first."""
    return [pair for pair, _ in Counter(pair for row in rows for pair in row.levels.items()).most_common()]


def _sample(failing: list[Row], judged: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return both lists, or an even sample of them that keeps their proportion."""
    step = -(-len(judged) // MOST_ROWS)
    if step <= 1 or len(failing) // step < EXPECTED:
        return failing, judged
    chosen = judged[::step]
    return [row for row in chosen if id(row) in set(map(id, failing))], chosen


def _joined(causes: list[Cause]) -> Iterator[Cause]:
    """Join causes that have one rule, or nearly the same cases: a fault shows in several properties."""
    kept: list[Cause] = []
    # wrong values first: failures of other properties are their symptoms
    for cause in sorted(causes, key=lambda c: (c.says != WRONG_VALUES, -len(c.failing))):
        same = next((other for other in kept if _same(other, cause)), None)
        if same is None:
            kept.append(cause)
            continue
        known = set(map(id, same.failing))
        same.failing += [row for row in cause.failing if id(row) not in known]
        judged = set(map(id, same.judged))
        same.judged = [*same.judged, *(row for row in cause.judged if id(row) not in judged)]
        same.bad += cause.bad
    yield from kept


def _same(one: Cause, other: Cause) -> bool:
    operations = {row.operation for row in one.failing} == {row.operation for row in other.failing}
    if one.says == other.says and not operations:
        return one.conditions == other.conditions and (bool(one.conditions) or one.says != WRONG_VALUES)
    crashes = all(cause.bad[0][1].status == Status.CRASHED for cause in (one, other))
    if not operations or one.says == other.says or crashes:
        return False
    if one.conditions and next(iter(one.conditions)) in other.conditions:
        # a symptom shows at levels of its cause
        return 2 * len(_meeting(other.failing, one.conditions)) > len(other.failing)
    first, second = ({row.id for row in cause.failing} for cause in (one, other))
    return len(first & second) >= ALIKE * len(first | second)


# --- as it is written -------------------------------------------------------------------------------------------


def _written(cause: Cause, places: list[int]) -> document.Cause:
    properties = Counter(prop for _, prop in {(row.id, bad.property) for row, bad in cause.bad})
    status = Counter(str(bad.status) for _, bad in cause.bad).most_common(1)[0][0]
    case, example = (None, cause.bad[0][1].reason) if places else _smallest(cause)
    return document.Cause(
        says=cause.says,
        severity=severity(cause.says, status, properties),
        operations=tuple(dict.fromkeys(row.operation for row in cause.failing)),
        dtypes=tuple(sorted({row.levels["dtype"] for row in cause.failing})),
        properties=dict(properties.most_common()),
        cases=len(cause.failing),
        judged=len({id(row) for row in (*cause.inside, *cause.failing)}),
        rates=tuple(_rate(cause, factor) for factor in cause.conditions),
        failures=tuple(places),
        example=example,
        case=case,
    )


def _smallest(cause: Cause) -> tuple[Case | None, str]:
    """Return the smallest case that fails, and the reason; no case where the journal has none."""
    known = [(Case.from_data(bad.case), bad.reason) for _, bad in cause.bad if bad.case is not None]
    if not known:
        return None, cause.bad[0][1].reason
    return min(known, key=lambda each: sum(prod(spec.shape) for _, spec in each[0].tensors))


def _rate(cause: Cause, factor: str) -> document.Rate:
    """Return, for every level, the share of failing rows among those that meet all other conditions."""
    others = {name: levels for name, levels in cause.conditions.items() if name != factor}
    counts: dict[str, list[int]] = {}
    failing = set(map(id, cause.failing))
    for row in _meeting(cause.judged, others):
        count = counts.setdefault(row.levels.get(factor, ABSENT), [0, 0])
        count[0] += id(row) in failing
        count[1] += 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1][0] / entry[1][1], entry[0]))
    levels = tuple(document.Level(level, bad, of) for level, (bad, of) in ordered)
    return document.Rate(factor, tuple(sorted(cause.conditions[factor])), levels)


def _of_one(place: int, failure: Failed) -> document.Cause:
    """Return a failure as a cause of its own."""
    says, properties = signature(failure.status, failure.reason), {failure.property: 1}
    return document.Cause(
        says=says,
        severity=severity(says, failure.status, properties),
        operations=(failure.operation,),
        dtypes=(failure.dtype,),
        properties=properties,
        cases=1,
        judged=1,
        rates=(),
        failures=(place,),
        example=failure.reason,
    )


def by_size(says: str, places: Iterable[int], failures: Sequence[Failed]) -> list[int]:
    """Return the places of a cause's failures in the order of their cases' sizes, symptoms last."""

    def order(place: int) -> tuple[bool, tuple[int, int]]:
        failure = failures[place]
        return signature(failure.status, failure.reason) != says, size(failure)

    return sorted(places, key=order)


def size(failure: Failed) -> tuple[int, int]:
    """Return the size of a failure's case: elements, and the length of its text, short for plain layouts."""
    text = str(failure.case.to_data()["tensors"].values())
    return sum(prod(spec.shape) for _, spec in failure.case.tensors), len(text)
