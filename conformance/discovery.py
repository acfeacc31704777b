"""What outputs do follow, where they break the declared contract."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from conformance.adapter import Ran
from conformance.bits import same_bits
from conformance.calling import Subject, metadata, perform
from conformance.case import Case
from conformance.materialize import values_of
from conformance.measure import measure
from conformance.operations import OPERATIONS
from conformance.oracle.contract import NAMED, Contract


@dataclass(frozen=True, slots=True)
class Followed:
    """How much of an output a set of rounding points explains."""

    contract: Contract
    share: float


def discover(subject: Subject, case: Case) -> tuple[Followed, ...]:
    """Which sets of rounding points the outputs follow, best first, smaller sets before larger ones.

    Ends with the declared contract. Empty where the call gives nothing to compare.
    """
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran) or metadata(subject, case, made.outcome.outputs):
        return ()
    declared = subject.contract(case.operation)
    values = values_of(case)

    def followed(contract: Contract) -> Followed:
        assert isinstance(made.outcome, Ran)
        result = measure(subject, contract, case, values, made.outcome.outputs)
        return Followed(contract, 1 - result.outside / max(result.elements, 1))

    found = [followed(Contract(rounds, declared.depth)) for rounds in _sets(case)]
    found.append(followed(Contract(declared.rounds, "serial")))
    found.sort(key=lambda f: (-f.share, len(f.contract.rounds)))
    return (*found, followed(declared))


def _sets(case: Case) -> list[frozenset[str]]:
    points = OPERATIONS[case.operation].points(case)
    sizes = range(len(points) + 1)
    return [frozenset(chosen) for size in sizes for chosen in itertools.combinations(points, size)]


def giveaway(subject: Subject, case: Case) -> str:
    """What gives outputs away that were not computed: an argument returned as it came, one number everywhere."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran):
        return ""
    for output in made.outcome.outputs:
        for name, argument in made.materials.arguments.items():
            same = isinstance(argument, torch.Tensor) and argument.shape == output.shape and output.numel()
            if same and argument.dtype == output.dtype and same_bits(argument, output):
                return f"an output is {name} as it came"
        if output.numel() > 1 and same_bits(output, output.flatten()[0].expand(output.shape)):
            return f"an output is {float(output.flatten()[0]):.9g} everywhere"
    return ""


def what_it_follows(subject: Subject, case: Case) -> str:
    """Discovery in a sentence: the contract that the outputs do follow, or that none explains them."""
    found = discover(subject, case)
    if not found:
        return ""
    declared, best = found[-1], found[0]
    said = f"the declared contract {declared.contract} explains {declared.share:.2%} of the elements"
    if best.share < 1.0:
        return f"{said}; no set of rounding points explains all (best: {best.contract}, {best.share:.2%})"
    if best.contract.rounds == declared.contract.rounds:
        return f"{said}; with a serial sum it explains all: declare depth='serial'"
    relevant = set(OPERATIONS[case.operation].points(case))
    fits = [f.contract for f in found[:-1] if f.share == 1.0]
    names = [
        name
        for name, rounds in NAMED.items()
        # a name that says nothing of this call is none for what was found
        if (not rounds or rounds & relevant) and any(rounds & relevant == c.rounds for c in fits)
    ]
    hint = f" (named: {', '.join(names)})" if names else ""
    return f"{said}; {fits[0]} explains all{hint}: declare it, or round where the contract does"
