"""Property + case + outcome + comparison → verdict. Judging runs where the implementation runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from conformance.adapter import Adapter, Crashed, Declined, Hung, Outcome, Ran
from conformance.case import SAME, Case, TensorSpec
from conformance.comparison import NOTHING, Comparison, compare, row_chunks
from conformance.materialize import Materials, materialize, values_of
from conformance.memory import POISONS
from conformance.operations import OPERATIONS, Arguments, Operation
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import NAMED, Contract
from conformance.oracle.interval import Interval
from conformance.rows import by_row, count
from conformance.values import SPECIAL
from conformance.watch import Record, watched


class Status(StrEnum):
    """What a verdict says. Only ``passed`` is a pass."""

    PASSED = "passed"
    FAILED = "failed"
    DECLINED = "declined"  # the implementation said no
    NOT_JUDGED = "not_judged"  # this machine or profile cannot
    CRASHED = "crashed"
    HUNG = "hung"
    WAIVED = "waived"
    ERROR = "error"  # ours


NOT_IMPLEMENTED = "not implemented"  # why an adapter without a method declines
SMALL = 2**18  # elements
BAD = frozenset({Status.FAILED, Status.CRASHED, Status.HUNG})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One property judged on one case. Numbers are of its comparison, zero where nothing was compared.

    ``terms``: what the formula has in this case, and whether dropping it would show.
    """

    property: str
    case: Case
    status: Status
    reason: str = ""
    comparison: Comparison = NOTHING
    terms: tuple[tuple[str, bool], ...] = ()

    def __str__(self) -> str:
        return f"{self.property} {self.status}: {self.reason}\n  {self.case}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged, and where: an adapter on a device (``"cpu"`` or ``"cuda"``).

    ``unfaithful`` says why low precision cannot be judged here, or nothing: Triton's interpreter rounds as
    hardware does only where it could be taught to.
    """

    adapter: Adapter
    device: str = "cpu"
    unfaithful: str = ""

    @property
    def machine(self) -> Machine:
        """The arithmetic that its results may have come from."""
        return Machine(self.adapter.flushes, self.adapter.running_variance)


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
) -> Call:
    """Materialise a case and call the implementation once. ``values`` default to the case's own.

    ``form`` ends the name of the adapter's method.
    """
    materials = materialize(case, dict(values or values_of(case)), subject.device, poison)
    operation = OPERATIONS[case.operation]
    arguments = arguments_of(materials)
    if case.invalid is not None:
        arguments = operation.invalid[case.invalid](arguments)
    with watched(subject.device, poison) as record:
        outcome = _call(subject, operation, arguments, form)
    if isinstance(outcome, Ran) and not form:
        outcome = replace(outcome, path=subject.adapter.path(operation.name, arguments))
    return Call(materials, outcome, record, poison)


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
    method = getattr(subject.adapter, f"{operation.name}{form}", None)
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
    except Exception as error:  # noqa: BLE001 - the one place: code under test may raise anything
        return Crashed(f"{type(error).__name__}: {error}")
    # a form in place need not return what its caller has
    return Ran((result,) if isinstance(result, torch.Tensor) else tuple(result or ()), None)


def without_outputs(prop: str, case: Case, outcome: Outcome) -> Verdict:
    """The verdict on a call that gave nothing to compare."""
    match outcome:
        case Declined(reason=reason):
            return Verdict(prop, case, Status.DECLINED, reason)
        case Crashed(how):
            return Verdict(prop, case, Status.CRASHED, how)
        case Hung(seconds):
            return Verdict(prop, case, Status.HUNG, f"no answer within {seconds:g} s")
        case Ran():
            message = f"{prop}: a call that ran has outputs to compare"
            raise AssertionError(message)


def metadata(case: Case, outputs: tuple[torch.Tensor, ...]) -> str:
    """What is wrong with the outputs' number, shapes, dtypes and strides, or nothing."""
    expected = OPERATIONS[case.operation].outputs(case)
    if len(outputs) != len(expected):
        return f"returned {len(outputs)} tensors, must be {len(expected)}"
    for want, got in zip(expected, outputs, strict=True):
        if got.dtype != want.dtype:
            return f"{want.name} is {got.dtype}, must be {want.dtype}"
        if tuple(got.shape) != want.shape:
            return f"{want.name} has shape {tuple(got.shape)}, must be {want.shape}"
        if misplaced := want.misplaced(got):
            return f"{want.name} has strides {got.stride()}, must be {misplaced}"
    return ""


def intervals(
    subject: Subject,
    contract: Contract,
    case: Case,
    values: Mapping[str, torch.Tensor],
    rows: slice,
    returned: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Interval]:
    """What the contract allows for some rows of every output, before the store; ``returned`` are those rows."""
    operation = OPERATIONS[case.operation]
    device = _oracle_device(subject, case)
    given = {}
    for name, tensor in values.items():
        part = by_row(case, name, tensor)[rows] if name in operation.row_tensors else tensor
        given[name] = part.to(device)
    return operation.formula(subject.machine, contract, {**given, **(returned or {})}, case)


def _oracle_device(subject: Subject, case: Case) -> str:
    """Where the oracle works: a hundred small steps are quicker on a CPU than as launches on a GPU."""
    small = case.rows * case.tensors[0][1].shape[-1] <= SMALL
    return "cpu" if small else subject.device


def chunks(case: Case) -> Iterator[slice]:
    """The rows of a case in parts that the oracle can hold."""
    rows = count(case)
    elements = sum(math.prod(want.shape) for want in OPERATIONS[case.operation].outputs(case))
    return row_chunks(rows, elements // max(rows, 1))


def measure(
    subject: Subject,
    contract: Contract,
    case: Case,
    values: Mapping[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    *,
    signed: Collection[str] = (),
    slices: Iterable[slice] | None = None,
) -> Comparison:
    """Compare all outputs with what the contract allows, in chunks of rows; ``signed``: whose errors to add up.

    ``slices``: the rows to look at, no more of them in one than the oracle can hold; by default all.
    """
    expected = OPERATIONS[case.operation].outputs(case)
    total = NOTHING
    for rows in chunks(case) if slices is None else slices:
        parts = {
            want.name: got.reshape(count(case), -1)[rows].to(_oracle_device(subject, case))
            for want, got in zip(expected, outputs, strict=True)
        }
        # an output that others depend on is judged for itself, and they given what was returned of it
        allowed = intervals(subject, contract, case, values, rows, parts)
        for want in reversed(expected):
            part, interval, lean = parts[want.name], allowed[want.name], want.name in signed
            total += compare(want.name, part, interval, want.shape, rows.start, signed=lean)
    return total


def property_of(case: Case) -> str:
    """Which property a case's values are evidence for: special numbers, a layout, or plain values."""
    if any(spec.values in SPECIAL for _, spec in case.tensors):
        return "specials"
    return "layout" if any(_reaches(spec) for _, spec in case.tensors) else "values"


def _reaches(spec: TensorSpec) -> bool:
    """Whether a layout is more than a name: one row cannot be transposed."""
    if spec.layout.kind == SAME:
        return True
    place = spec.layout.place(spec.shape)
    dense = torch.empty(spec.shape, device="meta").as_strided(spec.shape, place.strides)
    return place.offset > 0 or not dense.is_contiguous()


def judge_call(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Every passive property of one call: values, metadata, memory, written, path. Two calls, two poisons."""
    values = values_of(case)
    first, second = (perform(subject, case, values, poison) for poison in POISONS)
    prop = property_of(case)
    for made in (first, second):
        if not isinstance(made.outcome, Ran):
            return (without_outputs(prop, case, made.outcome),)
    assert isinstance(first.outcome, Ran)
    assert isinstance(second.outcome, Ran)
    outputs, again = first.outcome.outputs, second.outcome.outputs
    wrong = metadata(case, outputs) or metadata(case, again)
    verdicts = [
        _verdict("metadata", case, wrong),
        _verdict("path", case, _off_path(first)) if first.outcome.path else _pathless(case),
    ]
    if wrong:
        reason = f"nothing to compare: {wrong}"
        return (*verdicts, Verdict(prop, case, Status.FAILED, reason))
    comparison = measure(subject, subject.adapter.contract(case.operation), case, values, outputs)
    return (
        _judged(prop, case, comparison),
        *verdicts,
        _verdict("memory", case, _harm(first, second) or _differs(outputs, again)),
        _verdict("written", case, _unwritten(outputs, again)),
        *_copied(case, values, outputs),
    )


def _harm(first: Call, second: Call) -> str:
    """What two calls did to memory that is not their outputs', or made their outputs of, or nothing."""
    return first.damage() or second.damage() or _borrowed(first) or _recycled(first, second)


def _borrowed(made: Call) -> str:
    """An output that lies in an argument's memory: nobody asked for it in place."""
    assert isinstance(made.outcome, Ran)
    names = {_memory(owner.raw): name for name, owner in made.materials.owners}
    for output in made.outcome.outputs:
        if output.numel() and _memory(output) in names:
            return f"an output is a view of {names[_memory(output)]}, must have memory of its own"
    return ""


def _recycled(first: Call, second: Call) -> str:
    """Two results in one place: the second call changed what the first had given."""
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


def _pathless(case: Case) -> Verdict:
    return Verdict("path", case, Status.NOT_JUDGED, "the adapter does not say which path ran")


def _judged(prop: str, case: Case, comparison: Comparison) -> Verdict:
    if not comparison.outside:
        return Verdict(prop, case, Status.PASSED, "", comparison)
    reason = f"{comparison.first}; {comparison.outside} of {comparison.elements} elements outside"
    return Verdict(prop, case, Status.FAILED, reason, comparison)


def _off_path(made: Call) -> str:
    """Whether what ran is not what the adapter says ran."""
    assert isinstance(made.outcome, Ran)
    path, record = made.outcome.path or "", made.record
    if path.startswith("native"):
        return f"path {path!r} launched {', '.join(record.launches)}" if record.launches else ""
    if not record.launches and any(t.numel() for t in made.outcome.outputs):
        return f"path {path!r} launched nothing"
    return f"path {path!r} copies: {', '.join(record.copies)}" if record.copies else ""


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits; every NaN is like every other."""
    if a.dtype.itemsize == 1:
        # torch knows no sign bit of fp8; every number of it is one of float32
        a, b = a.float(), b.float()
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())


def _differs(outputs: tuple[torch.Tensor, ...], again: tuple[torch.Tensor, ...]) -> str:
    if all(same_bits(a, b) for a, b in zip(outputs, again, strict=True)):
        return ""
    return "the result changes with what lies beside the arguments or in fresh memory (or by chance)"


def _unwritten(outputs: tuple[torch.Tensor, ...], again: tuple[torch.Tensor, ...]) -> str:
    """Elements that hold the first poison after the first call and the second after the second."""
    for a, b in zip(outputs, again, strict=True):
        pattern = _poisoned(a, POISONS[0]) & _poisoned(b, POISONS[1])
        if pattern.any():
            place = tuple(int(i) for i in torch.nonzero(pattern)[0])
            return f"{int(pattern.sum())} of {a.numel()} elements were never written, the first at {place}"
    return ""


def _copied(
    case: Case, values: Mapping[str, torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> tuple[Verdict, ...]:
    """Whether what an output only takes over has its bits, signs of zeros included; of operations that do that."""
    operation = OPERATIONS[case.operation]
    if operation.copies is None:
        return ()
    copies = operation.copies(case, values)
    changed = []
    for want, got in zip(operation.outputs(case), outputs, strict=True):
        where, expected = copies[want.name]
        wrong = (_bits(got.cpu()) != _bits(expected)) & where
        if wrong.any():
            place = ", ".join(map(str, torch.nonzero(wrong)[0].tolist()))
            changed.append(f"{int(wrong.sum())} elements of {want.name}, the first at [{place}]")
    return (_verdict("copied", case, f"other bits than those copied: {'; '.join(changed)}" if changed else ""),)


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.int16 if values.element_size() == 2 else torch.int32)


def _poisoned(values: torch.Tensor, poison: int) -> torch.Tensor:
    # a copy: even a contiguous tensor may have any stride along a dimension of one element, and bytes may not
    flat = values.flatten().clone(memory_format=torch.contiguous_format)
    as_bytes = flat.view(torch.uint8).reshape(-1, values.element_size())
    return (as_bytes == poison).all(-1).reshape(values.shape)


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
    if not isinstance(made.outcome, Ran) or metadata(case, made.outcome.outputs):
        return ()
    declared = subject.adapter.contract(case.operation)
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
