"""``report.json`` as dataclasses: every entry of the file is a field here, with its type."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.calls.compilations import NOTHING, Compiled
from conformance.cases.case import Case
from conformance.oracle.histogram import NO_SIZES, Sizes
from conformance.runs.data import Unreadable, from_data, rest, sparse
from conformance.runs.failed import Failed, Smoke

Counts = Mapping[str, int]  # by status, or by property


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Workers that share a GPU, and the bytes of it that each may hold."""

    workers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Rounding:
    """The contract of an operation: where it rounds, how deep its sums are, and both in words."""

    rounds: tuple[str, ...]
    depth: int | str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """All that an adapter declares: each of the ``traits`` for all operations, or for each.

    ``package``: the distribution that it calls, and its version.
    """

    name: str
    package: str = sparse(str)
    contracts: Mapping[str, Rounding]
    traits: Mapping[str, bool | Mapping[str, bool]] = rest()
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Versions, machine, commit, adapter and switches, on which the numbers of a report depend.

    ``command``: the command line that judges the same. ``options_from``: the file that options were read from,
    beside those of the command line.
    """

    suite: str | None
    python: str
    torch: str
    triton: str | None
    hypothesis: str | None = None
    platform: str
    commit: str | None
    device: str
    gpu_memory: GpuMemory | None = None
    seed: int
    profile: str
    chunks: str | None = None
    command: str = sparse(str)
    options_from: str | None = sparse(lambda: None)
    adapter: Declarations
    changed_by_import: tuple[str, ...] = ()
    numerics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """The calls that an adapter takes: claimed, or found by a survey; in words, and as a claim to paste."""

    taken: Any
    claimed: bool
    calls: int
    ran: int
    refusals: tuple[tuple[str, int], ...]
    crashes: tuple[Case, ...]
    programs: float
    said: str
    claim: str


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason of a status, and the number of cases of a row that have the status for that reason."""

    status: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """The verdicts of one operation, property and dtype.

    ``worst`` is the largest error as a share of its bound, ``exact`` the share of elements that had to be exact;
    both are None where no element was compared. ``terms``: cases that show a term, of the cases that have it.
    ``array``: rows of the covering array that ran, of how many. ``sizes``: of the errors of all elements.
    """

    operation: str
    property: str
    dtype: str
    counts: Counts
    elements: int
    worst: float | None
    exact: float | None
    reasons: tuple[Reason, ...] = ()
    terms: Mapping[str, tuple[int, int]] = sparse(dict)
    array: tuple[int, int] | None = sparse(lambda: None)
    sizes: Sizes = sparse(lambda: NO_SIZES)  # noqa: RUF009 - a field

    def key(self) -> tuple[str, str, str]:
        """Return what is judged in the row."""
        return self.operation, self.property, self.dtype


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a factor: how many of its judged cases fail."""

    level: str
    failing: int
    judged: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A factor that decides about a failure, the levels at which it shows, and the rates of all levels."""

    factor: str
    where: tuple[str, ...]
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """Failures of one kind: where and how often they show; ``failures`` are places in the report's list.

    ``example`` is the reason of a failing verdict, ``case`` its case where the list has no failure of the cause.
    """

    says: str
    severity: int
    operations: tuple[str, ...]
    dtypes: tuple[str, ...]
    properties: Counts
    cases: int
    judged: int
    rates: tuple[Rate, ...]
    failures: tuple[int, ...]
    example: str
    case: Case | None = sparse(lambda: None)  # noqa: RUF009 - a field

    @property
    def kind(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Return what makes causes of several reports one: words, operations and factors.

        Levels are not part of it: another seed draws other levels of the same factor.
        """
        return self.says, tuple(sorted(self.operations)), tuple(sorted(rate.factor for rate in self.rates))


@dataclass(frozen=True, slots=True)
class Waived:
    """A waiver with its verdicts; ``stale`` says why it has to go, and is empty where it may stay."""

    issue: str
    reason: str
    where: str
    launches: bool
    held: bool
    counts: Counts
    stale: str
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An item that was not judged to its end, and the case that ran last in it."""

    item: str
    case: Case | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """Totals and end of a run. A report without a footer belongs to a run that did not end.

    ``compiled`` and ``took`` (by property) have the seconds of all processes, ``longest`` those of the items that
    took most of them; ``seconds`` are those of the run, from its first item to its last line.
    """

    items: int
    chunks: int = 0
    unfinished: tuple[Unfinished, ...]
    cases: int
    judged_cases: int | None = None  # older reports do not count these separately
    verdicts: Counts
    elements: int
    seconds: float
    compiled: Compiled = sparse(lambda: NOTHING)  # noqa: RUF009 - a field
    took: Mapping[str, float] = sparse(dict)
    longest: Mapping[str, float] = sparse(dict)
    stale_waivers: int = 0
    interrupted: bool = False
    complete: bool
    alarms: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()
    exit_code: int

    @property
    def judged(self) -> int:
        """Return the number of judged cases; of an older report that of all cases."""
        return self.cases if self.judged_cases is None else self.judged_cases


@dataclass(frozen=True, slots=True)
class Covered:
    """Pairs of levels of different factors that judged cases of an operation have, of how many that have a name.

    ``pairs`` are hexadecimal digits, with a bit for each pair (``operations/pairs.py`` numbers them).
    """

    pairs: str
    of: int

    @property
    def seen(self) -> int:
        """Return the number of pairs that judged cases have."""
        return int(self.pairs, 16).bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole report."""

    header: Header
    surveys: Mapping[str, Taken] = field(default_factory=dict)
    coverage: Mapping[str, Covered] = sparse(dict)
    results: tuple[Row, ...]
    smoke: Smoke | None = None
    failures: tuple[Failed, ...]
    causes: tuple[Cause, ...] = ()
    waivers: tuple[Waived, ...] = ()
    footer: Footer


class NoReport(ValueError):
    """Error: a file is no report of a run that ended."""


def read(path: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Report:
    """Return the report in a file; ``change`` is applied to every object of its JSON. Raises ``NoReport``."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_hook=change)
        return from_data(Report, data)
    except Unreadable as error:
        raise NoReport(f"{path}: is no report of a run that ended: {error}") from error
    except OSError as error:
        raise NoReport(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NoReport(f"{path}: is no report of a run that ended: no JSON, {error}") from error
