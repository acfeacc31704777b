"""The smallest case that still fails, found by meaning: layouts first, then flags, shapes, values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.case import Case, Layout


def shrink(
    case: Case,
    simpler: Callable[[Case], Iterator[Case]],
    still_fails: Callable[[Case], bool],
    *,
    tries: int,
) -> tuple[Case, bool]:
    """Follow the first simplification that still fails until none does, or ``tries`` cases were run.

    Returns the last case that failed, and whether every simplification of it passes.
    """
    seen = {case}
    while True:
        for candidate in simpler(case):
            if candidate in seen:
                continue
            seen.add(candidate)
            if tries <= 0:
                return case, False
            tries -= 1
            if still_fails(candidate):
                case = candidate
                break
        else:
            return case, True


def essentials(case: Case, simpler: Callable[[Case], Iterator[Case]]) -> tuple[str, ...]:
    """In words, what a smallest case cannot do without: each simplification that passes takes one thing away."""
    lost = (_lost(case, candidate) for candidate in simpler(case))
    return tuple(dict.fromkeys(words[0] for words in lost if len(words) == 1))


def _lost(case: Case, candidate: Case) -> list[str]:
    """What ``case`` has and ``candidate`` has not."""
    words, simpler = [], dict(candidate.tensors)
    if any(simpler[name].shape != spec.shape for name, spec in case.tensors if name in simpler):
        words.append(f"{case.tensors[0][0]} of shape {case.tensors[0][1].shape}")
    for name, spec in case.tensors:
        if name not in simpler:
            words.append(f"a {name}")
            continue
        plain = simpler[name]
        if spec.layout != plain.layout:
            words.append(f"{name} with {_MEANING[spec.layout.kind]}")
        if spec.dtype != plain.dtype:
            words.append(f"{name} in {spec.dtype}")
        if spec.values != plain.values:
            words.append(f"{name} with {spec.values} values")
    flags = dict(candidate.flags)
    words += [f"{name}={value!r}" for name, value in case.flags if flags.get(name) != value]
    return words


_MEANING = {
    "contiguous": "rows without a gap",
    "row_gap": "a gap between rows",
    "offset": "a first element off alignment",
    "step": "a stride between columns",
    "transposed": "rows and columns swapped in memory",
    "swapped": "its first two dimensions swapped in memory",
    "expanded": "stride 0: rows that share memory",
    "shared": "rows that are slices of a buffer it shares",
}


def plainer_layouts(case: Case) -> Iterator[Case]:
    """Every tensor contiguous; then one at a time."""
    strided = [name for name, spec in case.tensors if spec.layout != Layout()]
    if len(strided) > 1:
        plain = case
        for name in strided:
            plain = _contiguous(plain, name)
        yield plain
    for name in strided:
        yield _contiguous(case, name)


def _contiguous(case: Case, name: str) -> Case:
    spec = case.tensor(name)
    assert spec is not None
    return case.with_tensor(name, replace(spec, layout=Layout()))


def plainer_flags(case: Case, plain: dict[str, object]) -> Iterator[Case]:
    """One flag at a time at its plain value."""
    for name, value in plain.items():
        if case.flag(name) != value:
            yield case.with_flag(name, value)  # type: ignore[arg-type]  # the operation's own plain values


def plainer_values(case: Case, plain: dict[str, str]) -> Iterator[Case]:
    """One tensor at a time with the ordinary values of its kind."""
    for name, profile in plain.items():
        spec = case.tensor(name)
        if spec is not None and spec.values != profile:
            yield case.with_tensor(name, replace(spec, values=profile))


def smaller(size: int) -> Iterator[int]:
    """Sizes to try instead of ``size``: one, two, then halving, then one less."""
    candidates = [1, 2, 3, 16, size // 2, size - 1]
    for candidate in dict.fromkeys(candidates):
        if 1 <= candidate < size:
            yield candidate
