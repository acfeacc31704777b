"""Survey of the calls of an operation that an implementation takes, where it claims nothing.

The calls of real models come first, then plain ones at usual widths, then a covering array over all factors.
Starting from calls that ran, one factor, dtype or width at a time is changed until nothing new is found; for calls
that did not run although each of their levels is taken, the survey searches the pair of levels at fault. The ends
of the widths are bisected. A survey makes at most ``budget`` calls in all.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.calls.claim import from_data, sizes_of, to_data
from conformance.cases.case import Case
from conformance.cases.corpus import model_shapes
from conformance.cases.factors import (
    DTYPES,
    EVERYTHING,
    OF_VALUES,
    Assignment,
    Level,
    Numbers,
    Scope,
    Taken,
    covering_array,
)
from conformance.operations import OPERATIONS
from conformance.operations.levels import effective_levels

BUDGET = {"quick": 150}
MORE = 400  # of every other profile
MOST_CRASHES = 20  # of different kinds, after which a survey ends
MOST_HANGS = 2  # after which a survey ends as well: each costs the limit of a call
MODEL_TOKENS = 4
# widths to try, the usual ones first
COLUMNS = (128, 64, 256, 1024, 4096, 5120, 2560, 100, 7, 1, 2, 12, 24, 33, 769, 8192, 8193, 20480)
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
BASES = 3  # calls that ran, from which each step outward is tried
REDRAWN = 12  # draws of sizes at which a level shows
PASSES = 3  # over all levels without a call that ran
MOST_REFUSALS = 5  # reasons that are kept


@dataclass(frozen=True, slots=True)
class Tried:
    """Result of one call made only to find out whether it is taken.

    ``reason`` says why it is not, nothing where it ran; ``crash``: it raised, and did not refuse; ``hung``: it did
    not return. ``programs`` counts those of Triton's interpreter.
    """

    reason: str = ""
    crash: bool = False
    hung: bool = False
    programs: int = 0


Try = Callable[[Case], Tried]


@dataclass(frozen=True, slots=True)
class Survey:
    """Calls of an operation that an implementation takes, and how that is known.

    ``calls`` were made for the survey, ``ran`` of them ran; none where it is ``claimed``. ``refusals`` are the
    reasons of the others, the most frequent first; ``crashes`` are cases that raised, one of each kind.
    ``programs``: of Triton's interpreter, for a row.
    """

    taken: Taken = EVERYTHING
    claimed: bool = False
    calls: int = 0
    ran: int = 0
    refusals: tuple[tuple[str, int], ...] = ()
    crashes: tuple[Case, ...] = ()
    programs: float = 0.0

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "taken": to_data(self.taken),
            "claimed": self.claimed,
            "calls": self.calls,
            "ran": self.ran,
            "refusals": [list(refusal) for refusal in self.refusals],
            "crashes": [case.to_data() for case in self.crashes],
            "programs": self.programs,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Survey:
        """Return the survey that :meth:`to_data` wrote."""
        return cls(
            from_data(data["taken"]),
            data["claimed"],
            data["calls"],
            data["ran"],
            tuple((reason, count) for reason, count in data["refusals"]),
            tuple(map(Case.from_data, data["crashes"])),
            data["programs"],
        )


def budget_of(profile: str) -> int:
    """Return the most calls that the survey of an operation makes: under a tenth of those of the profile."""
    return BUDGET.get(profile, MORE)


def of_claim(operation: str, taken: Taken, attempt: Try, *, device: str, seed: int) -> Survey:
    """Return the survey of a claim: one call tells whether kernels are interpreted."""
    search = _Search(operation, attempt, device, seed, budget=1)
    scope = Scope(dict(taken.levels).get("dtype", DTYPES)[0], device=device, taken=taken)
    search.run({name: levels[0] for name, levels in scope.levels(search.factors).items()}, scope)
    return Survey(taken, claimed=True, programs=search.programs())


def survey(operation: str, attempt: Try, *, device: str, seed: int, budget: int) -> Survey:
    """Return what is taken of an operation, found with at most ``budget`` calls."""
    search = _Search(operation, attempt, device, seed, budget)
    search.begin()
    taken = search.outward() if search.refused else EVERYTHING
    return Survey(
        taken,
        calls=search.calls,
        ran=len(search.ran),
        refusals=tuple(Counter(reason for _, reason in search.refused).most_common(MOST_REFUSALS)),
        crashes=tuple(search.crashes.values()),
        programs=search.programs(),
    )


@dataclass(slots=True)
class _Search:
    """Calls made so far, and the steps of a survey."""

    operation: str
    attempt: Try
    device: str
    seed: int
    budget: int
    calls: int = 0
    hangs: int = 0
    ran: list[Case] = field(default_factory=list)
    refused: list[tuple[Case, str]] = field(default_factory=list)
    crashes: dict[str, Case] = field(default_factory=dict)
    known: dict[Case, bool] = field(default_factory=dict)
    work: list[tuple[int, int]] = field(default_factory=list)  # rows and programs of calls that ran

    @property
    def factors(self) -> Mapping[str, tuple[str, ...]]:
        """Return the operation's factors with one level of values: no call is refused for its numbers."""
        described = OPERATIONS[self.operation]
        plain = {name: levels[:1] for name, levels in described.factors.items() if name in OF_VALUES}
        return {**described.factors, **plain}

    def programs(self) -> float:
        """Return how many interpreted programs a row takes, from the call with the most rows."""
        rows, programs = max(self.work, default=(1, 0))
        return programs / max(rows, 1)

    def run(self, assignment: Assignment, scope: Scope) -> bool | None:
        """Make one call and return whether it ran; None where the budget is spent."""
        return self.make(OPERATIONS[self.operation].complete(assignment, random.Random(self.seed), scope))  # noqa: S311

    def make(self, case: Case) -> bool | None:
        """Make one call, unless it was made before, and return whether it ran; None where the budget is spent."""
        if case in self.known:
            return self.known[case]
        if self.calls >= self.budget or len(self.crashes) >= MOST_CRASHES or self.hangs >= MOST_HANGS:
            return None
        self.calls += 1
        tried = self.attempt(case)
        self.known[case] = not tried.reason
        if tried.reason:
            self.refused.append((case, tried.reason))
        else:
            self.ran.append(case)
            self.work.append((sizes_of(case)["rows"], tried.programs))
        self.hangs += tried.hung
        if tried.crash:
            self.crashes.setdefault(_kind(tried.reason), case)
        return not tried.reason

    def begin(self) -> None:
        """Make the calls of real models, plain ones at usual widths, and those of the covering array."""
        described = OPERATIONS[self.operation]
        for shape in model_shapes():
            if shape.operation == self.operation and self.calls < self.budget // 8:
                self.make(described.model_case(shape, MODEL_TOKENS))
        plain = {name: levels[0] for name, levels in self.factors.items()}
        for columns, rank in itertools.product(COLUMNS[:2], ("3", "2")):
            self.run({**plain, "rank": rank}, self._scope("bfloat16", columns))
        # where nothing has run yet the search for a first call goes on until the budget is spent
        for number in itertools.count():
            rows = covering_array({**self.factors, "dtype": DTYPES}, 2, self.seed + number)
            for row in rows:
                enough = self.ran and self.calls >= self.budget // 2
                if enough or self.run(row, self._scope(row["dtype"])) is None:
                    return
            if self.ran:
                return

    def outward(self) -> Taken:
        """Change one thing at a time of calls that ran, and put the results together."""
        if not self.ran:
            return EVERYTHING
        every = {"dtype": DTYPES, **self.factors}
        open_levels = [(name, level) for name in every if name not in _SIZED for level in every[name]]
        for _ in range(PASSES):
            seen = self._seen()
            unseen = [(name, level) for name, level in open_levels if level not in seen[name]]
            if not sum(self._reached({name: level}) for name, level in unseen):
                break
        columns = self._columns()
        seen = self._seen()
        levels = tuple(
            (name, tuple(level for level in every[name] if level in seen[name]))
            for name in every
            if name not in _SIZED and seen[name] and not set(every[name]) <= seen[name]
        )
        found = Taken(levels, () if columns is None else (("columns", columns),))
        return replace(found, apart=self._apart(found))

    def _seen(self) -> dict[str, set[str]]:
        """Return the levels that calls ran with."""
        seen: dict[str, set[str]] = {"dtype": set(), **{name: set() for name in self.factors}}
        for case in self.ran:
            for name, level in self._levels(case).items():
                seen[name].add(level)
        return seen

    def _reached(self, changes: Assignment) -> bool:
        """Return whether a call that ran still does with some levels changed; try a few such calls."""
        bases = self.ran[:: max(1, len(self.ran) // BASES)][:BASES]
        return any(self._changed(base, changes) for base in bases)

    def _changed(self, base: Case, changes: Assignment) -> bool | None:
        levels = {**self._assignment(base), **changes}
        columns = sizes_of(base).get("columns")
        scope = self._scope(levels["dtype"], columns)
        described = OPERATIONS[self.operation]
        for number in range(REDRAWN):
            case = described.complete(levels, random.Random(f"{self.seed}/{number}"), scope)  # noqa: S311
            # some sizes hide a level (one row cannot be transposed), or are no multiple of a number of groups
            if changes.items() <= self._levels(case).items() and sizes_of(case).get("columns") == columns:
                break
        return self.make(case)

    def _assignment(self, case: Case) -> dict[str, str]:
        """Return a level of every factor: the case's own, the plainest of those that it has none of."""
        return {**{name: every[0] for name, every in self.factors.items()}, **self._levels(case)}

    def _columns(self) -> Numbers | None:
        """Return the widths that are taken, None for all."""
        if OPERATIONS[self.operation].token_axes:
            return None
        ran = {sizes_of(case)["columns"] for case in self.ran}
        refused: set[int] = set()
        for columns in COLUMNS:
            self._widened(columns, ran, refused)
        found = numbers(ran, refused)
        # the step shows in the next width of the range
        while isinstance(found, range) and self._widened(found[0] + found.step, ran, refused) is False:
            found = numbers(ran, refused)
        if isinstance(found, range):
            in_steps = [n for n in refused if n % found.step == 0]
            above = min((n for n in in_steps if n > found[-1]), default=None)
            below = max((n for n in in_steps if n < found[0]), default=0)
            self._bisect(found[-1], above or found[-1], found.step, ran, refused)
            self._bisect(found[0], below, -found.step, ran, refused)
        return numbers(ran, refused)

    def _bisect(self, taken: int, beyond: int, step: int, ran: set[int], refused: set[int]) -> None:
        """Try widths in steps between a taken one and one beyond, until the last taken width is known."""
        while (between := len(range(taken, beyond, step)) - 1) > 0:
            middle = taken + step * ((between + 1) // 2)
            runs = self._widened(middle, ran, refused)
            if runs is None:
                return
            taken, beyond = (middle, beyond) if runs else (taken, middle)

    def _widened(self, columns: int, ran: set[int], refused: set[int]) -> bool | None:
        """Return whether so many columns ran in a plain call, and add them to one of the sets; None: not tried."""
        plain = {**self._assignment(self.ran[0]), "width": "tile"}
        if "group" in plain:
            plain["group"] = "none"
        took = columns in ran or self.run(plain, self._scope(plain["dtype"], columns))
        if took is not None:
            (ran if took else refused).add(columns)
        return took

    def _apart(self, taken: Taken) -> frozenset[frozenset[Level]]:
        """Return pairs of levels of which each is taken, but not both together."""
        allowed = dict(taken.levels)
        together = {pair for case in self.ran for pair in _pairs(self._levels(case))}
        found: set[frozenset[Level]] = set()
        for case, _ in list(self.refused):
            levels = self._levels(case)
            inside = all(levels.get(name) in {*chosen, None} for name, chosen in allowed.items())
            if not inside or not taken.fits("columns", sizes_of(case).get("columns", 0)):
                continue
            suspects = [pair for pair in _pairs(levels) if pair not in together]
            if any(pair in found for pair in suspects):
                continue
            for pair in suspects:
                if self._reached(dict(pair)):
                    together.add(pair)
                elif self.calls < self.budget:
                    found.add(pair)
                    break
        return frozenset(found)

    def _levels(self, case: Case) -> dict[str, str]:
        # one row cannot be transposed: a layout that looks contiguous to the implementation shows nothing else.
        # Calls of models may have layouts that are no level, such as slices
        drawn = OPERATIONS[case.operation].factors
        levels = {
            name: level
            for name, level in effective_levels(case).items()
            if name not in {"rows", *OF_VALUES} and level in drawn[name]
        }
        return {"dtype": case.dtype, **levels}

    def _scope(self, dtype: str, columns: int | None = None) -> Scope:
        scope = Scope(dtype, device=self.device)
        return scope if columns is None else scope.sized(columns=columns)


# factors that stand for a size, or that no call is refused for
_SIZED = frozenset({"width", "rows", *OF_VALUES})


def _pairs(levels: Mapping[str, str]) -> Iterator[frozenset[Level]]:
    several = itertools.combinations(sorted((name, level) for name, level in levels.items() if name != "width"), 2)
    return (frozenset(pair) for pair in several)


def _kind(reason: str) -> str:
    """Return a reason without its numbers: crashes that differ in numbers alone are one kind."""
    return "".join("" if character.isdigit() else character for character in reason)


def numbers(taken: Iterable[int], refused: Iterable[int]) -> Numbers | None:
    """Return the simplest set of numbers with all that are taken and none that is refused; None for all numbers.

    The set is a range in steps, powers of two, or the numbers themselves.
    """
    yes, no = sorted(set(taken)), set(refused)
    if not no:
        return None
    low, high = yes[0], yes[-1]
    for step in STEPS:
        fits = all(n % step == 0 for n in yes) and not any(n % step == 0 and low <= n <= high for n in no)
        if fits and high > low:
            return range(low, high + 1, step)
    if all(n.bit_count() == 1 for n in yes) and not any(n.bit_count() == 1 and low <= n <= high for n in no):
        return tuple(2**k for k in range(low.bit_length() - 1, high.bit_length()))
    return tuple(yes)
