"""A call sees its parameters as they are now, not as they were in the first call.

Weights are loaded again, cast and moved while a model lives. Data derived from them once (``1 + w``, a copy
in another dtype, a contiguous one) and cached by the tensor, its address or its version is then out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from conformance.adapter import Declined, Ran
from conformance.calls.call import Subject, arguments_of, call_with, metadata, promoted
from conformance.calls.claim import outside
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING
from conformance.operations import OPERATIONS, Operation
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary


def reload_in_place(parameter: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Copy new values into the tensor, as load_state_dict does."""
    return parameter.copy_(new)


def reload_unversioned(parameter: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Copy through ``.data``, as weight loaders do: torch's version counter does not change."""
    parameter.data.copy_(new)
    return parameter


def replace_data(parameter: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Give the same tensor other memory or another dtype, as ``Module.to`` does."""
    parameter.data = new
    return parameter


def replace_tensor(parameter: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return another tensor at the address of the first, as after the first was freed."""
    parameter.data.copy_(new)
    return parameter.data


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the parameters between two calls. ``casts``: the new parameters have another dtype."""

    words: str
    make: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    casts: bool = False


CHANGES = (
    Change("reloaded in place", reload_in_place),
    Change("reloaded through .data", reload_unversioned),
    Change("moved to other memory", replace_data),
    Change("cast to another dtype", replace_data, casts=True),
    Change("freed, and others put in their place", replace_tensor),
)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call, change the parameters, call again: the second result must be that of the new parameters."""
    if not any(name in dict(case.tensors) for name in OPERATIONS[case.operation].parameters):
        return (Verdict("state", case, Status.NOT_JUDGED, "the call has no parameters"),)
    verdicts = []
    # a cast may lead out of the claim
    claim = subject.traits(case.operation).claim or EVERYTHING
    for change in CHANGES:
        changed = with_new_parameters(case, change)
        if changed != case and not outside(claim, changed):
            verdicts.append(_judged(subject, case, changed, change))
            if verdicts[-1].status not in {Status.PASSED, Status.DECLINED}:
                return (verdicts[-1],)
    if not verdicts:
        return (Verdict("state", case, Status.NOT_JUDGED, "the call would not be taken after any change"),)
    # a refusal after one change does not count against the other changes
    return (next((verdict for verdict in verdicts if verdict.status is Status.PASSED), verdicts[0]),)


def with_new_parameters(case: Case, change: Change) -> Case:
    """Return the case after a change, without new values; the case itself where there is nothing to change."""
    for name in OPERATIONS[case.operation].parameters:
        spec = case.tensor(name)
        if spec is not None and change.casts:
            wide = "float32" if spec.dtype == case.dtype else case.dtype
            case = case.with_tensor(name, replace(spec, dtype=wide))
        elif spec is not None:
            # another seed gives another case
            case = replace(case, seed=case.seed + 1)
    return case


def new_values(case: Case, changed: Case) -> dict[str, torch.Tensor]:
    """Return the values of the second call: new parameters, everything else as it was."""
    drawn = values_of(replace(changed, seed=case.seed + 1))
    parameters = OPERATIONS[case.operation].parameters
    return {**values_of(case), **{name: drawn[name] for name in parameters if name in drawn}}


def _judged(subject: Subject, case: Case, changed: Case, change: Change) -> Verdict:
    materials = materialize(case, values_of(case), subject.device, POISONS[0])
    arguments = arguments_of(materials)
    values = new_values(case, changed)
    others = materialize(changed, values, subject.device, POISONS[0]).arguments
    first = call_with(subject, case, arguments)
    if not isinstance(first, Ran):
        return without_outputs("state", case, first)
    wrong = _wrong(subject, case, values_of(case), first.outputs)
    if wrong:
        return Verdict("state", case, Status.NOT_JUDGED, "the result is wrong before anything changes")
    for name in OPERATIONS[case.operation].parameters:
        if name in others:
            arguments[name] = change.make(arguments[name], others[name])
    second = call_with(subject, changed, arguments)
    if isinstance(second, Declined):
        return without_outputs("state", case, second)
    if not isinstance(second, Ran):
        verdict = without_outputs("state", case, second)
        return replace(verdict, reason=f"parameters {change.words}: {verdict.reason}")
    if refused := promoted(changed, second.outputs):
        return Verdict("state", case, Status.DECLINED, refused)
    wrong = _wrong(subject, changed, values, second.outputs)
    reason = f"parameters {change.words}: {wrong}" if wrong else ""
    return Verdict("state", case, Status.FAILED if wrong else Status.PASSED, reason)


def _wrong(
    subject: Subject, case: Case, values: Mapping[str, torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> str:
    said = metadata(subject, case, outputs)
    if said:
        return said
    comparison = measure(subject, subject.contract(case.operation), case, values, outputs)
    outside = f"{comparison.outside} of {comparison.elements} elements outside"
    return f"{comparison.first}; {outside}" if comparison.outside else ""


def _void(operation: Operation) -> str:
    return "" if operation.parameters else "the operation has no parameters"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels: plain calls with parameters, in every layout that can be written to."""
    own = {name: operation.factors.get(f"{name}_layout", ()) for name in operation.parameters}
    layouts = tuple(
        (
            f"{name}_layout",
            tuple(level for level in levels if level in {"contiguous", "offset", "step", "row_gap"}),
        )
        for name, levels in own.items()
    )
    there = tuple(
        (name, tuple(level for level in operation.factors.get(name, ()) if level != "none"))
        for name in operation.parameters
    )
    others = tuple((name, levels) for name, levels in contiguous(operation) if name not in dict(layouts))
    # dtypes in which parameters may be cast to x's
    dtypes = (("dtypes", ("same", "cos_float32")),)
    return narrowed(operation, others, layouts, there, dtypes, ordinary(operation))


STATE = Property(
    "state",
    "a call sees its parameters as they are now: reloaded, moved, cast or replaced",
    judge,
    fixed=fixed,
    void=_void,
)
