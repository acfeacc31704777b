"""Every call inside a claim runs; just outside of the claim a call is refused, or right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from conformance.adapter import Crashed, Declined, Unable, poisons
from conformance.calls.call import Subject, perform
from conformance.calls.claim import outside
from conformance.calls.verdict import BAD, Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, EVERYTHING, Numbers, Scope
from conformance.operations import Operation
from conformance.properties.passive import judge_call
from conformance.properties.property import Property


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Judge one call: it must run inside the claim, may be refused outside, and must be right where it runs."""
    claim = subject.traits(case.operation).claim
    beyond = outside(claim or EVERYTHING, case)
    made = perform(subject, case)
    match made.outcome:
        case Unable():
            return (without_outputs("claim", case, made.outcome),)
        case Crashed(how) if not beyond or poisons(how):
            # a kernel that reads out of bounds does not refuse
            return (Verdict("claim", case, Status.CRASHED, how),)
        case Declined(reason=reason) if claim and not beyond:
            return (Verdict("claim", case, Status.FAILED, f"declined what is claimed: {reason}"),)
        case Declined() | Crashed():
            return (Verdict("claim", case, Status.PASSED),)
    wrong = next((verdict for verdict in judge_call(subject, case) if verdict.status in BAD), None)
    if wrong is None:
        return (Verdict("claim", case, Status.PASSED),)
    where = f"outside of what is claimed ({beyond}) it neither refuses nor is right: " if beyond else ""
    return (replace(wrong, property="claim", reason=f"{where}{wrong.property}: {wrong.reason}"),)


def given(operation: Operation, scope: Scope) -> tuple[Case, ...]:
    """Return calls on both sides of every edge of a claim; none where nothing is claimed."""
    if scope.taken == EVERYTHING:
        return ()
    return tuple(dict.fromkeys([*_levels(operation, scope), *_sizes(operation, scope)]))


def _levels(operation: Operation, scope: Scope) -> Iterator[Case]:
    """Yield a plain call at every level of every factor that is claimed in part.

    Past the claim only levels of tensors are tried: the implementation may have no argument for a flag. A layout
    is tried in every rank that is claimed: some are another layout in one alone.
    """
    free = replace(scope, taken=EVERYTHING)
    levels = scope.levels(operation.factors)
    plain, ranks = {name: chosen[0] for name, chosen in levels.items()}, levels["rank"]
    for name, taken in scope.taken.levels:
        for level in operation.factors.get(name, ()):
            if level in taken or name in {"rank", "index"} or name.endswith("_layout"):
                sized = free.sized(**_exact(scope)) if name != "width" else free
                beyond = level not in taken and name.endswith("_layout")
                for rank in ranks if beyond else (plain["rank"],):
                    given = {**plain, "rank": rank, name: level}
                    yield operation.complete(given, random.Random(level), sized)  # noqa: S311
    for dtype in DTYPES:
        if dtype not in dict(scope.taken.levels).get("dtype", DTYPES):
            other = replace(free, dtype=dtype).sized(**_exact(scope))
            yield operation.complete(plain, random.Random(dtype), other)  # noqa: S311


def _exact(scope: Scope) -> dict[str, int]:
    """Return the columns of plain calls, where they are claimed."""
    columns = scope.taken.numbers("columns")
    return {} if columns is None else {"columns": columns[0]}


def _sizes(operation: Operation, scope: Scope) -> Iterator[Case]:
    """Yield a plain call at the ends of every size that is claimed, and just past them."""
    plain = {name: chosen[0] for name, chosen in scope.levels(operation.factors).items()}
    # a plain row is one group
    for name, exact in (("rows", "rows"), ("columns", "columns"), ("group_size", "columns")):
        numbers = scope.taken.numbers(name)
        for number in () if numbers is None else _edges(numbers):
            sized = replace(scope, taken=EVERYTHING).sized(**{**_exact(scope), exact: number})
            if number * max(1, dict(sized.exact).get("columns", 1)) <= scope.max_elements or exact == "columns":
                yield operation.complete(plain, random.Random(number), sized)  # noqa: S311


def _edges(numbers: Numbers) -> list[int]:
    """Return the ends of some numbers, their neighbours inside, and the numbers just past the ends."""
    ends = {numbers[0], numbers[-1], *numbers[:2], numbers[0] - 1, numbers[-1] + 1, numbers[0] + 1}
    return sorted(number for number in ends if number > 0)


CLAIM = Property(
    "claim",
    "every call inside a claim runs; outside of it a call is refused, or right",
    judge,
    given=given,
    beyond_claims=True,
)
