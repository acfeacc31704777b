"""The in-place form writes the results over arguments, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.adapter import Ran
from conformance.calls.call import Subject, metadata, misfit, perform, values_for
from conformance.calls.materialize import Materials
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, without_outputs
from conformance.cases.case import SAME, Case
from conformance.operations import OPERATIONS, Operation
from conformance.oracle.bits import same_bits
from conformance.oracle.comparison import NOTHING, Comparison
from conformance.properties.measure import measure
from conformance.properties.property import Fixed, Property, ordinary

FORM = "_"
# layouts of an overwritten argument whose elements share memory, with each other or with another result's
UNWRITABLE = ("expanded", SAME)


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call the in-place form twice, with two poisons around the arguments, and the functional form once.

    Triton's interpreter runs the programs of the second call in the other order.
    """
    values = values_for(subject, case)
    written = []
    for poison in POISONS:
        made = perform(subject, case, values, poison, FORM, backwards=poison != POISONS[0])
        if not isinstance(made.outcome, Ran):
            return (without_outputs("in_place", case, made.outcome),)
        arguments, returned = made.materials.arguments, made.outcome.outputs
        wrong = _other_tensors(subject, case, arguments, returned) or _silent(case, made.materials)
        written.append(tuple(tensor.clone() for tensor in results(case, arguments, returned)))
        # once the arguments are put back, any other difference from before is damage
        for name in filter(None, places(case)):
            arguments[name].copy_(values[name])
        wrong = wrong or made.damage()
        if wrong:
            return (_verdict(case, wrong),)
    first, second = written
    comparison = measure(subject, subject.contract(case.operation), case, values, first)
    if comparison.outside:
        reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
        return (_verdict(case, reason, comparison),)
    if not all(map(same_bits, first, second)):
        reason = "the result changes with what lies beside the arguments, with the order of programs, or by chance"
        return (_verdict(case, reason, comparison),)
    return (_verdict(case, _unlike_the_functional_form(subject, case, values, first), comparison),)


def _verdict(case: Case, wrong: str, comparison: Comparison = NOTHING) -> Verdict:
    return Verdict("in_place", case, Status.FAILED if wrong else Status.PASSED, wrong, comparison)


def places(case: Case) -> tuple[str | None, ...]:
    """Return the argument that each output of an in-place call overwrites; None for fresh outputs."""
    operation = OPERATIONS[case.operation]
    return tuple(operation.in_place.get(output.name) for output in operation.outputs(case))


def results(
    case: Case, arguments: Mapping[str, torch.Tensor], returned: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Return the outputs of an in-place call: the overwritten arguments, and the fresh outputs as returned."""
    if not returned:
        return tuple(arguments[name] for name in places(case) if name is not None)
    pairs = zip(places(case), returned, strict=False)
    return tuple(got if name is None else arguments[name] for name, got in pairs)


def _other_tensors(
    subject: Subject, case: Case, arguments: Mapping[str, torch.Tensor], returned: tuple[torch.Tensor, ...]
) -> str:
    """Return what is wrong with the returned tensors, which must be the arguments and the fresh outputs."""
    outputs, over = OPERATIONS[case.operation].outputs(case), places(case)
    if not returned and None not in over:
        return ""
    if len(returned) != len(over):
        each = ", ".join(name or output.name for name, output in zip(over, outputs, strict=True))
        return f"returned {len(returned)} tensors, must be {each}{' or nothing' * (None not in over)}"
    for output, name, got in zip(outputs, over, returned, strict=True):
        wrong = misfit(subject, case, output, got) if name is None else _elsewhere(name, arguments[name], got)
        if wrong:
            return wrong
    return ""


def _silent(case: Case, materials: Materials) -> str:
    """Return how an overwritten argument kept its version from before the call, or nothing."""
    for name in filter(None, places(case)):
        version = materials.versions[name]
        if materials.arguments[name]._version == version:  # noqa: SLF001 - torch offers nothing else
            return (
                f"{name} is still at version {version} after it was written: autograd would take its numbers "
                f"for those of before, call torch.autograd.graph.increment_version({name})"
            )
    return ""


def _elsewhere(name: str, tensor: torch.Tensor, got: torch.Tensor) -> str:
    """Return how a returned tensor differs from the whole argument that it should overwrite, or nothing."""
    place = (got.data_ptr(), got.shape, got.stride(), got.dtype)
    if place == (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype):
        return ""
    return f"returned another tensor in the place of {name}, which it was given"


def _unlike_the_functional_form(
    subject: Subject, case: Case, values: Mapping[str, torch.Tensor], written: tuple[torch.Tensor, ...]
) -> str:
    """Return how bits differ from the functional form's; nothing where that form gives none (judged elsewhere)."""
    if not subject.traits(case.operation).deterministic:
        return ""
    made = perform(subject, case, values)
    if not isinstance(made.outcome, Ran) or metadata(subject, case, made.outcome.outputs):
        return ""
    for output, ours, theirs in zip(
        OPERATIONS[case.operation].outputs(case), written, made.outcome.outputs, strict=True
    ):
        if not same_bits(ours, theirs):
            return f"{output.name} has other bits than that of the functional form"
    return ""


def _void(operation: Operation) -> str:
    return "" if operation.in_place else "the operation has no in-place form"


def _fixed(operation: Operation) -> Fixed:
    """Return ordinary values, and overwritten arguments in layouts and dtypes that can hold the results."""
    fixed = dict(ordinary(operation))
    # without the one overwritten argument there is nothing to judge
    unfit = ("other", "none") if len(operation.in_place) == 1 else ("other",)
    for name in operation.in_place.values():
        for factor, without in ((f"{name}_layout", UNWRITABLE), (name, unfit)):
            if factor in operation.factors:
                fixed[factor] = tuple(level for level in operation.factors[factor] if level not in without)
    return tuple(fixed.items())


IN_PLACE = Property(
    "in_place",
    "the in-place form writes the functional form's results over its arguments, and nothing else",
    judge,
    fixed=_fixed,
    form=FORM,
    void=_void,
)
