"""A result follows every element of its arguments: none is kept from an earlier call that was almost the same.

An implementation that caches results, or anything derived from an argument, needs a key: the address, the version,
a few numbers, a sum. The calls of a case have the same tensors at the same addresses and of the same versions.
Between two calls one element changes, somewhere inside, or two elements change places, which no sum notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, arguments_of, call_with, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import Operation
from conformance.oracle.interval import Interval
from conformance.properties.measure import amiss, apart, stored
from conformance.properties.property import Fixed, Property, contiguous, narrowed, several_rows

# places that a number is exchanged with, until the exchange shows
TRIES = 8
# places of one argument among which one is looked for whose change shows
PLACES = 2**16

Place = tuple[int, ...]
Values = Mapping[str, torch.Tensor]
Allowed = Mapping[str, Interval]  # of every output


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A change of one argument in ``places``, and the values of all arguments after the change."""

    name: str
    places: tuple[Place, ...]
    values: Values

    def __str__(self) -> str:
        where = " and ".join(f"{self.name}[{', '.join(map(str, place))}]" for place in self.places)
        return f"{where} changed" if len(self.places) == 1 else f"{where} exchanged"

    def numbers(self) -> list[float]:
        """Return the new numbers, place by place."""
        return [self.values[self.name][place].item() for place in self.places]


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call, and call again after every step with the same tensors: each result must be that of the new numbers."""
    arguments = arguments_of(materialize(case, values_for(subject, case), subject.device, POISONS[0]))
    outcome = call_with(subject, case, arguments)
    if not isinstance(outcome, Ran):
        return (without_outputs("kept_results", case, outcome),)
    if amiss(subject, case, values_for(subject, case), outcome.outputs):
        return (Verdict("kept_results", case, Status.NOT_JUDGED, "the result is wrong before anything changes"),)
    changes = list(steps(subject, case))
    if not changes:
        return (Verdict("kept_results", case, Status.NOT_JUDGED, "no single element shows in the result"),)
    for step in changes:
        for place, number in zip(step.places, step.numbers(), strict=True):
            # write as a kernel does: torch's version counter does not change
            arguments[step.name].data[place] = number
        outcome = call_with(subject, case, arguments)
        if not isinstance(outcome, Ran):
            return (replace(without_outputs("kept_results", case, outcome), reason=f"{step}: {outcome}"),)
        wrong = amiss(subject, case, dict(step.values), outcome.outputs)
        if wrong:
            return (Verdict("kept_results", case, Status.FAILED, f"after {step}: {wrong}"),)
    return (Verdict("kept_results", case, Status.PASSED),)


def steps(subject: Subject, case: Case) -> Iterator[Step]:
    """Yield the changes of a case, each on top of the earlier ones: one element of every argument, then two."""
    values = values_for(subject, case)
    allowed: Allowed = stored(subject, subject.contract(case.operation), case, values)
    for name, _ in case.tensors:
        if case.source(name) != name:
            continue
        for exchanged in (False, True):
            found = _step(subject, case, values, allowed, name, exchanged=exchanged)
            if found is not None:
                step, allowed = found
                values = dict(step.values)
                yield step


def _step(
    subject: Subject, case: Case, values: Values, before: Allowed, name: str, *, exchanged: bool
) -> tuple[Step, Allowed] | None:
    """Return a change of an argument that shows in the result, at a place that the seed chooses; or None.

    ``before`` is what may be stored without the change, and what may be stored with it is returned beside it.
    """
    # drawn on the CPU, so that every device changes the same elements
    places = _shuffled(values[name].shape, case.seed + exchanged).to(values[name].device)
    contract = subject.contract(case.operation)
    after = before  # with the change that was looked at last, which is the one that is found

    def shows(changed: torch.Tensor) -> bool:
        nonlocal after
        after = stored(subject, contract, case, {**values, name: changed})
        return any(bool(apart(before[output], after[output]).any()) for output in before)

    place = _telling(places, lambda some: shows(_other(values[name], some)))
    changed = _other(values[name], place)
    if exchanged:
        different = values[name][tuple(places.t())] != values[name][tuple(place.t())]
        pairs = (torch.cat([place, partner]) for partner in places[different][:TRIES, None])
        place = next((pair for pair in pairs if shows(_exchanged(values[name], pair))), place[:0])
        changed = _exchanged(values[name], place)
    chosen = tuple(tuple(one) for one in place.tolist())
    return (Step(name, chosen, {**values, name: changed}), after) if chosen else None


def _shuffled(shape: torch.Size, seed: int) -> torch.Tensor:
    """Return places in random order, at most ``PLACES``, first those at no end and no middle of a dimension."""
    generator = torch.Generator().manual_seed(seed)
    if shape.numel() <= PLACES:
        numbers = torch.arange(shape.numel())
    else:
        # to list and to shuffle all of millions takes seconds
        numbers = torch.randint(shape.numel(), (PLACES,), generator=generator)
    places = torch.stack(torch.unravel_index(numbers, shape), dim=1)
    inside = torch.ones(len(places), dtype=torch.bool)
    for dim, size in enumerate(shape):
        if size > 3:
            for place in (0, size // 2, size - 1):
                inside &= places[:, dim] != place
    inner, outer = (
        some[torch.randperm(len(some), generator=generator)] for some in (places[inside], places[~inside])
    )
    return torch.cat([inner, outer])


def _telling(places: torch.Tensor, shows: Callable[[torch.Tensor], bool]) -> torch.Tensor:
    """Return the first place if its change shows, else a place found by repeated halving, or no place."""
    if shows(places[:1]):
        return places[:1]
    while len(places) > 1:
        half = places[: len(places) // 2]
        places = half if shows(half) else places[len(half) :]
    return places if shows(places) else places[:0]


def _other(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the tensor with opposite numbers in some places, or with other positions taken from its own.

    The opposite of zero would not show, and that of an infinity would hide all else: both become one.
    """
    changed, index = tensor.clone(), tuple(places.t())
    if tensor.dtype == torch.bool:
        changed[index] = ~tensor[index]
    elif tensor.is_floating_point():
        number = tensor[index]
        changed[index] = torch.where(number.isfinite() & (number != 0), -number, torch.ones_like(number))
    else:
        changed[index] = tensor.max() - tensor[index]
    return changed


def _exchanged(tensor: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """Return the tensor with the numbers of two places exchanged."""
    changed = tensor.clone()
    changed[tuple(pair.t())] = tensor[tuple(pair.flip(0).t())]
    return changed


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels: plain calls with every optional tensor and many rows, most not first or last."""
    there = tuple(
        (name, tuple(level for level in operation.factors.get(name, ()) if level != "none"))
        for name in (*operation.positional, *operation.keywords)
    )
    plain = (("values", ("normal",)), ("width", ("tile",)), ("rows", ("many",)))
    return narrowed(operation, contiguous(operation), several_rows(operation), there, plain)


KEPT_RESULTS = Property(
    "kept_results",
    "a result follows every element of the arguments, whatever was called before",
    judge,
    fixed=fixed,
)
