"""Every operation as a torch op with a fake and a backward: what a compiler sees of a call, in one piece.

An op has the arguments of its function; one with a residual is an op of its own, for it returns two tensors.
One that writes its arguments returns nothing and has no backward: it is refused where a gradient is needed.
``ops.py`` calls them while something traces it; eager calls never come here. Whichever path runs the forward,
the backward recomputes it natively. Ops with fp8 values return a list, and refuse to be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from normkernels import fp8, native, validate
from normkernels.describe import ACTIVATIONS, ROUNDINGS, hold_tensors
from normkernels.describe_fp8 import no_gradient, quantisation
from normkernels.describe_mrope import hold_rotation
from normkernels.dispatch import CHECKS
from normkernels.errors import InvalidCall

NAMESPACE = "normkernels"

# y, or y and s, or q and k, or what an op with fp8 values returns; nothing where arguments are written
Results = torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor] | None
# The arguments of a call by name.
Given = Mapping[str, Any]

_FLAGS = {"eps": "float", "rounding": "str", "path": "str?"}
_PLAIN = {"x": "Tensor", "weight": "Tensor?", "weight_offset": "float", **_FLAGS}
_GEMMA = {"x": "Tensor", "weight": "Tensor", **_FLAGS}
_GATED = {
    "x": "Tensor",
    "gate": "Tensor?",
    "weight": "Tensor",
    "group_size": "int?",
    "norm_before_gate": "bool",
    "activation": "str",
    **_FLAGS,
}
_RESIDUAL = {"residual": "Tensor"}
_MROPE = {
    "q": "Tensor",
    "k": "Tensor",
    "positions": "Tensor",
    "cos": "Tensor",
    "sin": "Tensor",
    "sections": "int[]",
    "head_dim": "int?",
    "interleaved": "bool",
    "path": "str?",
}
_FP8 = {"quant_group": "int?", "scale_layout": "str", "fp8_dtype": "ScalarType", "also_unquantised": "bool"}

# Each op: the operation that it is, and its arguments with their types in a schema.
OPS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "rms_norm": ("rms_norm", _PLAIN),
    "rms_norm_residual": ("rms_norm", _PLAIN | _RESIDUAL),
    "gemma_rms_norm": ("gemma_rms_norm", _GEMMA),
    "gemma_rms_norm_residual": ("gemma_rms_norm", _GEMMA | _RESIDUAL),
    "rms_norm_gated": ("rms_norm_gated", _GATED),
    "mrope": ("mrope", _MROPE),
    "mrope_": ("mrope_", _MROPE | {"q": "Tensor(a!)", "k": "Tensor(b!)"}),
    "rms_norm_fp8": ("rms_norm_fp8", _PLAIN | _FP8),
    "rms_norm_fp8_residual": ("rms_norm_fp8", _PLAIN | _FP8 | _RESIDUAL),
    "rms_norm_gated_fp8": ("rms_norm_gated_fp8", _GATED | _FP8),
}


# Any: one tensor or several, as the operation says
def call(operation: str, given: Given, outputs: Mapping[str, torch.Tensor | None]) -> Any:  # noqa: ANN401
    """Make a call through its op; one that writes into given outputs is refused, and while it is traced."""
    wrong = None
    for name, tensor in outputs.items():
        if tensor is not None:
            wrong = f"{name} is given, must be None in a call that torch.compile traces"
    # a schema takes True for a number, and a number for True
    for name in ("eps", "weight_offset", "group_size", "quant_group", "head_dim"):
        if isinstance(given.get(name), bool):
            wrong = f"{name}={given[name]!r}, must be a number"
    for name in ("norm_before_gate", "interleaved", "also_unquantised"):
        if not isinstance(given.get(name, True), bool):
            wrong = f"{name}={given[name]!r}, must be one of True, False"
    if not isinstance(given.get("fp8_dtype", torch.uint8), torch.dtype):
        wrong = f"fp8_dtype={given['fp8_dtype']!r}, must be one of {', '.join(map(str, fp8.TYPES))}"
    if operation == "mrope_" and torch.is_grad_enabled():
        for name in ("q", "k", "cos", "sin"):
            if given[name].requires_grad:
                wrong = f"q and k are written, {name} must not need a gradient then"
    if wrong is not None:
        # raised here it would only break the graph, and Dynamo would go on to trace the kernel's launch
        return torch.ops.normkernels.refuse(next(iter(given.values())), f"{operation}: {wrong}")

    name = operation
    if "residual" in given:
        if given["residual"] is None:
            given = {name: value for name, value in given.items() if name != "residual"}
        else:
            name = f"{operation}_residual"
    if operation == "mrope_":
        torch.ops.normkernels.mrope_(**given)
        return given["q"], given["k"]
    return getattr(torch.ops.normkernels, name)(**given)


def refuse(x: torch.Tensor, message: str) -> torch.Tensor:
    """Raise, as the fake of a call without meaning does."""
    raise InvalidCall(message)


def _hold_backward(operation: str) -> None:
    """Refuse a call under forward-mode autograd: torch would drop the tangents of an op without a word."""
    # torch has no public question for it
    if forward_ad._current_level >= 0:  # noqa: SLF001
        raise InvalidCall(f"{operation}: called in forward-mode autograd, must be eager there: the op has no jvp")


def run(operation: str, given: Given) -> Results:
    """Run the call as an eager one."""
    _hold_backward(operation)
    if torch.compiler.is_compiling():
        # a tracer that computes on constants: the function itself would come back here
        return recompute(operation, given)

    # here, because the functions' own modules import this one
    import normkernels

    results: Results = getattr(normkernels, operation)(**given)
    if operation == "mrope_":
        return None
    return list(results) if "fp8_dtype" in given and results is not None else results


def fake(operation: str, given: Given) -> Results:
    """Return what the call returns, without values; hold it to a meaning, which asks nothing of row counts."""
    _hold_backward(operation)
    if "q" in given:
        return _fake_rotation(operation, given)
    x, weight = given["x"], given["weight"]
    weights = {} if weight is None and OPS[operation][1]["weight"] == "Tensor?" else {"weight": weight}
    beside = {name: given[name] for name in ("residual", "gate") if given.get(name) is not None}
    hold_tensors(operation, x, weights, beside, {})
    # float: a compiler may pass a symbol, and these are constants of a call
    validate.epsilon(operation, float(given["eps"]))
    if "weight_offset" in given:
        validate.number(operation, "weight_offset", float(given["weight_offset"]))
    if "group_size" in given:
        validate.group_width(operation, given["group_size"], x.shape[-1])
        validate.choice(operation, "activation", given["activation"], tuple(ACTIVATIONS))
    validate.choice(operation, "rounding", given["rounding"], ROUNDINGS)
    _hold_path(operation, operation, given["path"])

    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device) if "residual" in given else None
    if "fp8_dtype" in given:
        how = quantisation(operation, x, *(given[name] for name in _FP8))
        values = torch.empty(x.shape, dtype=how.dtype, device=x.device)
        scales = fp8.empty_scales(x, how)
        return list(fp8.results(values, scales, y if given["also_unquantised"] else None, total))
    return y if total is None else (y, total)


def _fake_rotation(operation: str, given: Given) -> Results:
    tensors = {name: given[name] for name in ("q", "k", "positions", "cos", "sin")}
    # int: a compiler may pass a symbol, and these are constants of a call
    sections = tuple(map(int, given["sections"]))
    head_dim = None if given["head_dim"] is None else int(given["head_dim"])
    hold_rotation(operation, tensors, sections, head_dim, given["interleaved"])
    _hold_path(operation, "mrope", given["path"])
    if operation == "mrope_":
        return None
    q, k = (torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (given["q"], given["k"]))
    return q, k


def _hold_path(name: str, operation: str, path: str | None) -> None:
    if path is not None:
        validate.choice(name, "path", path, tuple(map(str, CHECKS[operation])))


def recompute(operation: str, given: Given) -> Results:
    """Run a valid call natively, in torch's own ops, which have gradients."""
    if "q" in given:
        tensors = {name: given[name] for name in ("q", "k", "positions", "cos", "sin")}
        rotation = hold_rotation(operation, tensors, given["sections"], given["head_dim"], given["interleaved"])
        q, k = native.mrope(**tensors, **rotation)
        if operation == "mrope":
            return q, k
        given["q"].copy_(q)
        given["k"].copy_(k)
        return None
    x, rounding = given["x"], given["rounding"]
    flags: dict[str, Any] = {"eps": given["eps"]}
    if "fp8_dtype" in given:
        flags["how"] = quantisation(operation, x, *(given[name] for name in _FP8))
        flags["unquantised"] = given["also_unquantised"]
    if "gate" in given:
        gated = "none" if given["gate"] is None else "after" if given["norm_before_gate"] else "before"
        flags["width"] = x.shape[-1] if given["group_size"] is None else given["group_size"]
        flags |= {"gated": gated, "activation": ACTIVATIONS[given["activation"]], "rounding": rounding}
        run_natively = native.rms_norm_gated_fp8 if "how" in flags else native.rms_norm_gated
        return run_natively(x, given["gate"], given["weight"], **flags)
    offset = 1.0 if operation == "gemma_rms_norm" else given["weight_offset"]
    flags |= {"offset": offset, "rounding": "fp32" if offset else rounding}
    if "how" in flags:
        return list(native.rms_norm_fp8(x, given["weight"], given.get("residual"), **flags))
    y, total = native.rms_norm(x, given["weight"], given.get("residual"), **flags)
    return y if total is None else (y, total)


# Any: autograd's context is untyped
def _remember(operation: str, names: tuple[str, ...]) -> Callable[..., None]:
    def remember(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ANN401
        given = dict(zip(names, inputs, strict=True))
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        ctx.save_for_backward(*tensors.values())
        ctx.tensors = tuple(tensors)
        ctx.flags = {name: value for name, value in given.items() if name not in tensors}

    return remember


def _differentiate(operation: str, names: tuple[str, ...]) -> Callable[..., tuple[torch.Tensor | None, ...]]:
    def differentiate(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        needed = dict(zip(names, ctx.needs_input_grad, strict=True))
        # of second order, where somebody asks for it
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # views: one tensor may be two arguments, and has a gradient as each
            given = {
                name: tensor.view_as(tensor) for name, tensor in zip(ctx.tensors, ctx.saved_tensors, strict=True)
            }
            made = recompute(operation, given | ctx.flags)
        assert made is not None
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

    return differentiate


# Any: autograd's context is untyped
def _refuse_gradient(operation: str, names: tuple[str, ...]) -> Callable[..., None]:
    """Return what autograd calls before an op returns that it would have to differentiate."""

    def refuse_gradient(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ANN401
        given = zip(names, inputs, strict=True)
        needs = next(name for name, each in given if isinstance(each, torch.Tensor) and each.requires_grad)
        raise no_gradient(operation, needs)

    return refuse_gradient


# Any: torch's class has no types
def _register(library: Any) -> None:  # noqa: ANN401
    """Give every op its schema, what runs it on any device, its fake and its backward."""
    library.define("refuse(Tensor x, str message) -> Tensor")
    library.impl("refuse", refuse, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::refuse", refuse, lib=library)
    for name, (operation, types) in OPS.items():
        names = tuple(types)
        arguments = ", ".join(f"{kind} {argument}" for argument, kind in types.items())
        library.define(f"{name}({arguments}) -> {_returns(name)}")
        qualified = f"{NAMESPACE}::{name}"
        library.impl(name, _bound(run, operation, names), "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, _bound(fake, operation, names), lib=library)
        if operation == "mrope_":
            continue
        setup = (_refuse_gradient if "fp8_dtype" in types else _remember)(operation, names)
        torch.library.register_autograd(
            qualified, _differentiate(operation, names), setup_context=setup, lib=library
        )


def _returns(name: str) -> str:
    """Return the part of an op's schema that says what comes out."""
    if name == "mrope_":
        return "()"
    if "fp8" in name:
        return "Tensor[]"
    return "(Tensor, Tensor)" if name == "mrope" or name.endswith("_residual") else "Tensor"


def _bound(
    function: Callable[[str, Given], Results], operation: str, names: tuple[str, ...]
) -> Callable[..., Results]:
    def bound(*args: object) -> Results:
        return function(operation, dict(zip(names, args, strict=True)))

    return bound


# Kept: the ops live as long as it does.
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]  # torch has no types here
_register(_LIBRARY)
