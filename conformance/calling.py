"""From a case to what came of it: the one place where an implementation under test is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from conformance.adapter import Adapter, Crashed, Declined, Outcome, Ran, Unable, Unsupported, UsageError
from conformance.budget import gib
from conformance.case import Case
from conformance.declared import Declared, Traits
from conformance.materialize import Materials, materialize, values_of
from conformance.memory import POISONS
from conformance.operations import OPERATIONS, Arguments, Operation, Output
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract
from conformance.verdict import NOT_IMPLEMENTED
from conformance.watch import Record, watched


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged, and where: an adapter on a device (``"cpu"`` or ``"cuda"``).

    A process that has not imported the adapter knows what is ``declared`` alone. ``unfaithful`` says why low
    precision cannot be judged here, or nothing: Triton's interpreter rounds as hardware does only where it could
    be taught to. ``memory``: bytes that this process may hold of its GPU, None for no limit.
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
        """Return all that the adapter declares."""
        return self.known or Declared.of(self.implementation())

    def traits(self, operation: str) -> Traits:
        """Return what is declared of an operation."""
        return self.known.operations[operation] if self.known else Traits.of(self.implementation(), operation)

    def contract(self, operation: str) -> Contract:
        """Return the declared contract of an operation. Raises ``UsageError`` where none is declared."""
        contract = self.traits(operation).contract
        if contract is None:
            message = f"contracts has no entry for {operation!r}, give it a name such as 'fp32' or a Contract"
            raise UsageError(message)
        return contract

    def machine(self, operation: str) -> Machine:
        """Return the arithmetic that results of an operation may have come from."""
        traits = self.traits(operation)
        return Machine(traits.flushes, traits.running_variance)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call that was made: its materials, what came of it, what happened meanwhile."""

    materials: Materials
    outcome: Outcome
    record: Record
    poison: int

    def damage(self) -> str:
        """Which memory outside the outputs was changed, or nothing."""
        touched = self.materials.touched()
        if touched:
            return f"the buffer of {', '.join(touched)} was changed"
        if not all(owner.guards_intact(self.poison) for owner in self.record.owners):
            return "memory beside an allocation of the call was written"
        return ""


def perform(
    subject: Subject,
    case: Case,
    values: Mapping[str, torch.Tensor] | None = None,
    poison: int = POISONS[0],
    form: str = "",
    fresh: int | None = None,
) -> Call:
    """Materialise a case and call the implementation once. ``values`` default to the case's own.

    ``form`` ends the name of the adapter's method. ``fresh``: the poison of memory that is allocated in the call,
    where it is not that next to the arguments.
    """
    fresh = poison if fresh is None else fresh
    materials = materialize(case, dict(values or values_of(case)), subject.device, poison)
    operation = OPERATIONS[case.operation]
    arguments = arguments_of(materials)
    if case.invalid is not None:
        arguments = operation.invalid[case.invalid](arguments)
    with watched(subject.device, fresh) as record:
        outcome = _call(subject, operation, arguments, form)
    if isinstance(outcome, Ran) and not form:
        outcome = replace(outcome, path=subject.implementation().path(operation.name, arguments))
    return Call(materials, outcome, record, fresh)


def arguments_of(materials: Materials) -> Arguments:
    """Every argument of a call by name; None where its case does not pass it."""
    operation = OPERATIONS[materials.case.operation]
    return {**dict.fromkeys((*operation.positional, *operation.keywords)), **materials.arguments}


def call_with(
    subject: Subject, case: Case, arguments: Mapping[str, object], form: str = "", *, wait: bool = True
) -> Outcome:
    """Call once with arguments that stay the caller's, who watches over them; all names are there.

    ``form`` ends the name of the adapter's method: ``_`` calls the operation in place, whose results lie in
    arguments. ``wait`` for a GPU to be done.
    """
    return _call(subject, OPERATIONS[case.operation], arguments, form, wait=wait)


def _call(
    subject: Subject, operation: Operation, arguments: Mapping[str, object], form: str, *, wait: bool = True
) -> Outcome:
    method = getattr(subject.implementation(), f"{operation.name}{form}", None)
    if method is None:
        return Declined(NOT_IMPLEMENTED)
    positional = [arguments[name] for name in operation.positional]
    named = {name: value for name, value in arguments.items() if name not in operation.positional}
    try:
        result = method(*positional, **named)
        if subject.device != "cpu" and wait:
            torch.cuda.synchronize(subject.device)
    except Declined as declined:
        return declined
    except Unsupported as unsupported:
        return Unable(str(unsupported))
    except torch.OutOfMemoryError as error:
        return Crashed(f"held more than {_held(subject)}: {str(error).partition(' GPU ')[0].strip()}")
    except Exception as error:  # noqa: BLE001 - the one place: code under test may raise anything
        return Crashed(f"{type(error).__name__}: {error}")
    # a form in place need not return what its caller has
    return Ran((result,) if isinstance(result, torch.Tensor) else tuple(result or ()), None)


def _held(subject: Subject) -> str:
    return f"{gib(subject.memory)} of GPU memory" if subject.memory else "there is of GPU memory"


def metadata(case: Case, outputs: tuple[torch.Tensor, ...]) -> str:
    """What is wrong with the outputs' number, shapes, dtypes and strides, or nothing."""
    expected = OPERATIONS[case.operation].outputs(case)
    if len(outputs) != len(expected):
        return f"returned {len(outputs)} tensors, must be {len(expected)}"
    return next(filter(None, map(misfit, expected, outputs)), "")


def misfit(want: Output, got: torch.Tensor) -> str:
    """What is wrong with the shape, dtype or strides of one output, or nothing."""
    if got.dtype != want.dtype:
        return f"{want.name} is {got.dtype}, must be {want.dtype}"
    if tuple(got.shape) != want.shape:
        return f"{want.name} has shape {tuple(got.shape)}, must be {want.shape}"
    misplaced = want.misplaced(got)
    return f"{want.name} has strides {got.stride()}, must be {misplaced}" if misplaced else ""
