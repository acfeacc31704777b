"""A call whose arguments require a gradient is refused, or its results lead to the gradient of the formula.

Autograd does not see what a kernel computes: results that require no gradient cut it off without a word. Others
come with a backward of their own, which can lose a row, a term or an argument. The gradient of every argument is
compared, along random directions, with central differences of the formula in float64. They are compared coarsely:
a mistake is seen, and rounding is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from conformance.adapter import Crashed, Outcome, Ran, poisons
from conformance.calls.call import Subject, arguments_of, call_with, derived, metadata, values_for
from conformance.calls.materialize import materialize
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, of_the_machine, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS, Operation
from conformance.operations.rows import count
from conformance.oracle.contract import Contract
from conformance.properties.measure import intervals
from conformance.properties.property import Fixed, Property, contiguous, narrowed

# a mistake in one row of sixteen is hidden from a direction once in some times, and never from several
DIRECTIONS = 6
# of the root mean square of an argument: differences are exact to its square, which rows of small numbers enlarge
STEP = 2**-10
# share of a gradient's norm that rounding may take, by the least exact dtype of a call: sixteen roundings in a row
TOLERANCES = {"bfloat16": 2**-4, "float16": 2**-7, "float32": 2**-9}
# tables of angles are no parameters
CONSTANTS = frozenset({"cos", "sin"})

Gradients = dict[str, torch.Tensor]
Tensors = tuple[torch.Tensor, ...]


def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Differentiate the call backwards from contiguous, expanded and strided gradients of its results."""
    values = values_for(subject, case)
    # a plan or kernel that is kept from a call without gradients must not serve one with them
    call_with(subject, case, arguments_of(materialize(case, dict(values), subject.device, POISONS[0])))
    _, outcome = _called(subject, case, values)
    if isinstance(outcome, Crashed) and not poisons(outcome.how):
        return (Verdict("gradient", case, Status.DECLINED, f"refused: {outcome.how}"),)
    if not isinstance(outcome, Ran):
        return (without_outputs("gradient", case, outcome),)
    formula = Formula.of(subject, case, values)
    for layout, given in _given(case, subject.device).items():
        arguments, outcome = _called(subject, case, values)
        if not isinstance(outcome, Ran):
            return (without_outputs("gradient", case, outcome),)
        wrong = metadata(subject, case, outcome.outputs) or _cut(case, outcome)
        if not wrong:
            before = [each.clone() for each in given]
            found = derived(subject, outcome.outputs, given, tuple(arguments.values()))
            if of_the_machine(found):
                return (without_outputs("gradient", case, found),)
            if isinstance(found, tuple):
                wrong = _wrong(formula, dict(zip(arguments, found, strict=True)), given, before)
            else:
                wrong = f"the backward raised {without_outputs('gradient', case, found).reason}"
        if wrong:
            return (Verdict("gradient", case, Status.FAILED, f"{wrong}, with {layout} gradients of the results"),)
    return (Verdict("gradient", case, Status.PASSED),)


def _wrong(
    formula: Formula, found: Mapping[str, torch.Tensor | None], given: Tensors, before: Sequence[torch.Tensor]
) -> str:
    """Return what is wrong with a backward, from those ``given`` of the results, as they were ``before`` it."""
    for name, each, was in zip(formula.outputs, given, before, strict=True):
        if not torch.equal(each, was):
            return f"the backward wrote over the gradient of {name}, which autograd may use elsewhere"
    return formula.unlike(found, before)


def differentiable(values: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the tensors whose gradient is judged: finite floats, but for tables of angles."""
    floats = [name for name, each in values.items() if each.is_floating_point() and name not in CONSTANTS]
    return tuple(name for name in floats if bool(values[name].isfinite().all()))


def _called(subject: Subject, case: Case, values: Mapping[str, torch.Tensor]) -> tuple[Gradients, Outcome]:
    """Return the arguments that require a gradient, and the outcome of a call with them."""
    arguments = arguments_of(materialize(case, dict(values), subject.device, POISONS[0]))
    leaves = {name: arguments[name].detach().requires_grad_() for name in differentiable(values)}
    return leaves, call_with(subject, case, {**arguments, **leaves}, attached=True)


def _cut(case: Case, outcome: Ran) -> str:
    outputs = OPERATIONS[case.operation].outputs(case)
    for output, got in zip(outputs, outcome.outputs, strict=True):
        if not got.requires_grad:
            return f"{output.name} requires no gradient, and its arguments do: it is cut off without a word"
    return ""


def _given(case: Case, device: str) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return gradients of the results in three layouts: of a loss, of a plain sum, and of a part of a tensor."""
    generator = torch.Generator().manual_seed(case.seed)

    def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    outputs = OPERATIONS[case.operation].outputs(case)
    return {
        "contiguous": tuple(drawn(out.shape, out.dtype) for out in outputs),
        "expanded": tuple(drawn(out.shape[-1:], out.dtype).expand(out.shape) for out in outputs),
        "strided": tuple(drawn((*out.shape[:-1], 2 * out.shape[-1]), out.dtype)[..., ::2] for out in outputs),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """The formula's results, and how they change along directions of each argument; all float64, on one device.

    ``outputs`` are their names, ``results`` and changes in ``(rows, columns)``. ``sizes`` are the root mean
    squares of the arguments, ``share`` what rounding may take of a gradient's size.
    """

    outputs: tuple[str, ...]
    results: list[torch.Tensor]
    slopes: dict[str, list[tuple[torch.Tensor, list[torch.Tensor]]]]
    sizes: dict[str, float]
    share: float

    @classmethod
    def of(cls, subject: Subject, case: Case, values: Mapping[str, torch.Tensor]) -> Formula:
        """Return the formula of a case, from central differences without any rounding point."""
        exact = {name: each.double() if each.is_floating_point() else each for name, each in values.items()}
        names = tuple(out.name for out in OPERATIONS[case.operation].outputs(case))

        def results(name: str, change: torch.Tensor | float) -> list[torch.Tensor]:
            moved = {**exact, name: exact[name] + change}
            found = intervals(subject, Contract(), case, moved, slice(0, count(case)))
            return [(found[out].lo + found[out].hi) / 2 for out in names]

        arguments = differentiable(values)
        sizes = {name: float(exact[name].square().mean().sqrt()) or 1.0 for name in arguments}
        slopes = {}
        for name in arguments:
            step = STEP * sizes[name]
            along = list(_directions(case, name, exact[name]))
            ends = [(results(name, step * each), results(name, -step * each)) for each in along]
            changes = [[(b - a) / (2 * step) for b, a in zip(*pair, strict=True)] for pair in ends]
            slopes[name] = list(zip(along, changes, strict=True))
        share = max(TOLERANCES[spec.dtype] for _, spec in case.tensors if spec.dtype in TOLERANCES)
        return cls(names, results(arguments[0], 0.0), slopes, sizes, share)

    def unlike(self, found: Mapping[str, torch.Tensor | None], given: Sequence[torch.Tensor]) -> str:
        """Return which argument's gradient is not that of the formula, or nothing."""
        device = self.results[0].device
        pairs = zip(given, self.results, strict=True)
        rows = [each.double().reshape(result.shape).to(device) for each, result in pairs]
        # of the terms that are summed: a gradient whose terms cancel is smaller than what rounding leaves of them
        terms = math.sqrt(sum(float((a * b).square().sum()) for a, b in zip(rows, self.results, strict=True)))
        for name, got in found.items():
            if got is None:
                return f"{name} has no gradient"
            gradient = got.double().to(device)
            for along, changes in self.slopes[name]:
                wanted = sum(float((a * b).sum()) for a, b in zip(rows, changes, strict=True))
                slope = float((gradient * along.reshape(gradient.shape).to(device)).sum())
                size = max(float(gradient.norm()), abs(wanted), terms / self.sizes[name])
                # written so that NaN is a difference
                if not abs(slope - wanted) <= self.share * size:
                    others = ", ".join(self.outputs)
                    return (
                        f"the gradient of {name} is another than that of {others}: along a direction it has the "
                        f"slope {slope:.4g}, the formula {wanted:.4g}"
                    )
        return ""


def _directions(case: Case, name: str, like: torch.Tensor) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(case.seed + sum(map(ord, name)))
    for _ in range(DIRECTIONS):
        yield torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _fixed(operation: Operation) -> Fixed:
    """Return several rows of a usual width, contiguous, ordinary numbers around one, and every optional tensor."""
    plain = (("values", operation.ordinary[:1]), ("width", ("tile", "pow2")), ("rows", ("few",)))
    passed = tuple(
        (name, tuple(level for level in levels if level != "none")) for name, levels in operation.factors.items()
    )
    return narrowed(operation, contiguous(operation), passed, plain)


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.traits(operation).differentiable else "the adapter does not declare it"


def _void(operation: Operation) -> str:
    case = operation.empties(Scope("float32"))[0]
    quantised = [out.name for out in operation.outputs(case) if out.dtype.itemsize == 1]
    return f"{', '.join(quantised)} are quantised, which has no gradient" if quantised else ""


GRADIENT = Property(
    "gradient",
    "arguments that require a gradient get that of the formula, or the call is refused",
    judge,
    fixed=_fixed,
    cannot=_cannot,
    void=_void,
)
