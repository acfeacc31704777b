"""Judgement of an implementation on the very call that will be timed; failing ones are not timed.

The oracle, the comparison and the cases are the conformance suite's. Here the call runs as it will be timed,
without any watcher: a compiled function that is watched would run uncompiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from benchmarks.shapes import IN_PLACE, Workload, moved, tokens_of, with_tokens
from conformance.adapter import Adapter, Crashed, Declined, Hung, Misreturned, Outcome, Ran, Unable
from conformance.calls.call import Subject, arguments_of, call_with, metadata
from conformance.calls.claim import outside
from conformance.calls.materialize import Materials, materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import NOT_IMPLEMENTED, Status
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, rows
from conformance.oracle.bits import same_bits
from conformance.properties.measure import measure

Values = Mapping[str, torch.Tensor]

# the oracle checks the first, the last and the middle rows of a large call
PART = 2**20  # elements
# other batch of a call with a single row: large enough to change any grid
CROWD = 512  # tokens
# tokens that are called one by one, besides the whole batch
LONE = 8
# limit on another batch, in bytes that it moves
MOST_BYTES = 2**28
LOW = frozenset({"bfloat16", "float16"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """Result of the calls. ``invariant``: the same rows had the same bits in batches of other sizes.

    ``invariant`` is None if that was not tested. ``form`` is that of the judged method; ``path`` is the path that
    the adapter reports.
    """

    status: Status
    reason: str = ""
    form: str = ""
    invariant: bool | None = None
    path: str | None = None


def form_of(adapter: Adapter, workload: Workload) -> str | None:
    """Return the form of an operation that an adapter has: the preferred one, or the other, or None.

    Writing over the arguments moves as many bytes for a norm; for a rotation it is the possible gain.
    """
    other = "" if workload.form else IN_PLACE
    forms = (workload.form, other)
    return next((form for form in forms if hasattr(adapter, workload.case.operation + form)), None)


def judge(subject: Subject, workload: Workload, values: Values, crowd: int = CROWD) -> Judgement:
    """Judge a workload's call: first with the fewest tokens, then as it is, then its rows in both.

    ``crowd``: tokens of the other batch of a token that is alone.
    """
    form = form_of(subject.implementation(), workload)
    if form is None:
        return Judgement(Status.DECLINED, NOT_IMPLEMENTED)
    case = workload.case
    claim = subject.traits(case.operation).claim
    if claim is not None and (beyond := outside(claim, case)):
        return Judgement(Status.DECLINED, beyond)
    made: dict[int, tuple[torch.Tensor, ...]] = {}
    for tokens in sorted({*_other_batches(subject.implementation(), case, crowd), tokens_of(case)}):
        smaller, own = with_tokens(case, tokens), picked(case, values, _again(case, tokens))
        outputs = _judged(subject, smaller, own, form)
        if isinstance(outputs, Judgement):
            return outputs
        made[tokens] = outputs
    whole = made.pop(tokens_of(case))
    invariant = all(_same_rows(whole, part) for part in made.values())
    # an implementation compiled for every shape compiles twice more for this check, so only few workloads have it
    if invariant and (subject.traits(case.operation).few_variants or workload.autotuned):
        invariant = _same_in_float32(subject, case, values, form, crowd)
    return Judgement(Status.PASSED, "", form, invariant, _path(subject, case, values))


def confirmed(subject: Subject, workload: Workload, values: Values, found: Judgement) -> Judgement:
    """Judge a call again whose implementation may have been chosen differently in another process."""
    if found.status is not Status.PASSED:
        return found
    outputs = _judged(subject, workload.case, values, found.form)
    return outputs if isinstance(outputs, Judgement) else found


def _same_in_float32(subject: Subject, case: Case, values: Values, form: str, crowd: int) -> bool:
    """Return whether rows have the same bits in float32 too, where most other orders of additions show.

    In bfloat16 a few of a million elements differ. True where it does not run in float32.
    """
    for name, spec in case.tensors:
        case = case.with_tensor(name, replace(spec, dtype="float32")) if spec.dtype in LOW else case
    fitting = max(1, min(tokens_of(case), tokens_of(case) * MOST_BYTES // moved(case)))
    case = with_tokens(case, fitting)
    values = _ordinary(case, picked(case, values, list(range(fitting))))
    whole = _bits(subject, case, values, form, list(range(fitting)))
    if whole is None:
        return True
    for token in range(min(fitting, LONE)):
        alone = _bits(subject, case, values, form, [token])
        if alone and not _same_rows(tuple(output[token:] for output in whole), alone):
            return False
    others = (tokens for tokens in _other_batches(subject.implementation(), case, crowd) if tokens > 1)
    parts = (_bits(subject, case, values, form, _again(case, tokens)) for tokens in others)
    return all(_same_rows(whole, part) for part in parts if part)


def _ordinary(case: Case, values: Values) -> dict[str, torch.Tensor]:
    """Return normal numbers in every row, instead of rows of zeros or tiny numbers, whose sums show nothing."""
    drawn = {}
    for seed, (name, tensor) in enumerate(values.items()):
        generator = torch.Generator(tensor.device).manual_seed(seed)
        rowwise = name in OPERATIONS[case.operation].row_tensors and tensor.is_floating_point()
        numbers = torch.randn(tensor.shape, generator=generator, device=tensor.device) if rowwise else tensor
        drawn[name] = numbers.float() if tensor.is_floating_point() else tensor
    return drawn


def _bits(
    subject: Subject, case: Case, values: Values, form: str, tokens: list[int]
) -> tuple[torch.Tensor, ...] | None:
    """Return the outputs for some tokens; None if the call does not run."""
    some = with_tokens(case, len(tokens))
    made = _made(subject, some, picked(case, values, tokens), form)
    return None if isinstance(made, Judgement) else made[0]


def _path(subject: Subject, case: Case, values: Values) -> str | None:
    arguments = arguments_of(materialize(case, dict(values), subject.device, POISONS[0]))
    return subject.implementation().path(case.operation, arguments)


def _other_batches(adapter: Adapter, case: Case, crowd: int) -> Iterator[int]:
    """Yield the token counts that a row is compared in: alone, or in a crowd, and past each threshold."""
    tokens = tokens_of(case)
    yield 1 if tokens > 1 else crowd
    for threshold in adapter.row_thresholds(case.operation):
        past = threshold * tokens // rows.count(case) + 1
        if moved(with_tokens(case, past)) <= MOST_BYTES:
            yield past


def _again(case: Case, tokens: int) -> list[int]:
    """Return the case's first tokens, repeated if more are wanted than it has."""
    return [token % tokens_of(case) for token in range(tokens)]


def picked(case: Case, values: Values, tokens: list[int]) -> dict[str, torch.Tensor]:
    """Return the values of some of the case's tokens."""
    operation = OPERATIONS[case.operation]
    name, _ = case.tensors[0]
    if tokens == list(range(len(values[name]))):
        return dict(values)
    index = torch.tensor(tokens, device=next(iter(values.values())).device)
    return {
        name: tensor.index_select(operation.token_axes.get(name, 0), index)
        if name in operation.row_tensors
        else tensor
        for name, tensor in values.items()
    }


def _same_rows(whole: tuple[torch.Tensor, ...], part: tuple[torch.Tensor, ...]) -> bool:
    """Return whether the tokens that two results share have the same bits in both."""
    shared = min(len(whole[0]), len(part[0]))
    return all(same_bits(a[:shared], b[:shared]) for a, b in zip(whole, part, strict=True))


def _judged(subject: Subject, case: Case, values: Values, form: str) -> tuple[torch.Tensor, ...] | Judgement:
    """Return the outputs of one call, or the judgement on a call that is wrong."""
    made = _made(subject, case, values, form)
    if isinstance(made, Judgement):
        return made
    outputs, materials = made
    if not form and (wrong := metadata(subject, case, outputs) or _touched(materials)):
        return Judgement(Status.FAILED, wrong, form)
    contract = subject.contract(case.operation)
    comparison = measure(subject, contract, case, values, outputs, slices=_looked_at(case))
    if comparison.outside:
        of = f"{comparison.outside} of {comparison.elements} elements outside"
        return Judgement(Status.FAILED, f"{comparison.first}; {of}", form)
    return outputs


def _made(
    subject: Subject, case: Case, values: Values, form: str
) -> tuple[tuple[torch.Tensor, ...], Materials] | Judgement:
    """Make one call; return its outputs, which for an in-place form are arguments, and its materials."""
    materials = materialize(case, dict(values), subject.device, POISONS[0])
    arguments = arguments_of(materials)
    outcome = call_with(subject, case, arguments, form)
    if not isinstance(outcome, Ran):
        return _instead(outcome, form)
    operation = OPERATIONS[case.operation]
    if form:
        written = tuple(arguments[operation.in_place[output.name]] for output in operation.outputs(case))
        return written, materials
    return outcome.outputs, materials


def _instead(outcome: Outcome, form: str) -> Judgement:
    match outcome:
        case Declined(reason=reason):
            return Judgement(Status.DECLINED, reason, form)
        case Crashed(how):
            return Judgement(Status.CRASHED, how.partition("\n")[0], form)
        case Hung(seconds):
            return Judgement(Status.HUNG, f"no answer within {seconds:g} s", form)
        case Misreturned(what):
            return Judgement(Status.FAILED, what, form)
        case Unable(reason):
            return Judgement(Status.NOT_JUDGED, reason, form)
        case Ran():
            message = "a call that ran has outputs to judge"
            raise AssertionError(message)


def _touched(materials: Materials) -> str:
    touched = materials.touched()
    return f"the buffer of {', '.join(touched)} was changed" if touched else ""


def _looked_at(case: Case) -> list[slice]:
    """Return all rows of a small call, or the first, middle and last rows of a large one."""
    count = rows.count(case)
    elements = sum(math.prod(output.shape) for output in OPERATIONS[case.operation].outputs(case))
    step = max(1, PART * count // max(elements, 1))
    if count <= 3 * step:
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]
    return [slice(start, start + step) for start in (0, (count - step) // 2, count - step)]
