"""Known divergences of an implementation, as data, strict both ways: each still shows, or the run is red.

A file of waivers is TOML::

    [[waiver]]
    issue = "https://github.com/owner/name/issues/12"
    reason = "rows with gaps between elements read their neighbour"
    where = { operation = "rms_norm", dtype = ["bfloat16", "float16"], layout = { x = "step" } }
    launches = false
    strict = false

``issue`` must be a link, and ``where`` not be empty. Each of its keys narrows; a value is one, or a list of them:

========= ==================================================================================================
operation the operation's name
property  the property's name
dtype     torch's name of the dtype of the first tensor
n         last dimension of the first tensor: a number, ``odd`` or ``even``
layout    kind of layout of any tensor; or a table, by tensor
flags     a table, by flag; ``"None"`` stands for None
levels    a table, by factor, of levels as causes and the table of a failure name them
device    ``cpu`` or ``cuda``
profile   ``quick``, ``ci`` or ``nightly``
version   a table of installed distributions: ``{ torch = "<2.12", triton = ">=3.6,<3.8" }``
========= ==================================================================================================

A waiver of another device, version, profile, operation or property than those of a run does not apply to it.
``launches = false`` says that the calls that a waiver matches must not be made: they are never called.
``strict = false`` is for a failure that only some seeds draw a case of: a run without it is not red.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from conformance.adapter import UsageError
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import BESIDE, Case
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.operations.levels import levels_of
from conformance.properties import PASSIVE, PROMISES, PROPERTIES
from conformance.properties.passive import property_of
from conformance.runs.item import PROFILES, void_reason

Names = tuple[str, ...]  # allowed names; empty: all are allowed
Table = tuple[tuple[str, tuple[Any, ...]], ...]  # name -> allowed values

LINK = re.compile(r"https?://[^\s/]+/\S+")
NAMED: Mapping[str, Collection[str]] = {
    "operation": OPERATIONS,
    "property": PROMISES,
    "dtype": DTYPES,
    "device": ("cpu", "cuda"),
    "profile": PROFILES,
}
PARITIES = ("even", "odd")  # names of widths, by their remainder
ANY = ""  # the name of a tensor that may be any


@dataclass(frozen=True, slots=True)
class Run:
    """Settings common to a whole run: its device and profile, and the operations and properties it judges."""

    device: str
    profile: str
    operations: Names = field(default_factory=lambda: tuple(OPERATIONS))
    properties: Names = tuple(PROPERTIES)


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions for a waiver's verdicts. An empty field matches all."""

    operation: Names = ()
    property: Names = ()
    dtype: Names = ()
    device: Names = ()
    profile: Names = ()
    n: tuple[int | str, ...] = ()
    layout: Table = ()
    flags: Table = ()
    levels: Table = ()
    version: tuple[tuple[str, SpecifierSet], ...] = ()

    def shows_in(self, run: Run) -> bool:
        """Return whether a run can have such verdicts at all."""
        return (
            _among(run.device, self.device)
            and _among(run.profile, self.profile)
            and any(
                _among(operation, self.operation) and _among(name, self.property)
                for operation, prop in itertools.product(run.operations, run.properties)
                if not void_reason(operation, prop)
                for name in _judged_by((prop,))
            )
            and all(_installed(name, versions) for name, versions in self.version)
        )

    def takes_call(self, case: Case) -> bool:
        """Return whether the conditions match the call of a case."""
        flags = dict(case.flags)
        return (
            _among(case.operation, self.operation)
            and _among(case.dtype, self.dtype)
            and (not self.n or any(_as_wide(case, n) for n in self.n))
            and all(name in flags and flags[name] in values for name, values in self.flags)
            and all(_lies(case, name, kinds) for name, kinds in self.layout)
            and (not self.levels or all(levels_of(case).get(name) in levels for name, levels in self.levels))
        )

    def takes(self, prop: str, case: Case) -> bool:
        """Return whether the conditions match a verdict on a property of a case."""
        return _among(prop, self.property) and self.takes_call(case)


def _among(name: str, allowed: Names) -> bool:
    return not allowed or name in allowed


def _as_wide(case: Case, n: int | str) -> bool:
    shape = case.tensors[0][1].shape
    return bool(shape) and n in {shape[-1], PARITIES[shape[-1] % 2]}


def _lies(case: Case, tensor: str, kinds: tuple[str, ...]) -> bool:
    return any(spec.layout.kind in kinds for name, spec in case.tensors if tensor in {ANY, name})


def _judged_by(properties: Names) -> Names:
    """Return the properties that get verdicts when these are judged: a call shows the passive ones as well."""
    passive = any(name in PROPERTIES and PROPERTIES[name].passive for name in properties)
    return (*properties, *PASSIVE) if passive else properties


def _installed(distribution: str, versions: SpecifierSet) -> bool:
    try:
        return versions.contains(metadata.version(distribution), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class Waiver:
    """One known divergence: the issue that follows it, where it shows, and whether in every run.

    ``launches`` says whether the calls may be made.
    """

    issue: str
    where: Where
    reason: str = ""
    launches: bool = True
    strict: bool = True
    given: str = ""  # ``where`` as the file has it

    def __str__(self) -> str:
        return f"{self.reason} ({self.issue})" if self.reason else self.issue


@dataclass(frozen=True, slots=True)
class Waivers:
    """The waivers of a file in its order; ``held`` are the places of those that apply to a run."""

    every: tuple[Waiver, ...] = ()
    held: tuple[int, ...] = ()

    def of(self, verdict: Verdict) -> tuple[int, ...]:
        """Return the places of waivers that match a verdict, whatever its status."""
        return tuple(i for i in self.held if self.every[i].where.takes(verdict.property, verdict.case))

    def of_item(self, operation: str, prop: str, dtype: str) -> tuple[int, ...]:
        """Return the places of waivers that match some verdict of judging a property in a dtype."""
        return tuple(
            i
            for i in self.held
            if _among(operation, self.every[i].where.operation)
            and _among(dtype, self.every[i].where.dtype)
            and any(_among(name, self.every[i].where.property) for name in _judged_by((prop,)))
        )

    def applied(self, verdict: Verdict) -> Verdict:
        """Return the verdict, waived where it is bad and expected."""
        places = self.of(verdict) if verdict.status in BAD else ()
        if not places:
            return verdict
        return replace(verdict, status=Status.WAIVED, reason=f"{verdict.status}: {self.every[places[0]]}")

    def forbidden(self, prop: str, case: Case) -> Verdict | None:
        """Return the verdict on a case that must not be called to judge a property; None where it may."""
        # a call is judged as the property that its values are evidence for, whichever property asked for it
        names = (prop, property_of(case)) if PROPERTIES[prop].passive else (prop,)
        for waiver in (self.every[i] for i in self.held):
            for name in names:
                if not waiver.launches and waiver.where.takes(name, case):
                    return Verdict(name, case, Status.WAIVED, f"not called: {waiver}")
        return None


NONE = Waivers()


def stale(counts: Mapping[str, int], *, strict: bool = True) -> str:
    """Return why a waiver has to go, judging by its numbers of verdicts by status; or nothing."""
    if counts.get(Status.WAIVED) or not strict:
        return ""
    if counts.get(Status.NOT_JUDGED) and not counts.get(Status.PASSED):
        # another machine may show it
        return ""
    return "nothing that it matches fails any more" if any(counts.values()) else "matches nothing"


# --- files --------------------------------------------------------------------------------------------------


def load(path: Path, run: Run) -> Waivers:
    """Return the waivers of a file. Raises ``UsageError`` with one line that says what is wrong with the file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        every = tuple(_waiver(table) for table in _tables(tables))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except _Wrong as error:
        raise UsageError(f"{path}: {error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    return Waivers(every, tuple(i for i, waiver in enumerate(every) if waiver.where.shows_in(run)))


class _Wrong(Exception):
    """An error in a file, in a line."""


def _tables(read: dict[str, Any]) -> list[dict[str, Any]]:
    _only(read, {"waiver"}, "the file")
    tables = read.get("waiver", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _Wrong("waiver must be written [[waiver]]")
    return tables


def _only(table: Mapping[str, Any], known: Collection[str], what: str) -> None:
    for key in table:
        if key not in known:
            raise _Wrong(f"{what} has {key!r}, must be one of {', '.join(sorted(known))}")


def _waiver(table: dict[str, Any]) -> Waiver:
    _only(table, {"issue", "reason", "where", "launches", "strict"}, "a waiver")
    issue, reason = table.get("issue"), table.get("reason", "")
    launches, strict = table.get("launches", True), table.get("strict", True)
    if not isinstance(issue, str) or not LINK.fullmatch(issue):
        raise _Wrong(f"issue={issue!r}: every waiver needs a link to the issue that follows it")
    if not isinstance(reason, str) or not isinstance(launches, bool) or not isinstance(strict, bool):
        raise _Wrong(f"{issue}: reason must be text, launches and strict true or false")
    where = table.get("where")
    if not isinstance(where, dict) or not where:
        raise _Wrong(f"{issue}: where={where!r}, must be a table that says which verdicts are expected")
    try:
        given = ", ".join(f"{name} = {value!r}" for name, value in where.items())
        waiver = Waiver(issue, _where(where), reason, launches, strict, given)
    except _Wrong as error:
        raise _Wrong(f"{issue}: {error}") from error
    if not launches and set(waiver.where.property) & set(PASSIVE):
        raise _Wrong(f"{issue}: launches = false stops calls, of which {', '.join(PASSIVE)} are only a part")
    return waiver


def _where(given: dict[str, Any]) -> Where:
    _only(given, Where.__dataclass_fields__, "where")
    named = {key: _names(key, given[key], known) for key, known in NAMED.items() if key in given}
    widths = _listed(given.get("n", []))
    if not all(n in PARITIES or (isinstance(n, int) and not isinstance(n, bool)) for n in widths):
        raise _Wrong(f"n={given['n']!r}, must be a width, {' or '.join(PARITIES)}, or a list of them")
    layout = given.get("layout", {})
    kinds = layout if isinstance(layout, dict) else {ANY: layout}
    return Where(
        **named,
        n=tuple(widths),
        layout=tuple((tensor, _names("layout", kind, BESIDE)) for tensor, kind in kinds.items()),
        flags=tuple(
            (name, tuple(None if v == "None" else v for v in _listed(value)))
            for name, value in _table("flags", given).items()
        ),
        levels=tuple(
            (name, _names(f"levels: {name}", levels, _levels(name)))
            for name, levels in _table("levels", given).items()
        ),
        version=tuple((name, _versions(name, text)) for name, text in _table("version", given).items()),
    )


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - what TOML holds
    return value if isinstance(value, list) else [value]


def _names(key: str, given: Any, known: Collection[str]) -> Names:  # noqa: ANN401 - what TOML holds
    for name in _listed(given):
        if not isinstance(name, str) or name not in known:
            raise _Wrong(f"{key}={name!r}, must be one of {', '.join(known)}")
    return tuple(_listed(given))


def _table(key: str, given: dict[str, Any]) -> dict[str, Any]:
    table = given.get(key, {})
    if not isinstance(table, dict):
        raise _Wrong(f"{key}={table!r}, must be a table")
    return table


def _levels(factor: str) -> tuple[str, ...]:
    """Return the levels that a factor has in some operation."""
    every = [each.factors[factor] for each in OPERATIONS.values() if factor in each.factors]
    if not every:
        known = sorted({name for each in OPERATIONS.values() for name in each.factors})
        raise _Wrong(f"levels has {factor!r}, must be one of {', '.join(known)}")
    return tuple(dict.fromkeys(level for levels in every for level in levels))


def _versions(distribution: str, text: Any) -> SpecifierSet:  # noqa: ANN401 - what TOML holds
    try:
        return SpecifierSet(text)
    except (InvalidSpecifier, TypeError, AttributeError) as error:
        raise _Wrong(f"version: {distribution}={text!r}, must be versions such as '<3.8'") from error
