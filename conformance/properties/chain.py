"""A residual stream through as many layers as a model has: each sum is rounded once, and nothing drifts.

Every layer gets other values and the stream that the layer before returned. Each step is judged given that
stream, so that the error of one step does not hide in another; and the errors of all steps together must not lean
to one side (:mod:`conformance.properties.bias` says what chance allows). An implementation that has the
operation's in-place form works on the same memory in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from conformance.adapter import Outcome, Ran
from conformance.calls.call import Subject, arguments_of, call_with, metadata, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.operations import OPERATIONS, Arguments, Operation
from conformance.oracle.comparison import Errors, compare
from conformance.oracle.interval import Interval
from conformance.properties.bias import leaning
from conformance.properties.in_place import FORM, results
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, contiguous, narrowed

LAYERS = 72


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call once a layer, and pass the carried tensors from each layer to the next."""
    operation = OPERATIONS[case.operation]
    arguments = arguments_of(materialize(case, values_for(subject, case), subject.device, POISONS[0]))
    errors = Errors()
    for layer in range(1, LAYERS + 1):
        given = {name: arguments[name].cpu().clone() for name, _ in case.tensors}
        outcome = _layer(subject, case, arguments)
        if not isinstance(outcome, Ran):
            return (without_outputs("chain", case, outcome),)
        wrong = metadata(subject, case, outcome.outputs) or _outside(subject, case, given, outcome.outputs)
        if wrong:
            return (Verdict("chain", case, Status.FAILED, f"layer {layer}: {wrong}"),)
        for want, got in zip(operation.outputs(case), outcome.outputs, strict=True):
            if want.name in operation.carried:
                name = operation.carried[want.name]
                errors += _errors(got.cpu(), given["x"], given[name])
                arguments[name] = got
        arguments["x"].copy_(torch.roll(given["x"].flatten(), layer).reshape(given["x"].shape))
    wrong = leaning(errors)
    said = f"the sums of {LAYERS} layers drift: {wrong}" if wrong else ""
    return (Verdict("chain", case, Status.FAILED if wrong else Status.PASSED, said),)


def in_place(subject: Subject, operation: Operation) -> bool:
    """Return whether the operation has an in-place form, and the implementation that form."""
    return bool(operation.in_place) and FORM in subject.traits(operation.name).forms


def _layer(subject: Subject, case: Case, arguments: Arguments) -> Outcome:
    """Make one call, in place where the implementation can: then results are in the memory of their arguments."""
    operation = OPERATIONS[case.operation]
    if not in_place(subject, operation):
        return call_with(subject, case, arguments)
    outcome = call_with(subject, case, arguments, FORM)
    if not isinstance(outcome, Ran):
        return outcome
    return replace(outcome, outputs=results(case, arguments, outcome.outputs))


def _outside(
    subject: Subject, case: Case, given: Mapping[str, torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> str:
    comparison = measure(subject, subject.contract(case.operation), case, given, outputs)
    outside = f"{comparison.outside} of {comparison.elements} elements outside"
    return f"{comparison.first}; {outside}" if comparison.outside else ""


def _errors(total: torch.Tensor, x: torch.Tensor, carried: torch.Tensor) -> Errors:
    """Return errors against the exact sum: float64 holds all but bits far below the last place of the result."""
    exact = Interval.exactly(x.double() + carried.double())
    return compare("sum", total, exact, tuple(total.shape), 0, signed=True).errors


def _void(operation: Operation) -> str:
    return "" if operation.carried else "no result of the operation goes into its next call"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: a few rows of ordinary numbers, all carried tensors, in one dtype."""
    return narrowed(
        operation,
        contiguous(operation),
        (("values", ("normal",)), ("width", ("tile", "odd")), ("rows", ("few",))),
        tuple(operation.telling.items()),
    )


CHAIN = Property(
    "chain",
    f"through {LAYERS} layers every sum of the residual stream is rounded once, and none drifts",
    judge,
    fixed=fixed,
    void=_void,
)
