"""Claims: the calls of an operation that an implementation takes, as data.

A claim gives levels of the operation's factors (``{"rank": ("2", "3"), "x_layout": "contiguous"}``), the dtypes
of the first tensor (``dtype``), and numbers of its sizes (``{"columns": range(8, 8193, 8)}``). A factor or size
that is not named is free. ``apart`` holds pairs of levels that are each taken, but not together:
``{"apart": {"order": "sectioned", "dims": "quarter"}}``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conformance.adapter import UsageError
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, EVERYTHING, Level, Numbers, Taken
from conformance.operations import OPERATIONS, Operation
from conformance.operations.head_sizes import Sizes
from conformance.operations.levels import effective_levels, levels_of

Given = Mapping[str, object]
APART = "apart"
MOST_NUMBERS = 8  # numbers that are written out


def claim(where: str, operation: str, given: Given) -> Taken:
    """Parse a claim as given in an adapter.

    A value is a level or a number, several of them, or a ``range`` of numbers. Raises ``UsageError`` with one
    line that names the nearest known word.
    """
    described = OPERATIONS[operation]
    factors = {"dtype": DTYPES, **described.factors}
    levels, sizes, apart = [], [], set()
    for name, value in given.items():
        if name == APART:
            apart |= _apart(f"{where}[{APART!r}]", factors, value)
            continue
        if name in size_names(operation):
            sizes.append((name, _numbers(f"{where}[{name!r}]", value)))
            continue
        known(where, name, [*factors, *size_names(operation), APART])
        levels.append((name, _chosen(f"{where}[{name!r}]", factors[name], value)))
    return Taken(tuple(levels), tuple(sizes), frozenset(apart))


def _chosen(where: str, levels: tuple[str, ...], value: object) -> tuple[str, ...]:
    """Return the levels that a claim names, in their order."""
    given = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    chosen = [str(level) for level in given]
    for level in chosen:
        known(where, level, levels)
    if not chosen:
        message = f"{where}: is empty, must name at least one of {', '.join(levels)}"
        raise UsageError(message)
    return tuple(level for level in levels if level in chosen)


def _apart(where: str, factors: Mapping[str, tuple[str, ...]], value: object) -> set[frozenset[Level]]:
    """Return pairs of levels that exclude each other: all combinations in tables of two factors."""
    tables = [value] if isinstance(value, Mapping) else value
    if not isinstance(tables, Sequence) or not all(isinstance(t, Mapping) and len(t) == 2 for t in tables):
        message = f"{where}: is {value!r}, must be tables of two factors, each with a level or several"
        raise UsageError(message)
    pairs = set()
    for table in tables:
        for name in table:
            known(where, name, factors)
        sides = [[(name, level) for level in _chosen(where, factors[name], table[name])] for name in table]
        pairs |= {frozenset(pair) for pair in itertools.product(*sides)}
    return pairs


def size_names(operation: str) -> tuple[str, ...]:
    """Return the names of the sizes of an operation's calls."""
    described = OPERATIONS[operation]
    if described.token_axes:
        return ("rows", "head_dim", "rotary_dim")
    return ("rows", "columns", "group_size") if "group" in described.factors else ("rows", "columns")


def sizes_of(case: Case) -> dict[str, int]:
    """Return the sizes of a call by their names; absent sizes are left out."""
    if OPERATIONS[case.operation].token_axes:
        sizes = Sizes.of(case)
        return {"rows": sizes.tokens, "head_dim": sizes.head_dim, "rotary_dim": 2 * sizes.half}
    found = {"rows": case.rows, "columns": case.tensors[0][1].shape[-1]}
    if "group_size" not in dict(case.flags):
        return found
    group = case.flag("group_size")
    # a row without groups is one group
    return {**found, "group_size": group if isinstance(group, int) else found["columns"]}


def known(where: str, name: str, names: Iterable[str]) -> None:
    """Refuse an unknown name. Raises ``UsageError`` with the nearest known one."""
    every = list(dict.fromkeys(names))
    if name not in every:
        near = difflib.get_close_matches(name, every, n=1, cutoff=0.0)
        message = f"{where}: {name!r} is unknown, did you mean {near[0]!r}? Known are {', '.join(every)}"
        raise UsageError(message)


def _numbers(where: str, value: object) -> Numbers:
    if isinstance(value, range) and value:
        return value
    chosen = (value,) if isinstance(value, int) else value
    if not isinstance(chosen, Sequence) or not chosen or not all(isinstance(n, int) and n > 0 for n in chosen):
        message = (
            f"{where}: is {value!r}, must be a positive number, several of them, or a range that is not empty"
        )
        raise UsageError(message)
    return tuple(sorted(set(chosen)))


def outside(taken: Taken, case: Case) -> str:
    """Return in words why a case is outside of the calls taken; nothing where it is inside."""
    if taken == EVERYTHING:
        return ""
    levels = {"dtype": case.dtype, **levels_of(case)}
    factors = OPERATIONS[case.operation].factors
    steps = {name for name, _ in taken.levels if "step" in factors.get(name, ())}
    in_memory = effective_levels(case) if steps else {}
    for name, chosen in taken.levels:
        # a vector with gaps has a step, which who takes gaps between rows need not take
        stepped = name in steps and in_memory.get(name) == "step"
        for level in (levels.get(name), "step" if stepped else None):
            if level is not None and level not in chosen:
                return f"{name} is {level}, taken: {', '.join(sorted(chosen))}"
    sizes = sizes_of(case)
    for name, numbers in taken.sizes:
        if name in sizes and sizes[name] not in numbers:
            return f"{name} is {sizes[name]}, taken: {said_numbers(numbers)}"
    together = set(levels.items())
    for pair in taken.apart:
        if pair <= together:
            return "taken apart only: " + " and ".join(f"{name} {level}" for name, level in sorted(pair))
    return ""


def said_numbers(numbers: Numbers) -> str:
    """Return numbers in words."""
    if isinstance(numbers, range):
        step = f" in steps of {numbers.step}" if numbers.step > 1 else ""
        return f"{numbers[0]:,} to {numbers[-1]:,}{step}"
    shown = [f"{number:,}" for number in numbers]
    return ", ".join(shown if len(shown) <= MOST_NUMBERS else [*shown[: MOST_NUMBERS - 2], "…", shown[-1]])


_WORDS = {
    ("norm_before_gate", ("yes",)): "gate after the norm",
    ("norm_before_gate", ("no",)): "gate before the norm",
    ("residual", ("none",)): "no residual",
    ("residual", ("same", "none")): "a residual in x's dtype or none",
    ("gate", ("same",)): "a gate in x's dtype",
    ("gate", ("same", "other")): "a gate",
    ("group", ("none",)): "no groups",
    ("weight", ("same",)): "a weight in x's dtype",
    ("offset", ("zero",)): "no offset",
}
_SIZES = {"group_size": "columns a group"}
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def said(operation: str, taken: Taken) -> str:
    """Return the calls taken in a sentence: only the restrictions."""
    described = OPERATIONS[operation]
    levels = dict(taken.levels)
    parts = [f"rank {_or(levels['rank'])}"] if _partly(described, levels, "rank") else []
    parts += [
        f"{said_numbers(numbers)} {_SIZES.get(name, name.replace('_', ' '))}" for name, numbers in taken.sizes
    ]
    by_layout: dict[tuple[str, ...], list[str]] = {}
    for name in described.factors:
        if name.endswith("_layout") and _partly(described, levels, name):
            by_layout.setdefault(levels[name], []).append(name.removesuffix("_layout"))
    parts += [f"{_or(chosen)} {_and(names)}" for chosen, names in by_layout.items()]
    for name in described.factors:
        if name != "rank" and not name.endswith("_layout") and _partly(described, levels, name):
            parts.append(_WORDS.get((name, levels[name]), f"{name} {_or(levels[name])}"))
    for pair in sorted(map(sorted, taken.apart)):
        parts.append("not " + " with ".join(f"{name} {level}" for name, level in pair))
    dtypes = _and([_SHORT[name] for name in levels.get("dtype", DTYPES)])
    return f"takes {', '.join(parts) or 'everything'}; {dtypes}"


def _partly(operation: Operation, levels: Mapping[str, tuple[str, ...]], name: str) -> bool:
    return name in levels and set(levels[name]) != set(operation.factors[name])


def _or(words: Sequence[str]) -> str:
    if all(word.isdigit() for word in words):
        words = sorted(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def pasted(operation: str, taken: Taken) -> str:
    """Return a claim as Python text, to paste into ``Adapter.takes``."""
    described = OPERATIONS[operation]
    every = {"dtype": DTYPES, **described.factors}
    lines = [f"{name!r}: {chosen!r}," for name, chosen in taken.levels if set(chosen) != set(every[name])]
    lines += [f"{name!r}: {numbers!r}," for name, numbers in taken.sizes]
    if taken.apart:
        lines.append(f"{APART!r}: {tuple(dict(sorted(pair)) for pair in sorted(map(sorted, taken.apart)))!r},")
    return "\n".join([f"{operation!r}: {{", *(f"    {line}" for line in lines), "},"])


def to_data(taken: Taken) -> dict[str, Any]:
    """Return the calls taken as plain data for JSON."""
    return {
        "levels": {name: list(chosen) for name, chosen in taken.levels},
        "sizes": {name: _written(numbers) for name, numbers in taken.sizes},
        "apart": [[list(level) for level in sorted(pair)] for pair in sorted(map(sorted, taken.apart))],
    }


def _written(numbers: Numbers) -> list[int] | dict[str, int]:
    if isinstance(numbers, range):
        return {"from": numbers.start, "to": numbers[-1], "step": numbers.step}
    return list(numbers)


def from_data(data: Mapping[str, Any]) -> Taken:
    """Read the data of :func:`to_data`."""
    sizes = tuple(
        (name, range(n["from"], n["to"] + 1, n["step"]) if isinstance(n, dict) else tuple(n))
        for name, n in data["sizes"].items()
    )
    pairs = frozenset(frozenset((name, level) for name, level in pair) for pair in data["apart"])
    return Taken(tuple((name, tuple(chosen)) for name, chosen in data["levels"].items()), sizes, pairs)
