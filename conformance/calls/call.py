"""Calls of implementations, from a case to its outcome: the one place that calls an implementation under test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch

from conformance.adapter import (
    Adapter,
    Crashed,
    Declined,
    Misreturned,
    Outcome,
    Ran,
    Unable,
    Unsupported,
    UsageError,
)
from conformance.calls import location, state_guard
from conformance.calls.budget import full, gib, out_of_memory
from conformance.calls.child import begin
from conformance.calls.declared import Declared, Traits
from conformance.calls.materialize import Materials, materialize, values_of
from conformance.calls.memory import POISONS, read
from conformance.calls.verdict import NOT_IMPLEMENTED
from conformance.calls.watch import Record, watched
from conformance.cases.case import SHARED_PARTS, Case
from conformance.operations import OPERATIONS, Arguments, Output
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract

SMALL = 2**13  # elements


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of judgement: an adapter on a device (``"cpu"`` or ``"cuda"``).

    A process that has not imported the adapter has only ``known``, its declarations. ``unfaithful`` says why low
    precision cannot be judged here, or nothing: Triton's interpreter rounds as hardware does only where the suite
    could patch it. ``memory``: bytes that this process may hold of its GPU, None for no limit.
    """

    adapter: Adapter | None
    device: str = "cpu"
    unfaithful: str = ""
    memory: int | None = None
    known: Declared | None = None

    def implementation(self) -> Adapter:
        """Return the adapter, which this process must have imported."""
        assert self.adapter is not None, "only the process that imported an adapter calls it"
        return self.adapter

    @property
    def declared(self) -> Declared:
        """Return the declarations of the adapter."""
        return self.known or Declared.of(self.implementation())

    def traits(self, operation: str) -> Traits:
        """Return the declarations about an operation."""
        return self.known.operations[operation] if self.known else Traits.of(self.implementation(), operation)

    def contract(self, operation: str) -> Contract:
        """Return the declared contract of an operation. Raises ``UsageError`` where none is declared."""
        contract = self.traits(operation).contract
        if contract is None:
            message = f"contracts has no entry for {operation!r}, give it a name such as 'fp32' or a Contract"
            raise UsageError(message)
        return contract

    def machine(self, operation: str) -> Machine:
        """Return the arithmetic that an operation's results may come from."""
        traits = self.traits(operation)
        return Machine(traits.flushes, traits.running_variance, traits.fuses)


def judged_on(subject: Subject, case: Case) -> str:
    """Return the device that has the values of a case and judges its outputs.

    This is the device of the outputs but for the smallest calls: on them a CPU is quicker than many launches.
    """
    return "cpu" if math.prod(case.tensors[0][1].shape) <= SMALL else subject.device


def values_for(subject: Subject, case: Case) -> dict[str, torch.Tensor]:
    """Return the values of a case on the device that judges it."""
    return values_of(case, judged_on(subject, case))


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call that was made: its materials, its outcome, and the record of its effects."""

    materials: Materials
    outcome: Outcome
    record: Record
    poison: int

    def damage(self) -> str:
        """Return in words which memory outside the outputs was changed, or nothing."""
        kept = self.materials.kept()
        fresh = (owner.guards_intact(self.poison) for owner in self.record.owners)
        intact = read([*kept, *self.record.intact, *fresh])
        if all(intact):
            return ""
        touched = [name for (name, _), same in zip(self.materials.owners, intact, strict=False) if not same]
        if touched:
            return f"the buffer of {', '.join(touched)} was changed"
        return "memory beside an allocation of the call was written"


def perform(
    subject: Subject,
    case: Case,
    values: Mapping[str, torch.Tensor] | None = None,
    poison: int = POISONS[0],
    form: str = "",
    fresh: int | None = None,
    *,
    backwards: bool = False,
    path: bool = False,
) -> Call:
    """Materialise a case and call the implementation once. ``values`` default to the case's own.

    ``form`` ends the name of the adapter's method. ``fresh``: the poison of memory that is allocated in the call,
    if it differs from the poison around the arguments. ``backwards``: the order of interpreted programs.
    ``path``: ask the adapter which path ran.
    """
    fresh = poison if fresh is None else fresh
    materials = materialize(case, dict(values or values_for(subject, case)), subject.device, poison)
    operation = OPERATIONS[case.operation]
    arguments = arguments_of(materials)
    if case.invalid is not None:
        arguments = operation.invalid[case.invalid](arguments)
    with watched(subject.device, fresh, backwards=backwards) as record:
        outcome = _call(subject, case, arguments, form)
    if isinstance(outcome, Ran) and path:
        outcome = _with_path(subject, case, arguments, outcome)
    return Call(materials, outcome, record, fresh)


def arguments_of(materials: Materials) -> Arguments:
    """Return every argument of a call by name; None where its case does not pass it."""
    operation = OPERATIONS[materials.case.operation]
    return {**dict.fromkeys((*operation.positional, *operation.keywords)), **materials.arguments}


def call_with(
    subject: Subject,
    case: Case,
    arguments: Mapping[str, object],
    form: str = "",
    *,
    wait: bool = True,
    attached: bool = False,
) -> Outcome:
    """Call once with arguments that the caller owns and checks; all names must be given.

    ``form`` ends the name of the adapter's method: ``_`` calls the in-place form, which writes results over
    arguments. ``wait``: wait for the GPU. ``attached``: leave the outputs in autograd's graph.
    """
    return _call(subject, case, arguments, form, wait=wait, attached=attached)


def derived(
    subject: Subject,
    outputs: tuple[torch.Tensor, ...],
    given: tuple[torch.Tensor, ...],
    leaves: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor | None, ...] | Outcome:
    """Return the gradients of ``leaves``, from those ``given`` of a call's outputs; None where there is none."""

    def made() -> tuple[torch.Tensor | None, ...]:
        found = torch.autograd.grad(outputs, leaves, given, allow_unused=True)
        if subject.device != "cpu":
            torch.cuda.synchronize(subject.device)
        return tuple(found)

    return cast("tuple[torch.Tensor | None, ...] | Outcome", _attempted(subject, made))


def _call(
    subject: Subject,
    case: Case,
    arguments: Mapping[str, object],
    form: str,
    *,
    wait: bool = True,
    attached: bool = False,
) -> Outcome:
    operation = OPERATIONS[case.operation]
    method = getattr(subject.implementation(), f"{operation.name}{form}", None)
    if method is None:
        return Declined(NOT_IMPLEMENTED)
    positional = [arguments[name] for name in operation.positional]
    named = {name: value for name, value in arguments.items() if name not in operation.positional}

    def made() -> object:
        result = method(*positional, **named)
        if subject.device != "cpu" and wait:
            torch.cuda.synchronize(subject.device)
        return result

    result = _attempted(subject, made)
    return result if isinstance(result, Outcome) else _returned(subject, case, result, attached=attached)


def _attempted(subject: Subject, call: Callable[[], object]) -> object | Outcome:
    """Return the result of a call of the adapter's code, or the outcome where there is none."""
    begin()
    try:
        with state_guard.guarded():
            return call()
    except Declined as declined:
        # in words: another process may not have the class of the adapter's reason
        return Declined(str(declined.reason))
    except Unsupported as unsupported:
        return Unable(str(unsupported))
    except BaseException as error:  # noqa: BLE001 - the one place: code under test may raise anything
        others_hold = full(subject.memory, error) if out_of_memory(error) else ""
        if others_hold:
            return Unable(others_hold)
        if isinstance(error, torch.OutOfMemoryError):
            return Crashed(f"held more than {_held(subject)}: {str(error).partition(' GPU ')[0].strip()}")
        return Crashed(_raised(error), location.trace(error))


def _raised(error: BaseException) -> str:
    """Return an exception in words, with the place where it was raised at the end of the first line."""
    first, newline, rest = f"{type(error).__name__}: {_message(error)}".partition("\n")
    place = location.of_exception(error)
    return f"{first.rstrip(': ')} ({place}){newline}{rest}" if place else f"{first}{newline}{rest}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - its own code makes the words
        return f"(its message raises {type(another).__name__})"


def _with_path(subject: Subject, case: Case, arguments: Arguments, outcome: Ran) -> Outcome:
    """Ask the adapter for the path of a call."""
    path = _attempted(subject, lambda: subject.implementation().path(case.operation, arguments))
    if isinstance(path, Outcome):
        return Crashed(f"path: {path.how}", path.trace) if isinstance(path, Crashed) else path
    if path is not None and not isinstance(path, str):
        return Misreturned(f"path returned {_described(path)}, must be a string or None")
    return replace(outcome, path=None if path is None else str(path))


def _returned(subject: Subject, case: Case, result: object, *, attached: bool = False) -> Ran | Misreturned:
    """Return the outputs of a call, unless one of them is not a tensor in memory of the device."""
    # an in-place form need not return the tensors of its caller
    outputs = result if isinstance(result, list | tuple) else () if result is None else (result,)
    names = [output.name for output in OPERATIONS[case.operation].outputs(case)]
    for place, output in enumerate(outputs):
        wrong = _unfit(output, torch.device(subject.device))
        if wrong:
            return Misreturned(f"{names[place] if place < len(names) else f'output {place + 1}'} {wrong}")
    # torch forbids reading the numbers of a tensor that requires a gradient, which only one property uses
    tensors = (output.detach() if output.requires_grad and not attached else output for output in outputs)
    return Ran(tuple(tensors), None)


def _unfit(output: object, device: torch.device) -> str:
    """Return why an output cannot be compared, or nothing."""
    if not isinstance(output, torch.Tensor):
        return f"is {_described(output)}, must be a tensor"
    if type(output).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"is {_described(output)}, must be a plain tensor"
    if output.layout is not torch.strided:
        return f"is a tensor of layout {output.layout}, must be {torch.strided}"
    if output.device.type != device.type or device.index not in {None, output.device.index}:
        return f"lies on {output.device}, must lie on {device}"
    if output.is_conj() or output.is_neg():
        return "is a view that is not computed yet, must be resolved"
    return ""


def _described(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _held(subject: Subject) -> str:
    return f"{gib(subject.memory)} of GPU memory" if subject.memory else "there is of GPU memory"


def promoted(case: Case, outputs: tuple[torch.Tensor, ...]) -> str:
    """Return in words that a call with mixed dtypes returned another dtype than x's, or nothing.

    Such an implementation does not support the mix: its result is that of another operation.
    """
    mixed = {spec.dtype for _, spec in case.tensors if "float" in spec.dtype} != {case.dtype}
    pairs = zip(outputs, OPERATIONS[case.operation].outputs(case), strict=False)
    others = [str(out.dtype).removeprefix("torch.") for out, want in pairs if out.dtype != want.dtype]
    return f"returns {others[0]} where dtypes are mixed" if mixed and others else ""


def metadata(subject: Subject, case: Case, outputs: tuple[torch.Tensor, ...]) -> str:
    """Return in words the fault in the outputs' number, shapes, dtypes or strides, or nothing."""
    expected = OPERATIONS[case.operation].outputs(case)
    if len(outputs) != len(expected):
        return f"returned {len(outputs)} tensors, must be {len(expected)}"
    return next(filter(None, (misfit(subject, case, *pair) for pair in zip(expected, outputs, strict=True))), "")


def misfit(subject: Subject, case: Case, want: Output, got: torch.Tensor) -> str:
    """Return in words the fault in the shape, dtype or strides of one output, or nothing."""
    if got.dtype != want.dtype:
        return f"{want.name} is {got.dtype}, must be {want.dtype}"
    if tuple(got.shape) != want.shape:
        return f"{want.name} has shape {tuple(got.shape)}, must be {want.shape}"
    like = next((spec for _, spec in case.tensors if spec.shape == want.shape), case.tensors[0][1])
    strides = like.layout.place(like.shape, SHARED_PARTS).strides
    misplaced = want.misplaced(got, subject.traits(case.operation).strides, strides)
    return f"{want.name} has strides {got.stride()}, must be {misplaced}" if misplaced else ""
