"""Items: one property of one operation in one dtype each, whose cases follow from the run's seed and profile.

Profiles are counts, never clocks, and an item's seed is a hash of the run's seed and its own name: neither the
number of workers nor the speed of a machine changes what is judged. Chunks are numbered: the first ones share out
a profile, and every later chunk draws its share of the profile's cases again, of every property, for as long as
the run continues. On a GPU some of these have as many rows as fit.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from conformance.adapter import UsageError
from conformance.calls.call import Subject
from conformance.calls.claim import outside
from conformance.calls.verdict import Verdict
from conformance.cases.case import Case
from conformance.cases.corpus import model_shapes, saved_cases
from conformance.cases.draws import drawn
from conformance.cases.factors import (
    DTYPES,
    EVERYTHING,
    Assignment,
    Factors,
    Scope,
    Taken,
    clashes,
    picked,
    pinned_rows,
    usual,
)
from conformance.operations import OPERATIONS, telling_cases
from conformance.properties import PROPERTIES
from conformance.runs.sizes import sizes
from conformance.runs.survey import Survey

# decode batch sizes of real models that the interpreter judges (quick: only the last); a GPU judges all
CPU_TOKENS = (1, 4)
GPU_WIDTHS = (
    1,
    2,
    3,
    7,
    16,
    31,
    33,
    64,
    100,
    127,
    128,
    129,
    256,
    257,
    512,
    769,
    1024,
    2048,
    2560,
    3584,
    4096,
    5120,
)


# properties with cases of sizes that drawing hardly reaches, and the factor levels of those cases
SIZED = frozenset({"values", "layout"})
PLAIN_SIZED = {"group": "none", "heads": "one", "rank": "2", "rows": "many", "width": "wide"}
# a layout in which the first dimensions of a tensor are not one in memory
SPREAD = "swapped"
# draws tried for one case that must be taken
TRIES = 30
REPEATS = 10  # more than the times that declined cases of an item are replaced


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings of how many cases are judged, and for how long.

    ``strength`` is that of the covering array, ``drawn`` the number of further cases per item by property,
    ``""`` for the others, ``limit`` the hang limit in seconds. ``enumerates``: properties whose covering array
    is judged whole, shared out over ``chunks``; other properties only draw from its rows. ``minutes``: how long
    ``conform run`` then goes on with further chunks.
    """

    name: str
    strength: int
    limit: float
    drawn: Mapping[str, int]
    enumerates: frozenset[str]
    chunks: int
    minutes: float = 0.0


# Cases of properties that make many calls each: ``state`` ten, for five ways of loading, ``variants`` twenty,
# ``chain`` seventy-two; ``compile`` traces three times. Their faults do not hide in shapes, so that every
# dtype has a case or two. One case of ``bias`` is a mean of thousands of numbers.
FEW = {"scale": 4, "bias": 3, "chain": 1, "state": 2, "kept_results": 1, "threads": 2, "variants": 1, "compile": 1}
FEW |= {"given_outputs": 4, "graph": 3, "stream": 3, "device": 3}
MANY = {name: 4 * count for name, count in FEW.items()}
# one case: calls with every other level of each factor after it, or from three kinds of gradients back
ONCE = {"kept_choices": 1, "gradient": 1}

_QUICK = Profile(
    "quick",
    strength=2,
    limit=20.0,
    # Triton's interpreter takes 10 to 40 ms per call. The values find what parity finds as well; layouts,
    # and the bits next to the arguments, are where kernels go wrong
    drawn={
        "": 8,
        "values": 10,
        "layout": 14,
        "specials": 10,
        "contract": 16,
        "parity": 12,
        "in_place": 12,
        "sensitivity": 16,
    }
    | FEW
    | ONCE,
    enumerates=frozenset({"values", "layout", "specials"}),
    chunks=1,
)
_CI = Profile(
    "ci",
    strength=3,
    limit=60.0,
    drawn={
        "": 40,
        "values": 100,
        "layout": 240,
        "specials": 100,
        "parity": 60,
        "in_place": 60,
        "sensitivity": 60,
    }
    | MANY
    | ONCE,
    enumerates=frozenset({"values", "layout", "specials"}),
    chunks=4,
)
# Nightly goes on where ci ends.
_NIGHTLY = replace(_CI, name="nightly", minutes=60.0)
PROFILES = {profile.name: profile for profile in (_QUICK, _CI, _NIGHTLY)}


# Properties that are judged before all others: the cheapest of those that find mistakes, to find them early.
EARLY = ("values", "empty", "errors", "specials", "kept_results", "state", "layout", "in_place")
# One whose items take turns with most of a GPU's memory, evenly among those, which need little.
TURNS = "large_call"
# Those of which an item takes long, in turns and among shorter ones: at the end one process would be busy, and the
# others idle; many at once would wait for each other, and for the memory of a GPU.
LONG = ("compile", "large_index")
SHORTER = 2  # items after each long one, while there are any
# Those with the shortest items: last, so that all processes end at about the same time.
SHORT = ("variants", "graph", "bias", "scale", "gradient", "device", "claim")


@dataclass(frozen=True, slots=True)
class Item:
    """One property of one operation in one dtype, or a numbered chunk of its cases, of the profile or beyond."""

    operation: str
    property: str
    dtype: str
    profile: str = "quick"
    seed: int = 0
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.cell()}/{self.chunk}"

    def cell(self) -> str:
        """Return what all chunks of the item judge: a cell of the table."""
        return f"{self.operation}/{self.property}/{self.dtype}"

    def draw_seed(self) -> int:
        """Return the seed of the item's draws, which follows from the run's seed and the item's name."""
        return _number(f"{self.seed}/{self}")

    def array_seed(self) -> int:
        """Return one seed for all dtypes, chunks and properties: on a GPU they share what they compile."""
        return _number(f"{self.seed}/{self.operation}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


@dataclass(frozen=True, slots=True)
class Failure:
    """A property that does not hold: the verdict on the smallest case found, the case as drawn, and a remark.

    ``widest`` is the verdict of the item that shows best where elements are wrong.
    """

    item: Item
    verdict: Verdict
    original: Case
    note: str
    widest: Verdict | None = None


def items(
    subject: Subject,
    profile: str = "quick",
    seed: int = 0,
    *,
    operations: tuple[str, ...] = (),
    properties: tuple[str, ...] = (),
    chunk: int | None = None,
) -> tuple[Item, ...]:
    """Return every item of a profile, or of one chunk of it or beyond it, in the order in which they are judged.

    All operations are judged by one property before the next, but for the long ones: the items of a slow
    operation do not end a run. Empty selections mean all. A property that says nothing of an operation has no
    items there, and an operation without a method has one, which says so. Raises ``UsageError`` where all that
    was selected says nothing.
    """
    pairs = list(itertools.product(operations or OPERATIONS, properties or PROPERTIES))
    void = {pair: reason for pair in pairs if (reason := void_reason(*pair))}
    if len(void) == len(pairs):
        (operation, prop), reason = next(iter(void.items()))
        raise UsageError(f"--op {operation} --property {prop}: nothing to judge, {reason}")
    others = [name for name in PROPERTIES if name not in {*EARLY, TURNS, *LONG, *SHORT}]
    every = [
        Item(operation, prop, dtype, profile, seed, number)
        for prop, operation in itertools.product([*EARLY, TURNS, *LONG, *others, *SHORT], OPERATIONS)
        if (operation, prop) in pairs and (operation, prop) not in void
        for dtype in DTYPES
        for number in _chunks(prop, PROFILES[profile], chunk)
    ]
    implemented = {item.operation: subject.traits(item.operation).implemented for item in every}
    first = {item.operation: item for item in reversed(every) if item.chunk == 0}
    listed = [item for item in every if implemented[item.operation] or item in first.values()]
    early, turns, long, later = (
        [item for item in listed if item.property in names] for names in (EARLY, {TURNS}, LONG, {*others, *SHORT})
    )
    long.sort(key=lambda item: list(OPERATIONS).index(item.operation))
    return (*_spread(turns, early, len(early) // (len(turns) + 1)), *_spread(long, later, SHORTER))


def _spread(some: list[Item], others: list[Item], between: int) -> Iterator[Item]:
    """Yield some items, ``between`` others before each, then the rest of the others."""
    rest = iter(others)
    for item in some:
        yield from itertools.islice(rest, between)
        yield item
    yield from rest


def void_reason(operation: str, prop: str) -> str:
    """Return why a property says nothing of an operation, whatever the implementation; or nothing."""
    return PROPERTIES[prop].void(OPERATIONS[operation])


def _chunks(prop: str, profile: Profile, wanted: int | None) -> list[int]:
    """Return the chunks of a property: all of the profile, or the wanted one where the property has it."""
    parts = range(profile.chunks if prop in profile.enumerates else 1)
    if wanted is None or wanted in parts:
        return list(parts) if wanted is None else [wanted]
    # a list of given cases is judged whole, and leaves nothing to draw
    return [wanted] if wanted >= profile.chunks and PROPERTIES[prop].given is None else []


def has_items(chunk: int, profile: str, properties: Sequence[str]) -> bool:
    """Return whether one of the properties has cases in a chunk of a profile, or beyond it."""
    return any(_chunks(name, PROFILES[profile], chunk) for name in properties)


def scope_of(item: Item, subject: Subject, survey: Survey | None = None) -> Scope:
    """Return what may be drawn for an item on this machine: within the claim, or within the survey's result."""
    prop, operation = PROPERTIES[item.property], OPERATIONS[item.operation]
    traits = subject.traits(item.operation)
    scope = Scope(
        item.dtype,
        device=subject.device,
        row_edges=traits.row_thresholds,
        column_edges=traits.column_thresholds,
        fixed=prop.fixed(operation),
        taken=survey.taken if survey else traits.claim or EVERYTHING,
        zero_columns=traits.zero_columns,
    )
    if subject.device == "cpu":
        return scope
    widths = _gpu_widths(scope.taken)
    return replace(scope, widths=widths, max_rows=2**17, max_elements=9 * 2**20, fills=beyond(item))


def _gpu_widths(taken: Taken) -> tuple[int, ...]:
    """Return the widths that kernels are compiled for: the usual ones, as far as they are taken."""
    fitting = tuple(width for width in GPU_WIDTHS if taken.fits_width(width))
    numbers = taken.numbers("columns") or taken.numbers("group_size") or GPU_WIDTHS
    return fitting or tuple(usual(numbers)[: len(GPU_WIDTHS)])


def cases_of(item: Item, subject: Subject, survey: Survey | None = None) -> Iterator[Case]:
    """Yield the item's cases: saved ones, real models', the covering array, then drawn ones; all of them taken."""
    prop = PROPERTIES[item.property]
    scope = scope_of(item, subject, survey)
    if prop.given is not None:
        given = prop.given(OPERATIONS[item.operation], scope)
        yield from given if prop.beyond_claims else (case for case in given if not outside(scope.taken, case))
        return
    missing = 0
    if prop.name == "layout" and not beyond(item):
        known = [case for case in _known(item, subject) if case.dtype == item.dtype][item.chunk :: _parts(item)]
        taken = [case for case in known if not outside(scope.taken, case)]
        missing = len(known) - len(taken)
        yield from taken
    if prop.like:
        alike = replace(item, property=prop.like)
        yield from constructed_cases(alike, scope)
        yield from _sample(item, list(_listed_and_drawn(alike, scope)))
        return
    yield from chosen_cases(item, scope, missing)


def sized_cases(item: Item, subject: Subject, survey: Survey) -> Iterator[tuple[Case, str]]:
    """Yield cases of sizes that drawing hardly reaches, each with the reason why it is not judged, or nothing."""
    if item.property not in SIZED or item.chunk:
        return
    scope, operation = scope_of(item, subject, survey), OPERATIONS[item.operation]
    rng = random.Random(item.draw_seed())  # noqa: S311 - reproducible, not secret
    whole = item.property == "values"
    for size in sizes(operation, scope, item.profile, item.seed, survey.programs, whole=whole):
        exact = {"rows": size.rows} | ({} if size.columns is None else {"columns": size.columns})
        sized = scope.sized(**exact)
        levels = scope.levels(operation.factors)
        plain = {name: chosen[:1] for name, chosen in levels.items()} if size.plain else {}
        plain |= {name: (level,) for name, level in PLAIN_SIZED.items() if level in levels.get(name, ())}
        if size.spread:
            plain |= {name: (SPREAD,) for name in levels if name.endswith("_layout") and SPREAD in levels[name]}
            plain |= {"rank": ("4",)} if "4" in levels.get("rank", ()) else {}
        case = _completed(item, {**levels, **plain}, rng, sized)
        if case is not None:
            yield case, size.left_out


def more_cases(item: Item, subject: Subject, survey: Survey, count: int, number: int) -> Iterator[Case]:
    """Yield cases in place of others that were declined; each ``number`` gives different cases."""
    scope = scope_of(item, subject, survey)
    # another chunk, so that other cases follow; what compiles follows from the run's seed and the operation
    yield from _drawn(replace(item, chunk=-1 - number - REPEATS * item.chunk), scope, count)


def _sample(item: Item, cases: list[Case]) -> Iterator[Case]:
    """Yield the profile's number of cases, evenly over the list, which begins with the covering array."""
    count = min(_count(item), len(cases))
    yield from (cases[place * len(cases) // count] for place in range(count))


def chosen_cases(item: Item, scope: Scope, more: int = 0) -> Iterator[Case]:
    """Yield constructed cases, the item's part of the covering array of a scope, then drawn ones.

    Beyond the profile there are only drawn cases. ``more`` cases are drawn in addition.
    """
    yield from constructed_cases(item, scope)
    yield from _listed_and_drawn(item, scope, more)


def _listed_and_drawn(item: Item, scope: Scope, more: int = 0) -> Iterator[Case]:
    """Yield the item's part of the covering array, then drawn cases.

    Where fewer calls are taken the array is smaller: as many more cases are drawn, and ``more`` in addition.
    """
    listed = listed_cases(item, scope)
    whole = len(_rows_of(item, replace(scope, taken=EVERYTHING))) if scope.taken != EVERYTHING else len(listed)
    yield from listed
    yield from _drawn(item, scope, _count(item) + max(0, whole - len(listed)) + more)


def constructed_cases(item: Item, scope: Scope) -> tuple[Case, ...]:
    """Return the cases that show the loss of each term: part of ``values`` and its sample in every profile."""
    shown = item.property in {"values", "sensitivity"} and item.chunk == 0
    if not shown:
        return ()
    return tuple(
        case for case in telling_cases(OPERATIONS[item.operation], scope) if not outside(scope.taken, case)
    )


def listed_cases(item: Item, scope: Scope) -> list[Case]:
    """Return the item's part of the covering array of a scope, none where it only draws."""
    rng = random.Random(item.array_seed())  # noqa: S311 - reproducible, not secret
    operation = OPERATIONS[item.operation]
    listed = [operation.complete(row, rng, pinned) for row, pinned in _rows_of(item, scope, whole=True)]
    return [case for case in listed[item.chunk :: _parts(item)] if not outside(scope.taken, case)]


def _rows_of(item: Item, scope: Scope, *, whole: bool = False) -> list[tuple[Assignment, Scope]]:
    """Return the rows of the covering array that are the item's, or all of them; none where it only draws."""
    if item.property not in PROFILES[item.profile].enumerates or beyond(item):
        return []
    factors, power = OPERATIONS[item.operation].factors, strength(item, scope.device)
    rows = pinned_rows(factors, scope, strength=power, seed=item.array_seed())
    return rows if whole else rows[item.chunk :: _parts(item)]


def _count(item: Item) -> int:
    """Return the number of cases that an item draws in addition to the listed ones."""
    drawn = PROFILES[item.profile].drawn
    return max(1, drawn.get(item.property, drawn[""]) // _parts(item))


def beyond(item: Item) -> bool:
    """Return whether an item's chunk comes after those of the profile: it then draws, and enumerates nothing."""
    return item.chunk >= PROFILES[item.profile].chunks


def _parts(item: Item) -> int:
    profile = PROFILES[item.profile]
    return profile.chunks if item.property in profile.enumerates or beyond(item) else 1


def strength(item: Item, device: str) -> int:
    """Return the strength of the covering array. Every assignment may compile a kernel: a GPU takes pairs only."""
    return PROFILES[item.profile].strength if device == "cpu" else 2


def _known(item: Item, subject: Subject) -> Iterator[Case]:
    """Yield saved cases, and the calls of real models."""
    operation = OPERATIONS[item.operation]
    yield from (case for case in saved_cases() if case.operation == item.operation)
    for shape in model_shapes():
        if shape.operation != item.operation:
            continue
        every = subject.device != "cpu" and item.profile != "quick"
        few = CPU_TOKENS[-1:] if item.profile == "quick" else CPU_TOKENS
        tokens = (*shape.decode, *shape.prefill) if every else few
        for count in tokens:
            yield operation.model_case(shape, count)


def _drawn(item: Item, scope: Scope, count: int) -> list[Case]:
    """Return cases that Hypothesis draws."""
    return drawn(drawing(item, scope), count, item.draw_seed())


def drawing(item: Item, scope: Scope) -> Callable[[random.Random], Case | None]:
    """Return the making of a case from a random generator.

    On a GPU cases are made from the rows of the covering array, which bounds what compiles.
    """
    factors = OPERATIONS[item.operation].factors
    if scope.device == "cpu":
        levels = scope.levels(factors)
        return lambda rng: _completed(item, levels, rng, scope)
    rows = pinned_rows(factors, scope, strength=strength(item, scope.device), seed=item.array_seed())
    return lambda rng: _row_completed(item, rows, rng)


def _row_completed(item: Item, rows: list[tuple[Assignment, Scope]], rng: random.Random) -> Case | None:
    """Return a case of one of the rows of the covering array, None where there are none."""
    if not rows:
        return None
    assignment, pinned = rng.choice(rows)
    return _completed(item, {name: (level,) for name, level in assignment.items()}, rng, pinned)


def _completed(item: Item, levels: Factors, rng: random.Random, scope: Scope) -> Case | None:
    """Return a case of levels drawn from those given, among the taken calls; None where none is found."""
    for _ in range(TRIES):
        assignment = picked(levels, rng)
        if clashes(assignment, scope.taken.apart):
            continue
        case = OPERATIONS[item.operation].complete(assignment, rng, scope)
        if not outside(scope.taken, case):
            return case
    return None
