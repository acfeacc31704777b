"""Results that are written into tensors of the caller are those of the formula, wherever these tensors lie.

A given output may have gaps, lie between the rows of an argument, or be woven with one by other strides:
everything beside its elements stays as it was. Where it shares memory with an argument, with another output or
with itself, a kernel reads what it has written: such a call is refused, and writes nothing, or its results are
right. So is one whose output does not fit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from conformance.adapter import Crashed, Declined, Ran, poisons
from conformance.calls.call import Subject, arguments_of, call_with, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS, Owner, read
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case, Placement
from conformance.cases.factors import EVERYTHING
from conformance.operations import OPERATIONS, Arguments, Operation, Output
from conformance.operations.rows import count, with_rows
from conformance.oracle.comparison import NOTHING, Comparison
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary

FORM = "_out"
GAP = 8  # elements between rows
SEVERAL = 2  # rows, or dimensions
WEAVES = 6  # calls whose output has other strides than the argument that it lies among
CANDIDATES = 24  # pairs of strides of which one is chosen
WIDEST_STEP = 4  # elements from one to the next
HALF = 0.5
MANY_ROWS, MOST_ELEMENTS = 64, 2**15  # of calls whose outputs share memory with an argument
POISON = POISONS[0]


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """The outputs of a call, what they lie in, and its arguments. ``wrong``: why it may be refused, or nothing."""

    outputs: tuple[torch.Tensor, ...]
    owners: tuple[Owner, ...]
    arguments: Arguments
    wrong: str = ""


Own = Callable[[Subject, Case, Arguments], Given]
Shape = tuple[int, ...]
Pair = tuple[torch.Tensor, torch.Tensor]
Cut = Callable[[torch.Tensor, Shape], Pair]  # an argument and the output, from a buffer
Place = Callable[[Subject, Case, Arguments], Given | None]


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call with outputs in memory of their own, in a layout that the seed chooses, then in all other ways.

    Who does not declare strided outputs may refuse them: a contiguous one is given then.
    """
    own, traits = list(OWN), subject.traits(case.operation)
    name, many = own[case.seed % len(own)], _of_many_rows(subject, case)
    unfit = UNFIT.values() if traits.validates else ()
    comparison = NOTHING
    woven = [_woven(number) for number in range(WEAVES)] if traits.strided_outputs else []
    calls = [
        (case, OWN[name]),
        *((many, place) for place in (*SHARED.values(), *woven)),
        *((case, p) for p in unfit),
    ]
    for called, place in calls:
        verdict = replace(_judge(subject, called, place), case=case)
        refused = verdict.status is Status.DECLINED or (
            verdict.status is Status.CRASHED and not poisons(verdict.reason)
        )
        if refused and place is OWN[name] and name in STRIDED and not traits.strided_outputs:
            verdict = _judge(subject, case, OWN["contiguous"])
        if called is not case and verdict.status is Status.FAILED:
            verdict = replace(verdict, reason=f"{verdict.reason}; in a call of {count(called)} rows")
        if verdict.status is not Status.PASSED:
            return (verdict,)
        comparison += verdict.comparison
    return (Verdict("given_outputs", case, Status.PASSED, "", comparison),)


def _of_many_rows(subject: Subject, case: Case) -> Case:
    """Return the call with more rows, if that is claimed: one program may read all of a few before it writes."""
    shape = case.tensors[0][1].shape
    many = with_rows(case, max(shape[0], min(MANY_ROWS, MOST_ELEMENTS // max(1, math.prod(shape[1:])))))
    return many if subject.traits(case.operation).claim == EVERYTHING else case


def _judge(subject: Subject, case: Case, place: Place) -> Verdict:
    """Judge one call. One whose outputs cannot be in this place is not made."""
    values = values_for(subject, case)
    materials = materialize(case, dict(values), subject.device, POISON)
    given = place(subject, case, arguments_of(materials))
    if given is None:
        return Verdict("given_outputs", case, Status.PASSED)
    before = [owner.content() for owner in given.owners]
    held = [(out.clone(), out._version) for out in given.outputs]  # noqa: SLF001 - torch's only word for it
    outcome = call_with(subject, case, {**given.arguments, "out": given.outputs}, FORM)
    refused = isinstance(outcome, Declined) or (isinstance(outcome, Crashed) and not poisons(outcome.how))
    if refused and given.wrong:
        if _kept(given, before) and all(read(materials.kept())):
            return Verdict("given_outputs", case, Status.PASSED)
        return _failed(case, f"refused, as {given.wrong}, after something was written")
    if not isinstance(outcome, Ran):
        return without_outputs("given_outputs", case, outcome)
    said = _elsewhere(case, given, outcome)
    if said:
        return _failed(case, f"{given.wrong}, which was accepted: {said}" if given.wrong else said)
    comparison = measure(subject, subject.contract(case.operation), case, values, given.outputs)
    if comparison.outside:
        said = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        return _failed(case, f"{given.wrong}, which was accepted: {said}" if given.wrong else said, comparison)
    if not given.wrong:
        silent = any(out._version == version for out, (_, version) in zip(given.outputs, held, strict=True))  # noqa: SLF001
        if silent:
            return _failed(case, "a given output is still at its version from before it was written")
        for out, (old, _) in zip(given.outputs, held, strict=True):
            out.copy_(old)
        if not _kept(given, before):
            return _failed(case, "memory beside a given output was written")
        if not all(read(materials.kept())):
            return _failed(case, "an argument was changed")
    return Verdict("given_outputs", case, Status.PASSED, "", comparison)


def _failed(case: Case, reason: str, comparison: Comparison = NOTHING) -> Verdict:
    return Verdict("given_outputs", case, Status.FAILED, reason, comparison)


def _kept(given: Given, before: list[torch.Tensor]) -> bool:
    return all(read([owner.holds(content) for owner, content in zip(given.owners, before, strict=True)]))


def _elsewhere(case: Case, given: Given, outcome: Ran) -> str:
    """Return that results are not in the outputs that were given, or cannot be; or nothing."""
    wanted = _outputs(case)
    for want, out in zip(wanted, given.outputs, strict=True):
        if (tuple(out.shape), out.dtype) != (want.shape, want.dtype):
            return f"{want.name} has no such tensor for its result"
    for want, out, got in zip(wanted, given.outputs, outcome.outputs, strict=False):
        if (got.data_ptr(), got.shape, got.stride()) != (out.data_ptr(), out.shape, out.stride()):
            return f"returned another tensor for {want.name} than the one that was given"
    return ""


def _room(subject: Subject, want: Output, strides: tuple[int, ...]) -> tuple[torch.Tensor, Owner]:
    """Return a tensor for an output with the given strides, in a guarded buffer."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(want.shape, strides, strict=True))
    owner = Owner.of(extent * want.dtype.itemsize, subject.device, POISON)
    return owner.view(want.shape, want.dtype, Placement(strides, 0, extent)), owner


def _strides(shape: tuple[int, ...], step: int = 1, gap: int = 0) -> tuple[int, ...]:
    """Return strides of rows of columns that are ``step`` apart, with a gap after each row."""
    found, reach = [], step
    for place, size in enumerate(reversed(shape)):
        found.append(reach)
        reach = reach * max(size, 1) + (gap if place == 0 else 0)
    return tuple(reversed(found))


def _own(step: int = 1, gap: int = 0) -> Own:
    def place(subject: Subject, case: Case, arguments: Arguments) -> Given:
        rooms = [_room(subject, want, _strides(want.shape, step, gap)) for want in _outputs(case)]
        return Given(tuple(out for out, _ in rooms), tuple(owner for _, owner in rooms), arguments)

    return place


def _outputs(case: Case) -> tuple[Output, ...]:
    return OPERATIONS[case.operation].outputs(case)


def _alike(case: Case) -> str:
    """Return an argument of the first output's shape and dtype, which the seed chooses; or nothing."""
    want = _outputs(case)[0]
    names = [
        name for name, spec in case.tensors if (spec.shape, getattr(torch, spec.dtype)) == (want.shape, want.dtype)
    ]
    return names[case.seed // len(OWN) % len(names)] if names else ""


def _beside(width: Callable[[Shape], Shape], cut: Cut) -> Own:
    """Return the place of an output in a buffer of an argument, of which it shares no byte; or of its own."""

    def place(subject: Subject, case: Case, arguments: Arguments) -> Given:
        given, name = _own()(subject, case, arguments), _alike(case)
        return _cut(subject, case, given, name, width, cut) if name else given

    return place


def _over(width: Callable[[Shape], Shape], cut: Cut, fewest: int = 1) -> Place:
    """Return the place of an output in a buffer of an argument, some of whose bytes it shares."""

    def place(subject: Subject, case: Case, arguments: Arguments) -> Given | None:
        want, name = _outputs(case)[0], _alike(case)
        if not name or want.shape[0] < fewest:
            return None
        said = f"{want.name} overlaps {name}"
        return _cut(subject, case, _own()(subject, case, arguments), name, width, cut, said)

    return place


def _cut(
    subject: Subject,
    case: Case,
    given: Given,
    name: str,
    width: Callable[[Shape], Shape],
    cut: Cut,
    wrong: str = "",
) -> Given:
    """Return a call in which the first output and an argument are cut from one buffer."""
    want = _outputs(case)[0]
    shape = width(want.shape)
    both, owner = _room(subject, replace(want, shape=shape), _strides(shape))
    source, out = (part.view(want.shape) for part in cut(both, want.shape))
    return _with(given, out, owner, {**given.arguments, name: source.copy_(given.arguments[name])}, wrong)


def _with(given: Given, out: torch.Tensor, owner: Owner, arguments: Arguments, wrong: str = "") -> Given:
    """Return the outputs with another first one."""
    return Given((out, *given.outputs[1:]), (owner, *given.owners[1:]), arguments, wrong)


def _expanded(subject: Subject, case: Case, arguments: Arguments) -> Given | None:
    """Give an output all of whose rows are one."""
    want = _outputs(case)[0]
    if len(want.shape) < SEVERAL or want.shape[0] < SEVERAL:
        return None
    out = _room(subject, want, (0, *_strides(want.shape)[1:]))
    return _with(_own()(subject, case, arguments), *out, arguments, f"rows of {want.name} share memory")


def _same(subject: Subject, case: Case, arguments: Arguments) -> Given | None:
    """Give one tensor for two outputs."""
    one, *others = _outputs(case)
    if not others or (one.shape, one.dtype) != (others[0].shape, others[0].dtype):
        return None
    given = _own()(subject, case, arguments)
    outputs = (given.outputs[0], given.outputs[0], *given.outputs[2:])
    return replace(given, outputs=outputs, wrong=f"{one.name} and {others[0].name} are one tensor")


def _longer(subject: Subject, case: Case, arguments: Arguments) -> Given:
    """Give an output of one column more."""
    want = _outputs(case)[0]
    shape = (*want.shape[:-1], want.shape[-1] + 1)
    out = _room(subject, replace(want, shape=shape), _strides(shape))
    return _with(_own()(subject, case, arguments), *out, arguments, f"{want.name} has a column too many")


def _other_dtype(subject: Subject, case: Case, arguments: Arguments) -> Given:
    """Give an output in float64."""
    want = _outputs(case)[0]
    out = _room(subject, replace(want, dtype=torch.float64), _strides(want.shape))
    return _with(_own()(subject, case, arguments), *out, arguments, f"{want.name} is torch.float64")


def _woven(number: int) -> Place:
    """Return the place of an output that has other strides than an argument in the same memory."""

    def place(subject: Subject, case: Case, arguments: Arguments) -> Given | None:
        want, name = _outputs(case)[0], _alike(case)
        if not name:
            return None
        rng = random.Random(f"{case.seed}/{number}")  # noqa: S311 - reproducible, not secret
        both = weave(rng, want.shape, number)
        owner = Owner.of(both.extent * want.dtype.itemsize, subject.device, POISON)
        source, out = (
            owner.view(want.shape, want.dtype, Placement(strides, start, both.extent))
            for strides, start in (both.argument, both.output)
        )
        wrong = f"{want.name} shares {both.shared} elements with {name}" if both.shared else ""
        if subject.traits(case.operation).claim != EVERYTHING:
            wrong = wrong or f"{want.name} lies among the elements of {name}"
        own = _own()(subject, case, arguments)
        return _with(own, out, owner, {**arguments, name: source.copy_(arguments[name])}, wrong)

    return place


def weave(rng: random.Random, shape: Shape, number: int) -> Weave:
    """Choose two tensors of a shape in one buffer, in one of three ways by turns.

    The first rows of the output are written over the last ones of the argument, as often as can be; then nothing
    is shared; then as little as can be.
    """
    order: tuple[Callable[[Weave], tuple[int, ...]], ...] = (
        lambda each: (-each.early,),
        lambda each: (each.shared,),
        lambda each: (not each.early, not each.shared, each.shared),
    )
    return min((Weave.drawn(rng, shape) for _ in range(CANDIDATES)), key=order[number % len(order)])


@dataclass(frozen=True, slots=True)
class Weave:
    """Strides and first elements of two tensors in one buffer, its size, and how many elements they share.

    ``early`` of these are in the first half of the output's rows, and the last half of the argument's.
    """

    argument: tuple[Shape, int]
    output: tuple[Shape, int]
    extent: int
    shared: int
    early: int

    @classmethod
    def drawn(cls, rng: random.Random, shape: Shape) -> Weave:
        """Draw two tensors of a shape of which neither lies wholly before the other."""
        one, other = (_loose(rng, shape) for _ in range(2))
        ends = [
            1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
            for strides in (one, other)
        ]
        apart = rng.randrange(1 - ends[1], ends[0])
        starts = max(0, -apart), max(0, apart)
        extent = max(start + end for start, end in zip(starts, ends, strict=True))
        rows = math.prod(shape[:-1])
        half = torch.arange(rows).ge(rows // 2).add(1).reshape(*shape[:-1], 1).expand(shape)  # 1, then 2
        taken = torch.zeros(extent, dtype=half.dtype)
        taken.as_strided(shape, one, starts[0]).copy_(half)
        found = taken.as_strided(shape, other, starts[1])
        shared, early = (int(each.sum()) for each in (found > 0, (found > 1) & (half == 1)))
        return cls((one, starts[0]), (other, starts[1]), extent, shared, early)


def _loose(rng: random.Random, shape: Shape) -> Shape:
    """Draw strides with gaps inside and between rows; or with the columns outermost."""
    *leading, columns = shape
    rows, step, by_rows = math.prod(leading), rng.randint(1, WIDEST_STEP), rng.random() < HALF
    outer = step * ((columns if by_rows else rows) - 1) + 1 + rng.randrange(2 * step)
    of_rows, of_columns = (outer, step) if by_rows else (step, outer)
    return (*(of_rows * each for each in _strides(tuple(leading))), of_columns)


def _twice(shape: Shape) -> Shape:
    return (*shape[:-1], 2 * shape[-1])


def _flat(shape: Shape) -> Shape:
    return (2 * math.prod(shape),)


def _halves(both: torch.Tensor, _shape: Shape) -> Pair:
    return both[..., : both.shape[-1] // 2], both[..., both.shape[-1] // 2 :]


# x and the output, in an argument's buffer: between its rows, between its columns, directly behind and before it
OWN: dict[str, Own] = {
    "contiguous": _own(),
    "gaps": _own(gap=GAP),
    "step": _own(step=2),
    "between rows": _beside(_twice, _halves),
    "between columns": _beside(_twice, lambda both, _: (both[..., ::2], both[..., 1::2])),
    "behind": _beside(_flat, _halves),
    "before": _beside(_flat, lambda both, shape: _halves(both, shape)[::-1]),
}
STRIDED = frozenset({"gaps", "step", "between rows", "between columns"})
# a row later and earlier, with one column in common, with one element, and all of it with the columns outermost
SHARED: dict[str, Place] = {
    "later": _over(lambda shape: (shape[0] + 1, *shape[1:]), lambda both, _: (both[:-1], both[1:]), SEVERAL),
    "earlier": _over(lambda shape: (shape[0] + 1, *shape[1:]), lambda both, _: (both[1:], both[:-1]), SEVERAL),
    "column": _over(
        lambda shape: (*shape[:-1], 2 * shape[-1] - 1),
        lambda both, shape: (both[..., : shape[-1]], both[..., shape[-1] - 1 :]),
    ),
    "last": _over(
        lambda shape: (2 * math.prod(shape) - 1,),
        lambda both, shape: (both[: math.prod(shape)], both[math.prod(shape) - 1 :]),
    ),
    "first": _over(
        lambda shape: (2 * math.prod(shape) - 1,),
        lambda both, shape: (both[math.prod(shape) - 1 :], both[: math.prod(shape)]),
    ),
    "transposed": _over(lambda shape: shape, lambda both, shape: (both, both.view(shape[-1], -1).t()), SEVERAL),
    "expanded": _expanded,
    "same": _same,
}
UNFIT: dict[str, Place] = {"longer": _longer, "other dtype": _other_dtype}


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: several plain rows in any flags and dtypes."""
    plain = (("rank", ("2", "3")), ("rows", ("few",)))
    return narrowed(operation, contiguous(operation), ordinary(operation), plain)


GIVEN_OUTPUTS = Property(
    "given_outputs",
    "results are right in tensors of the caller, wherever these lie, or a call that cannot be right is refused",
    judge,
    fixed=fixed,
    form=FORM,
)
