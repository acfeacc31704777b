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
) -> Case:
    """Follow the first simplification that still fails until none does, or ``tries`` cases were run."""
    seen = {case}
    while True:
        for candidate in simpler(case):
            if candidate in seen:
                continue
            seen.add(candidate)
            if tries <= 0:
                return case
            tries -= 1
            if still_fails(candidate):
                case = candidate
                break
        else:
            return case


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
