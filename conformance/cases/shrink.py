"""Search for the smallest case that still fails: plainer layouts first, then flags, shapes, values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from conformance.cases.case import SAME, Case, Layout

Simpler = Callable[[Case], Iterator[Case]]


def shrink(case: Case, simpler: Simpler, still_fails: Callable[[Case], bool], *, tries: int) -> tuple[Case, bool]:
    """Follow the first simplification that still fails until none does, or ``tries`` cases were run.

    Returns the last case that failed, and whether every simplification of it was tried and does not fail.
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


def essentials(case: Case, passing: Iterable[Case]) -> tuple[str, ...]:
    """Return in words the features that a failing case needs: each passing simplification takes one away."""
    lost = (_lost(case, candidate) for candidate in passing)
    return tuple(dict.fromkeys(words[0] for words in lost if len(words) == 1))


def keeps_the_cause(case: Case, drawn: Case, passing: Iterable[Case]) -> bool:
    """Return whether a case still has every feature without which the failing ``drawn`` case passes.

    ``passing``: simplifications of the drawn case that pass. A case that lost the same features as one of these,
    or is smaller than one of these, fails for another reason.
    """
    had, has = _features(drawn), _features(case)
    for simpler in passing:
        features = _features(simpler)
        changed = {name for name in had if features.get(name) != had[name]}
        if "rank" in changed:
            # a change of rank changes every size
            changed = {"rank"}
        if all(name not in has or _lost_as_well(has[name], features.get(name)) for name in changed):
            return False
    return True


def _lost_as_well(has: object, passing: object) -> bool:
    both_sizes = isinstance(has, _Size) and isinstance(passing, _Size)
    return bool(has <= passing) if both_sizes else has == passing  # type: ignore[operator]  # both are sizes


class _Size(int):
    """A size of a tensor: one below a passing size counts as lost as well."""


def _features(case: Case) -> dict[str, object]:
    """Return the features that a simplification may take away, by name."""
    features: dict[str, object] = {"rank": len(case.tensors[0][1].shape), **dict(case.flags)}
    for name, spec in case.tensors:
        features[f"{name} layout"] = spec.layout
        if case.source(name) == name:
            features |= {f"{name} dtype": spec.dtype, f"{name} values": spec.values}
            features |= {f"{name} size {place}": _Size(size) for place, size in enumerate(spec.shape[:-1])}
            features |= {f"{name} columns": _Size(size) for size in spec.shape[-1:]}
    return features


def _lost(case: Case, candidate: Case) -> list[str]:
    """Return in words the features of ``case`` that ``candidate`` lacks."""
    words, simpler = [], dict(candidate.tensors)
    resized = [n for n, spec in case.tensors if n in simpler and simpler[n].shape != spec.shape]
    # the first resized tensor stands for the others, which follow its shape
    words += [f"{name} of shape {dict(case.tensors)[name].shape}" for name in resized[:1]]
    for name, spec in case.tensors:
        if name not in simpler:
            words.append(f"a {name}")
            continue
        plain = simpler[name]
        if spec.layout.kind != plain.layout.kind or spec.layout.amount != plain.layout.amount:
            words.append(f"{name} {_meaning(case, spec.layout)}")
        if spec.layout.kind == SAME:
            # dtype and values are the first tensor's, or were
            continue
        if spec.dtype != plain.dtype:
            words.append(f"{name} in {spec.dtype}")
        if spec.values != plain.values:
            words.append(f"{name} with {spec.values} values")
    flags = dict(candidate.flags)
    words += [f"{name}={value!r}" for name, value in case.flags if flags.get(name) != value]
    return words


def _meaning(case: Case, layout: Layout) -> str:
    first, _ = case.tensors[0]
    far = f" of {layout.amount:,} elements" if layout.amount > FAR else ""
    return MEANING[layout.kind].format(first=first, far=far)


FAR = 2**20  # elements: strides whose size is the point
# layouts in the words of explanations, to follow a tensor's name
MEANING = {
    "contiguous": "contiguous",
    "row_gap": "with a gap{far} between rows",
    "offset": "with a first element off alignment",
    "step": "with a stride{far} between columns",
    "transposed": "with rows and columns swapped in memory",
    "swapped": "with its first two dimensions swapped in memory",
    "expanded": "with stride 0: rows that share memory",
    "shared": "with rows that are slices of a buffer it shares",
    "slice": "with rows that are slices of longer ones",
    SAME: "that is {first} itself",
}


def plainer_layouts(case: Case) -> Iterator[Case]:
    """Yield the case with every tensor contiguous; then with one tensor at a time contiguous."""
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
    """Yield the case with one flag at a time at its plain value."""
    for name, value in plain.items():
        if case.flag(name) != value:
            yield case.with_flag(name, value)  # type: ignore[arg-type]  # the operation's own plain values


def plainer_values(case: Case, plain: dict[str, str]) -> Iterator[Case]:
    """Yield the case with one tensor at a time at the ordinary values of its kind."""
    for name, profile in plain.items():
        spec = case.tensor(name)
        if spec is not None and spec.values != profile:
            yield case.with_tensor(name, replace(spec, values=profile))


def smaller(size: int) -> Iterator[int]:
    """Yield sizes to try instead of ``size``: small ones, then half, then one less."""
    candidates = [1, 2, 3, 16, size // 2, size - 1]
    for candidate in dict.fromkeys(candidates):
        if 1 <= candidate < size:
            yield candidate
