"""Search for the contract that outputs follow where they break the declared one, over an item's failing cases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, perform
from conformance.calls.materialize import values_of
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.oracle.bits import same_bits
from conformance.oracle.comparison import NOTHING, Comparison
from conformance.oracle.contract import Contract, contracts, in_braces, in_words
from conformance.properties.measure import measure

# cases that every candidate must explain: each costs one call, and one comparison per remaining candidate
MOST_FAILING, MOST_PASSING, MOST_OTHER = 8, 6, 2
# comparisons for the contract that explains most, where none explains all
MOST_MEASURED = 300
NARROW = 16  # columns
# elements of a case that is compared with every candidate
ENOUGH = 2**9


@dataclass(frozen=True, slots=True)
class Evidence:
    """Cases of one item: those whose outputs break the declared contract, and some whose outputs follow it."""

    failing: tuple[Case, ...]
    passing: tuple[Case, ...] = ()


@dataclass(slots=True, eq=False)
class Called:
    """One call of the evidence: its case, its values before the call, its outputs."""

    case: Case
    values: Mapping[str, torch.Tensor]
    outputs: tuple[torch.Tensor, ...]
    failed: bool = True


@dataclass(slots=True, eq=False)
class Followed:
    """A contract, and how much of some calls it explains."""

    contract: Contract
    total: Comparison = field(default=NOTHING)
    calls: tuple[int, int] = (0, 0)  # calls that the contract explains whole, of how many

    @property
    def share(self) -> float:
        """Return the share of the elements that the contract explains."""
        return 1 - self.total.outside / max(self.total.elements, 1)


def follow(subject: Subject, evidence: Evidence) -> str:
    """Return a sentence that names what the outputs of failing cases are instead, or nothing."""
    failing = list(called(subject, spread(evidence.failing, MOST_FAILING)))
    if not failing:
        return ""
    if found := _giveaway(failing):
        return found
    passing = called(subject, spread(evidence.passing, MOST_PASSING), failed=False)
    others = [
        other for case in evidence.failing[:MOST_OTHER] for other in (*_in_other_dtypes(case), *_narrow(case))
    ]
    calls = [*failing, *passing, *called(subject, others, failed=False)]
    return _sentence(subject, calls)


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """Return at most ``count`` cases, from the smallest to the largest."""
    ordered = sorted(cases, key=lambda case: (case.tensors[0][1].shape[-1:], case.rows, case.id))
    if len(ordered) <= most:
        return ordered
    return [ordered[place * (len(ordered) - 1) // (most - 1)] for place in range(most)]


def _in_other_dtypes(case: Case) -> Iterator[Case]:
    """Yield the case with every tensor of x's dtype in another one."""
    for dtype in DTYPES:
        if dtype == case.dtype:
            continue
        other = case
        for name, spec in case.tensors:
            if spec.dtype == case.dtype:
                other = other.with_tensor(name, replace(spec, dtype=dtype))
        yield other


def _narrow(case: Case) -> Iterator[Case]:
    """Yield a case of few columns, in which the order of a sum matters least, where rows can be cut."""
    n, flags = case.tensors[0][1].shape[-1], dict(case.flags)
    if n <= NARROW or OPERATIONS[case.operation].token_axes or flags.get("group_size"):
        return
    for name, spec in case.tensors:
        if spec.shape[-1:] == (n,):
            case = case.with_tensor(name, replace(spec, shape=(*spec.shape[:-1], NARROW)))
    yield case


def called(subject: Subject, cases: Sequence[Case], *, failed: bool = True) -> Iterator[Called]:
    """Call every case once; leave out calls that give nothing to compare."""
    for case in cases:
        values = values_of(case)
        outcome = perform(subject, case, values).outcome
        if isinstance(outcome, Ran) and _comparable(case, outcome.outputs):
            yield Called(case, values, outcome.outputs, failed)


def _comparable(case: Case, outputs: tuple[torch.Tensor, ...]) -> bool:
    """Return whether outputs have the required shapes and dtypes; strides may differ."""
    expected = [(output.shape, output.dtype) for output in OPERATIONS[case.operation].outputs(case)]
    return expected == [(tuple(output.shape), output.dtype) for output in outputs]


# --- outputs that were not computed ----------------------------------------------------------------------------


def _giveaway(calls: Sequence[Called]) -> str:
    """Return the sign, common to all calls, that outputs were not computed, or nothing."""
    telling = [_not_computed(made) for made in calls if any(output.numel() > 1 for output in made.outputs)]
    every = [said for said in telling[0] if all(said in others for others in telling)] if telling else []
    return every[0] if every else ""


def _not_computed(made: Called) -> list[str]:
    """Return how uncomputed outputs look: an argument as it was before the call, or one number."""
    found = []
    for output in made.outputs:
        for name, value in made.values.items():
            # the call may have overwritten the argument itself
            alike = value.shape == output.shape and value.dtype == output.dtype and output.numel()
            if alike and same_bits(value, output.cpu()):
                found.append(f"an output is {name} as it came")
        if output.numel() > 1 and same_bits(output, output.flatten()[0].expand(output.shape)):
            found.append(f"an output is {float(output.flatten()[0]):.9g} everywhere")
    return found


# --- outputs of another contract -------------------------------------------------------------------------------


def _sentence(subject: Subject, calls: Sequence[Called]) -> str:
    """Return what the declared contract explains, and which one explains everything, if one does."""
    failing = [made for made in calls if made.failed]
    operation = failing[0].case.operation
    declarable = OPERATIONS[operation].rounds
    visible = {name for made in calls for name in OPERATIONS[operation].points(made.case)}
    points = tuple(point.name for point in declarable if point.name in visible)
    declared = Followed(subject.contract(operation))
    for made in failing:
        declared.total += _measured(subject, declared.contract, made)
    if not declared.total.outside:
        return ""
    low = [made for made in failing if made.case.dtype != "float32"]
    # float32 outputs do not show where an implementation rounds
    sets = [Contract(rounds, declared.contract.depth) for rounds in sets_of(points)] if low else []
    first = min(low or failing, key=lambda made: (_elements(made) < ENOUGH, _elements(made)))
    ordered = [first, *(made for made in calls if made is not first)]
    found = explaining(subject, [*sets, Contract(declared.contract.rounds, "serial")], ordered)
    if not low and found[0].total.outside:
        return ""
    shown = in_words(declared.contract, declarable, points)
    said = f"the declared contract {shown} explains {declared.share:.2%} of the elements"
    return f"{said}; {_advice(found, declared.contract, points, contracts(declarable))}"


def explaining(subject: Subject, candidates: Sequence[Contract], calls: Sequence[Called]) -> list[Followed]:
    """Return the contracts that explain every call, smaller sets first; else only the contract that came nearest.

    A call is compared only with candidates that explain all calls before it.
    """
    left = [Followed(contract) for contract in candidates]
    for made in calls:
        for candidate in left:
            candidate.total += _measured(subject, candidate.contract, made)
        left = [candidate for candidate in left if not candidate.total.outside]
    if left:
        depth = candidates[0].depth
        return sorted(left, key=lambda f: (f.contract.depth != depth, len(f.contract.rounds)))
    some = calls[: max(1, MOST_MEASURED // len(candidates))]
    best = max((_over(subject, contract, some) for contract in candidates), key=_how_much)
    return [_over(subject, best.contract, calls)]


def _how_much(followed: Followed) -> tuple[int, int, float]:
    """Return how much a contract explains: whole calls first; among equals fewer points, then more elements."""
    whole, _ = followed.calls
    return whole, -len(followed.contract.rounds) if whole else 0, followed.share


def _over(subject: Subject, contract: Contract, calls: Sequence[Called]) -> Followed:
    """Return how much a contract explains of all calls."""
    measured = [_measured(subject, contract, made) for made in calls]
    whole = sum(not comparison.outside for comparison in measured)
    return Followed(contract, sum(measured, NOTHING), (whole, len(measured)))


def _measured(subject: Subject, contract: Contract, made: Called) -> Comparison:
    return measure(subject, contract, made.case, made.values, made.outputs)


def _elements(made: Called) -> int:
    return sum(output.numel() for output in made.outputs)


def sets_of(points: tuple[str, ...]) -> list[frozenset[str]]:
    """Return every set of rounding points, smaller ones first."""
    sizes = range(len(points) + 1)
    return [frozenset(chosen) for size in sizes for chosen in itertools.combinations(points, size)]


def _advice(
    found: Sequence[Followed], declared: Contract, points: tuple[str, ...], named: Mapping[str, frozenset[str]]
) -> str:
    """Return which contract to declare, or that none explains all; ``named`` are the sets that have a name."""
    best = found[0]
    if best.total.outside:
        shown = in_braces(best.contract, points)
        part = f"{shown}, {min(best.share, 0.9999):.2%}"
        several = "; that explains {} of {} calls whole".format(*best.calls) if best.calls[1] > 1 else ""
        return f"no set of rounding points explains all (best: {part}){several}"
    if best.contract.depth != declared.depth:
        return "with a serial sum it explains all: declare depth='serial'"
    alike = [f.contract for f in found[1:] if f.contract.depth == best.contract.depth]
    alike = [contract for contract in alike if len(contract.rounds) == len(best.contract.rounds)]
    if alike:
        others = " or ".join(in_braces(contract, points) for contract in (best.contract, *alike))
        return f"these cases do not tell apart what explains all: {others}"
    # a name that says nothing of these calls is left out, and is not one of several that explain them
    fits = {f.contract.rounds for f in found if f.contract.depth == best.contract.depth}
    relevant = {name: rounds & set(points) for name, rounds in named.items() if not rounds or rounds & set(points)}
    names = [name for name, rounds in relevant.items() if rounds in fits]
    name = names[0] if len(names) == 1 and relevant[names[0]] == best.contract.rounds else ""
    hint = f" (named: {name})" if name else ""
    return f"{in_braces(best.contract, points)} explains all{hint}: declare it, or round where the contract does"
