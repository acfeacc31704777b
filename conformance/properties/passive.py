"""Passive properties: everything that two calls of one case show, with different poison in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.adapter import Misreturned, Ran
from conformance.calls.call import Call, Subject, metadata, perform, values_for
from conformance.calls.claim import outside
from conformance.calls.memory import FRESH, POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case, reaches
from conformance.cases.values import SPECIAL
from conformance.operations import OPERATIONS
from conformance.oracle.bits import poisoned, raw, same_bits
from conformance.oracle.comparison import Comparison
from conformance.properties.measure import measure


def property_of(case: Case) -> str:
    """Return the property that a case's values are evidence for: special numbers, a layout, or plain values."""
    if any(spec.values in SPECIAL for _, spec in case.tensors):
        return "specials"
    return "layout" if any(reaches(spec) for _, spec in case.tensors) else "values"


def judge_call(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Judge every passive property on two calls with two poisons: values, metadata, memory, written, path.

    Triton's interpreter runs the programs of the second call in the other order.
    """
    values = values_for(subject, case)
    first = perform(subject, case, values, POISONS[0], path=True)
    second = perform(subject, case, values, POISONS[1], backwards=True)
    prop = property_of(case)
    for made in (first, second):
        if isinstance(made.outcome, Misreturned):
            return _incomparable(prop, case, made.outcome.what)
        if not isinstance(made.outcome, Ran):
            return (without_outputs(prop, case, made.outcome),)
    assert isinstance(first.outcome, Ran)
    assert isinstance(second.outcome, Ran)
    outputs, again = first.outcome.outputs, second.outcome.outputs
    path = _path(subject, case, first)
    wrong = metadata(subject, case, outputs) or metadata(subject, case, again)
    if wrong:
        return (*_incomparable(prop, case, wrong), path)
    comparison = measure(subject, subject.contract(case.operation), case, values, outputs)
    changed = _differs(outputs, again)
    # where both results have the same bits none of these is poison, of which each call had another
    unwritten = _unwritten(subject, case, values, outputs, again) if changed else ""
    return (
        _judged(prop, case, comparison),
        _verdict("metadata", case, ""),
        path,
        _verdict("memory", case, _harm(first, second) or changed),
        _verdict("written", case, unwritten),
        *_miscopied(case, values, outputs),
    )


def _incomparable(prop: str, case: Case, wrong: str) -> tuple[Verdict, ...]:
    """Return the verdicts on a call whose outputs cannot be compared: their number, shapes or dtypes are wrong."""
    reason = f"nothing to compare: {wrong}"
    return _verdict("metadata", case, wrong), Verdict(prop, case, Status.FAILED, reason)


def _harm(first: Call, second: Call) -> str:
    """Return how two calls changed memory that is not their outputs', or returned such memory; or nothing."""
    return first.damage() or second.damage() or _borrowed(first) or _recycled(first, second)


def _borrowed(made: Call) -> str:
    """Return how an output shares an argument's memory although the call is not in place, or nothing."""
    assert isinstance(made.outcome, Ran)
    names = {_memory(owner.raw): name for name, owner in made.materials.owners}
    for output in made.outcome.outputs:
        if output.numel() and _memory(output) in names:
            return f"an output is a view of {names[_memory(output)]}, must have memory of its own"
    return ""


def _recycled(first: Call, second: Call) -> str:
    """Return how two results share one place: the second call changed the first call's result."""
    assert isinstance(first.outcome, Ran)
    assert isinstance(second.outcome, Ran)
    theirs = {_memory(output) for output in second.outcome.outputs if output.numel()}
    if any(_memory(output) in theirs for output in first.outcome.outputs):
        return "two calls returned the same memory: the second changes the result of the first"
    return ""


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _verdict(prop: str, case: Case, wrong: str) -> Verdict:
    return Verdict(prop, case, Status.FAILED if wrong else Status.PASSED, wrong)


def _path(subject: Subject, case: Case, made: Call) -> Verdict:
    """Judge what ran by the path that the adapter names, and by the calls that it declares to run in a kernel."""
    assert isinstance(made.outcome, Ran)
    declared = subject.traits(case.operation).launches
    in_a_kernel = declared is not None and not outside(declared, case)
    if not made.outcome.path and not in_a_kernel:
        return Verdict("path", case, Status.NOT_JUDGED, "the adapter does not say which path ran")
    return _verdict("path", case, _off_path(made, in_a_kernel=in_a_kernel))


def _judged(prop: str, case: Case, comparison: Comparison) -> Verdict:
    if not comparison.outside:
        return Verdict(prop, case, Status.PASSED, "", comparison)
    reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
    return Verdict(prop, case, Status.FAILED, reason, comparison)


def _off_path(made: Call, *, in_a_kernel: bool) -> str:
    """Return how what ran differs from the path that the adapter names, or from its declaration; or nothing."""
    assert isinstance(made.outcome, Ran)
    path, record = made.outcome.path, made.record
    native = path is not None and path.startswith("native")
    if native and record.launches:
        return f"path {path!r} launched {', '.join(record.launches)}"
    launched = bool(record.launches) or not any(t.numel() for t in made.outcome.outputs)
    if in_a_kernel and not launched:
        said = f"path {path!r} was chosen" if native else "nothing was launched"
        return f"{said} for a call that is declared to run in a kernel"
    if not path or native:
        return ""
    if not launched:
        return f"path {path!r} launched nothing"
    return f"path {path!r} copies: {', '.join(record.copies)}" if record.copies else ""


def _differs(outputs: tuple[torch.Tensor, ...], again: tuple[torch.Tensor, ...]) -> str:
    if all(same_bits(a, b) for a, b in zip(outputs, again, strict=True)):
        return ""
    reason = "the result changes with what lies beside the arguments or in fresh memory"
    return f"{reason}, with the order of programs, or by chance"


def _unwritten(
    subject: Subject,
    case: Case,
    values: dict[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    again: tuple[torch.Tensor, ...],
) -> str:
    """Return how many elements still hold the poison of fresh memory, and the place of the first; or nothing.

    A third call decides where two leave the question open: arithmetic on poison next to the arguments may give the
    same bits, but not those of the fresh memory.
    """
    patterns = [poisoned(a, POISONS[0]) & poisoned(b, POISONS[1]) for a, b in zip(outputs, again, strict=True)]
    if not any(pattern.any() for pattern in patterns):
        return ""
    third = perform(subject, case, values, POISONS[0], fresh=FRESH).outcome
    if not isinstance(third, Ran) or metadata(subject, case, third.outputs):
        return ""
    for pattern, output in zip(patterns, third.outputs, strict=True):
        unwritten = pattern & poisoned(output, FRESH)
        if unwritten.any():
            place = tuple(int(i) for i in torch.nonzero(unwritten)[0])
            return f"{int(unwritten.sum())} of {output.numel()} elements were never written, the first at {place}"
    return ""


def _miscopied(
    case: Case, values: Mapping[str, torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> tuple[Verdict, ...]:
    """Return how bits of copied elements differ, signs of zeros included, or nothing; for operations that copy."""
    operation = OPERATIONS[case.operation]
    if operation.copies is None:
        return ()
    copies = operation.copies(case, values)
    changed = []
    for want, got in zip(operation.outputs(case), outputs, strict=True):
        where, expected = copies[want.name]
        wrong = (raw(got.to(expected.device)) != raw(expected)) & where
        if wrong.any():
            place = ", ".join(map(str, torch.nonzero(wrong)[0].tolist()))
            changed.append(f"{int(wrong.sum())} elements of {want.name}, the first at [{place}]")
    return (_verdict("copied", case, f"other bits than those copied: {'; '.join(changed)}" if changed else ""),)
