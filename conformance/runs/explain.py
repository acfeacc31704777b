"""Failures from an item's failing verdicts: the smallest case with the same cause, and remarks on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from conformance.calls.claim import outside
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import Taken
from conformance.cases.shrink import essentials, keeps_the_cause, shrink
from conformance.operations import OPERATIONS
from conformance.properties.discovery import Evidence
from conformance.runs.item import Failure, Item

# a failure costs calls, a death one process each, a hang the whole time limit
TRIES = {Status.FAILED: 120, Status.CRASHED: 60, Status.HUNG: 0}
DEATH_TRIES = 10
# properties that one call judges under several names, which depend on the case
SAME_CALL = frozenset({"values", "layout", "specials"})
NOTHING_TO_COMPARE = "nothing to compare"

Judge = Callable[[Case], tuple[Verdict, ...]]


def explained(
    item: Item,
    verdicts: Sequence[Verdict],
    judge: Judge,
    follow: Callable[[Evidence], str],
    taken: Taken,
) -> list[Failure]:
    """Return a failure for every property that does not hold in an item, in the order in which they showed.

    ``judge`` calls the implementation again with a case and gives the verdicts; ``follow`` says what outputs are
    instead, from all failing cases of the item together. The first failure with wrong outputs gets that remark.
    No call outside of those ``taken`` is made, unless the failing one is.
    """
    first: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.status in BAD:
            first.setdefault(verdict.property, verdict)
    evidence = evidence_of(verdicts)
    said = follow(evidence) if evidence.failing else ""
    failures = []
    for verdict in first.values():
        failure, remarks = _smallest(item, verdict, judge, taken)
        if said and wrong_outputs(verdict):
            remarks, said = [*remarks, said], ""
        alike = [each for each in verdicts if each.property == verdict.property]
        failures.append(Failure(item, failure, verdict.case, "\n".join(remarks), _widest(alike)))
    return failures


def _widest(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the failing verdict with the finest picture of wrong elements, if one has such a picture."""

    def cells(verdict: Verdict) -> int:
        places = verdict.comparison.places
        return len(places.counts) if places is not None and verdict.status is Status.FAILED else 0

    widest = max(verdicts, key=cells)
    return widest if cells(widest) else None


def evidence_of(verdicts: Iterable[Verdict]) -> Evidence:
    """Return the cases of an item that failed with outputs, and those whose outputs were right."""
    failing = dict.fromkeys(verdict.case for verdict in verdicts if wrong_outputs(verdict))
    right = (v.case for v in verdicts if v.status is Status.PASSED and v.comparison.elements)
    return Evidence(tuple(failing), tuple(case for case in dict.fromkeys(right) if case not in failing))


def wrong_outputs(verdict: Verdict) -> bool:
    """Return whether a verdict's outputs break the contract, or were not compared because of another fault."""
    outside = verdict.comparison.outside > 0 or verdict.reason.startswith(NOTHING_TO_COMPARE)
    return verdict.status is Status.FAILED and outside


def _smallest(item: Item, failed: Verdict, judge: Judge, taken: Taken) -> tuple[Verdict, list[str]]:
    """Return the verdict on the smallest case that fails for the same cause, and remarks."""
    tries = tries_of(failed)
    free = bool(outside(taken, failed.case))

    def simpler(case: Case) -> Iterator[Case]:
        return (each for each in OPERATIONS[item.operation].simpler(case) if free or not outside(taken, each))

    if not tries:
        return failed, []
    verdicts = _Remembered(judge)
    if verdicts.alike(failed, failed.case) is None:
        return failed, [_NOT_AGAIN]
    passing = _passing_steps(failed, simpler(failed.case), verdicts, tries // 2)

    def still_fails(case: Case) -> bool:
        return keeps_the_cause(case, failed.case, passing) and verdicts.alike(failed, case) is not None

    smallest, settled = shrink(failed.case, simpler, still_fails, tries=tries)
    verdict = verdicts.alike(failed, smallest) or failed
    needs = essentials(smallest, _passing_steps(failed, simpler(smallest), verdicts, tries)) if settled else ()
    if needs:
        return verdict, [f"passes without any one of: {'; '.join(needs)}"]
    needs = essentials(failed.case, passing)
    return verdict, [f"as drawn it passes without any one of: {'; '.join(needs)}"] * bool(needs)


_NOT_AGAIN = "the same case passes when it is judged again: it fails by chance, or for calls before it"


def tries_of(failed: Verdict) -> int:
    """Return how many simpler cases are tried for a failure."""
    died = failed.status is Status.CRASHED and failed.reason.startswith(("killed", "ended", "held"))
    return DEATH_TRIES if died else TRIES.get(failed.status, 0)


class _Remembered:
    """Verdicts on cases, each judged once."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[Case, tuple[Verdict, ...]] = {}

    def of(self, case: Case) -> tuple[Verdict, ...]:
        if case not in self._known:
            self._known[case] = self._judge(case)
        return self._known[case]

    def alike(self, failed: Verdict, case: Case) -> Verdict | None:
        """Return the verdict on a case that fails as ``failed`` does: same property, status, kind of crash."""
        for verdict in self.of(case):
            same = verdict.property == failed.property and verdict.status is failed.status
            if same and (failed.status is not Status.CRASHED or crash(verdict.reason) == crash(failed.reason)):
                return verdict
        return None

    def passes(self, failed: Verdict, case: Case) -> bool:
        """Return whether a case was judged in the property of ``failed``, and holds."""
        names = SAME_CALL if failed.property in SAME_CALL else {failed.property}
        found = [verdict.status for verdict in self.of(case) if verdict.property in names]
        return bool(found) and set(found) == {Status.PASSED}


def crash(reason: str) -> str:
    """Return the kind of a crash: the exception's type, or how the process ended."""
    return reason.partition(":")[0]


def _passing_steps(
    failed: Verdict, candidates: Iterable[Case], verdicts: _Remembered, most: int
) -> Collection[Case]:
    """Return which of the first ``most`` simplifications were judged and passed."""
    return [case for _, case in zip(range(most), candidates, strict=False) if verdicts.passes(failed, case)]
