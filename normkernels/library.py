"""Every operation as a torch op with a fake and a backward: a compiler sees one op of a call.

An op has the arguments of its function. Calls with a residual have an op of their own, which returns two tensors.
An op that writes its arguments returns nothing and has no backward: calls that need a gradient are refused.
``api`` calls ops under torch.compile only; eager calls do not use them. The backward recomputes the forward
natively, on whichever path it ran. Ops with fp8 values return a list, and refuse to be differentiated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from normkernels import checks
from normkernels.call import FP8
from normkernels.dispatch import Path
from normkernels.errors import InvalidCall
from normkernels.operations.operation import OPERATIONS, Given, Operation, Results, run
from normkernels.operations.quantisation import no_gradient

NAMESPACE = "normkernels"

# The name of each type of a signature in a schema.
_TYPES = {
    "torch.Tensor": "Tensor",
    "torch.Tensor | None": "Tensor?",
    "float": "float",
    "int | None": "int?",
    "bool": "bool",
    "str": "str",
    "str | None": "str?",
    "torch.dtype": "ScalarType",
    "Sequence[int]": "int[]",
}
_CONSTANTS = {torch.SymFloat: float, torch.SymInt: int}
# Kept: the ops live as long as this object.
_LIBRARY: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]  # torch has no types here


@dataclass(frozen=True, slots=True)
class Op:
    """One op of an operation: with a residual, or without one."""

    name: str
    operation: Operation
    types: Mapping[str, str]  # the schema's type of each argument

    @property
    def quantised(self) -> bool:
        """Return whether fp8 values and scales are among its results."""
        return "fp8_dtype" in self.types

    @property
    def schema(self) -> str:
        """Return its schema."""
        pair = self.operation.path is Path.HEADS or "residual" in self.types
        returns = "Tensor[]" if self.quantised else "(Tensor, Tensor)" if pair else "Tensor"
        arguments = ", ".join(f"{kind} {name}" for name, kind in self.types.items())
        return f"{self.name}({arguments}) -> {'()' if self.operation.in_place else returns}"

    def call(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return tensors and flags of a call of the op, as ``run`` takes them."""
        given = dict(zip(self.types, values, strict=True))
        if "sections" in given:
            given["sections"] = tuple(map(int, given["sections"]))
        return tuple(map(given.get, self.operation.tensors)), tuple(map(given.get, self.operation.flags))

    def returned(self, results: Results) -> Results:
        """Return results in the form of the schema."""
        if self.operation.in_place:
            return None
        return list(results) if self.quantised else results


# Ops by name.
OPS: dict[str, Op] = {}


def register(operation: Operation) -> None:
    """Define the ops of an operation, each with a schema, an implementation, a fake and a backward."""
    types = {
        name: _TYPES[str(each.annotation)]
        for name, each in operation.signature.parameters.items()
        if name not in operation.outputs
    }
    if operation.in_place:
        types |= {"q": "Tensor(a!)", "k": "Tensor(b!)"}
    residual = types.pop("residual", None)
    _define(Op(operation.name, operation, types))
    if residual:
        _define(Op(f"{operation.name}_residual", operation, {**types, "residual": "Tensor"}))


def _define(op: Op) -> None:
    OPS[op.name] = op
    qualified = f"{NAMESPACE}::{op.name}"
    _LIBRARY.define(op.schema)
    _LIBRARY.impl(op.name, lambda *values: op.returned(compute(op, values)), "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, lambda *values: op.returned(fake(op, values)), lib=_LIBRARY)
    if not op.operation.in_place:
        gradient = Gradient(op)
        setup = gradient.refuse if op.quantised else gradient.remember
        torch.library.register_autograd(qualified, gradient.differentiate, setup_context=setup, lib=_LIBRARY)


# Any: one tensor or several, as the operation says
def call(name: str, tensors: tuple[Any, ...], flags: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """Make a call through its op, as a compiler traces it; given outputs are refused."""
    operation = OPERATIONS[name]
    given = operation.by_name(tensors, flags)
    wrong = _wrong(operation, given)
    if wrong is not None:
        # an exception here would only break the graph, and Dynamo would go on to trace the kernel's launch
        return torch.ops.normkernels.refuse(tensors[0], f"{name}: {wrong}")
    absent = [*operation.outputs, *(["residual"] if given.get("residual") is None else [])]
    given = {argument: value for argument, value in given.items() if argument not in absent}
    results = getattr(torch.ops.normkernels, f"{name}_residual" if "residual" in given else name)(**given)
    return (given["q"], given["k"]) if results is None else tuple(results) if "fp8_dtype" in given else results


def _wrong(operation: Operation, given: Given) -> str | None:
    """Return the error in a call that the schema would accept, or that has no op; None without an error."""
    for name, value in given.items():
        kind = str(operation.signature.parameters[name].annotation)
        if name in operation.outputs and value is not None:
            return f"{name} is given, must be None in a call that torch.compile traces"
        # a schema takes True for a number, and a number for True
        if kind in ("float", "int | None") and isinstance(value, bool):
            return f"{name}={value!r}, must be a number"
        if kind == "bool" and not isinstance(value, bool):
            return f"{name}={value!r}, must be one of True, False"
        if kind == "torch.dtype" and not isinstance(value, torch.dtype):
            return f"{name}={value!r}, must be one of {', '.join(map(str, FP8))}"
    if operation.in_place and torch.is_grad_enabled():
        for name in ("q", "k", "cos", "sin"):
            if given[name].requires_grad:
                return f"q and k are written, {name} must not need a gradient then"
    return None


def refuse(x: torch.Tensor, message: str) -> torch.Tensor:
    """Raise, as the fake of a call without meaning does."""
    raise InvalidCall(message)


def _check_backward(op: Op) -> None:
    """Refuse a call under forward-mode autograd: torch would drop the tangents of an op without a word."""
    if checks.forward_mode():
        name = op.operation.name
        raise InvalidCall(f"{name}: called in forward-mode autograd, must be eager there: the op has no jvp")


def compute(op: Op, values: tuple[Any, ...]) -> Results:
    """Run the call as in eager mode; natively for a tracer that computes on constants and cannot run kernels."""
    _check_backward(op)
    return recompute(op, values) if torch.compiler.is_compiling() else run(op.operation.name, *op.call(values))


def fake(op: Op, values: tuple[Any, ...]) -> Results:
    """Check the call and return its results without values; no check depends on row counts."""
    _check_backward(op)
    operation, (tensors, flags) = op.operation, op.call(values)
    # a compiler may pass symbols, and flags are constants of a call
    flags = tuple(_CONSTANTS[type(flag)](flag) if type(flag) in _CONSTANTS else flag for flag in flags)
    given = operation.by_name(tensors, flags)
    resolved = operation.resolve(given)
    if given["path"] is not None:
        checks.choice(operation.name, "path", given["path"], (str(operation.path), str(Path.NATIVE)))
    return None if operation.in_place else operation.results(operation.buffers(tensors, resolved))


def recompute(op: Op, values: tuple[Any, ...]) -> Results:
    """Run a valid call natively, in torch's own ops, which have gradients."""
    tensors, flags = op.call(values)
    return op.operation.native(tensors, op.operation.resolve(op.operation.by_name(tensors, flags)))


class Gradient:
    """The backward of an op: arguments kept from the forward, and the gradients of the native form."""

    # Any: autograd's context is untyped

    def __init__(self, op: Op) -> None:
        self.op = op

    def refuse(self, ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ANN401
        """Refuse a call that would have to be differentiated: the op has no gradient."""
        given = zip(self.op.types, inputs, strict=True)
        needs = next(name for name, each in given if isinstance(each, torch.Tensor) and each.requires_grad)
        raise no_gradient(self.op.operation.name, needs)

    def remember(self, ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ANN401
        """Keep the arguments of a call."""
        given = dict(zip(self.op.types, inputs, strict=True))
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        ctx.save_for_backward(*tensors.values())
        ctx.tensors = tuple(tensors)
        ctx.flags = {name: value for name, value in given.items() if name not in tensors}

    def differentiate(self, ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of the arguments."""
        names = self.op.types
        needed = dict(zip(names, ctx.needs_input_grad, strict=True))
        # whether gradients of second order are asked for
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # views: one tensor may be two arguments, and has a gradient as each
            given = {name: each.view_as(each) for name, each in zip(ctx.tensors, ctx.saved_tensors, strict=True)}
            made = recompute(self.op, tuple((given | ctx.flags)[name] for name in names))
        results = (made,) if isinstance(made, torch.Tensor) else tuple(made)
        # the sum has no gradient where only the weight needs one
        pairs = [(result, grad) for result, grad in zip(results, grads, strict=True) if result.requires_grad]
        wanted = [name for name in given if needed[name]]
        found = torch.autograd.grad(
            [result for result, _ in pairs],
            [given[name] for name in wanted],
            [grad for _, grad in pairs],
            create_graph=again,
        )
        by_name = dict(zip(wanted, found, strict=True))
        return tuple(by_name.get(name) for name in names)


_LIBRARY.define("refuse(Tensor x, str message) -> Tensor")
_LIBRARY.impl("refuse", refuse, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::refuse", refuse, lib=_LIBRARY)
