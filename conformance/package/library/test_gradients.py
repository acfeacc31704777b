"""The backward of an op is that of the native form; where there is none, a gradient is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import normkernels
from conformance.package.calls import fp8, mrope
from conformance.package.calls import rms_norm as norms
from conformance.package.calls.fp8 import same
from conformance.package.calls.operations import Results, run
from conformance.package.calls.tensors import Arguments, split, values
from conformance.package.library.calls import (
    BACKENDS,
    DOUBLE,
    FULL,
    ROWS,
    TURNS,
    WITH_GRADIENTS,
    compiled,
    op,
    op_arguments,
)
from conformance.selftest.every import every
from normkernels import InvalidCall, library
from normkernels.operations.operation import OPERATIONS

WRITTEN = ("q", "k", "cos", "sin")


def gradients(results: Results, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the gradients of a sum in which the results have different weights."""
    total = sum(
        (result * values(f"share {i}", *result.shape, dtype=result.dtype)).sum()
        for i, result in enumerate(results)
    )
    return torch.autograd.grad(total, tensors)  # type: ignore[arg-type]  # a sum of tensors


def assert_eager_gradients(operation: str, arguments: Arguments, needed: tuple[str, ...], backend: str) -> None:
    """Check that the compiled call gives the gradients of the eager one to the tensors that need them."""
    tensors, flags = split(arguments)
    given = {name: tensor.detach().requires_grad_(name in needed) for name, tensor in tensors.items()}
    inputs = [given[name] for name in needed]
    wanted = gradients(run(operation, given | flags), inputs)

    for want, got in zip(wanted, gradients(compiled(operation, flags, backend)(given), inputs), strict=True):
        # gradients have no contract of their own: two summations of the same terms
        torch.testing.assert_close(want, got)


@every(("operation", "name"), WITH_GRADIENTS)
def test_gradients_are_right(operation: str, name: str) -> None:
    """Gradients agree with differences in float64: first order for the eager call, also second for the op."""
    tensors, flags = split(ROWS[operation, name](2, 6, dtype=DOUBLE))
    inputs = [tensor.requires_grad_() for tensor in tensors.values()]

    def eager(*given: torch.Tensor) -> Results:
        return run(operation, dict(zip(tensors, given, strict=True)) | flags)

    def through_the_library(*given: torch.Tensor) -> Any:
        record = OPERATIONS[operation]
        bound = record.signature.bind(**dict(zip(tensors, given, strict=True)), **flags)
        bound.apply_defaults()
        parts = (tuple(map(bound.arguments.get, names)) for names in (record.tensors, record.flags))
        return library.call(operation, *parts)

    assert torch.autograd.gradcheck(eager, inputs)
    assert torch.autograd.gradcheck(through_the_library, inputs)
    assert torch.autograd.gradgradcheck(through_the_library, inputs)


@every("name", TURNS)
def test_gradients_of_a_rotation_are_right(name: str) -> None:
    """The op's gradients of first and second order agree with differences in float64."""
    arguments = TURNS[name](2, (2, 1), 8, 3, dtype=DOUBLE, sections=(1, 1, 1))
    # a cache of few rows: each of its elements costs a call
    arguments |= {each: arguments[each][:6] for each in ("cos", "sin")}
    arguments |= {"positions": arguments["positions"] % 6}

    def rotate(*given: torch.Tensor) -> Any:
        called = arguments | dict(zip(WRITTEN, given, strict=True))
        return torch.ops.normkernels.mrope(*op_arguments("mrope", called))

    inputs = [arguments[each].detach().clone().requires_grad_() for each in WRITTEN]
    assert torch.autograd.gradcheck(rotate, inputs)
    assert torch.autograd.gradgradcheck(rotate, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [FULL, DOUBLE], ids=str)
@pytest.mark.parametrize(("operation", "name"), WITH_GRADIENTS)
def test_compiled_gradients_are_the_eager_ones(
    operation: str, name: str, dtype: torch.dtype, backend: str
) -> None:
    """The backward is native's for every forward path; each input may be the only one that needs it."""
    arguments = ROWS[operation, name](3, 96, dtype=dtype)
    every_input = tuple(split(arguments)[0])
    for needed in ((each,) for each in every_input) if backend == "eager" else [every_input]:
        assert_eager_gradients(operation, arguments, needed, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@every("needed", [("q",), ("k",), ("sin",), WRITTEN])
def test_compiled_gradients_of_a_rotation_are_the_eager_ones(needed: tuple[str, ...], backend: str) -> None:
    """Each input may be the only one that needs its gradient."""
    torch._dynamo.reset()
    assert_eager_gradients("mrope", mrope.call(), needed, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tensor_may_be_two_arguments(backend: str) -> None:
    """The gradient of the tensor is the sum of those of both arguments."""
    x, weight = values("x", 3, 96).requires_grad_(), values("weight", 96)
    both, flags = {"x": x, "weight": weight, "residual": x}, {"eps": 1e-6}
    wanted = gradients(run("rms_norm", both | flags), [x])

    # gradients have no contract of their own: two summations of the same terms
    torch.testing.assert_close(wanted, gradients(compiled("rms_norm", flags, backend)(both), [x]))


# --- gradients that are refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@every(("operation", "name"), [each for each in ROWS if each[0] in fp8.OPERATIONS])
def test_a_gradient_is_refused_while_it_is_traced(operation: str, name: str, backend: str) -> None:
    """Each input may be the one that needs a gradient; under no_grad none does."""
    torch._dynamo.reset()
    tensors, flags = split(ROWS[operation, name](3, 96))
    traced = compiled(operation, flags, backend)
    for needs in tensors if backend == "eager" else ["x"]:
        given = {name: tensor.detach().requires_grad_(name == needs) for name, tensor in tensors.items()}
        message = f"{operation}: {needs} needs a gradient, must"
        with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=message):
            traced(given)
        with torch.no_grad():
            assert same(run(operation, given | flags), traced(given))


@every("operation", fp8.OPERATIONS)
def test_the_op_itself_refuses_a_gradient(operation: str) -> None:
    """The op, called eagerly, drops neither a gradient nor a tangent silently."""
    arguments = fp8.call(operation)
    args, called = op_arguments(operation, arguments), op(operation, arguments)

    called(*args)
    with pytest.raises(InvalidCall, match="x needs a gradient, must not"):
        called(args[0].clone().requires_grad_(), *args[1:])
    with torch.autograd.forward_ad.dual_level(), pytest.raises(InvalidCall, match="called in forward-mode"):
        called(*args)


@every("name", WRITTEN)
def test_a_gradient_through_what_is_written_is_refused(name: str) -> None:
    """Tracing refuses the gradient, and so does the op; without gradients the same call runs."""
    torch._dynamo.reset()
    arguments = mrope.call()
    wanted = mrope.run(arguments)
    arguments[name].requires_grad_()
    tensors, flags = split(arguments)
    rotate = compiled("mrope_", flags)
    message = f"mrope_: q and k are written, {name} must not need a gradient then"

    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=message):
        rotate(tensors)
    with pytest.raises(InvalidCall, match=message):
        torch.ops.normkernels.mrope_(*op_arguments("mrope_", arguments))
    with torch.no_grad():
        assert all(map(torch.equal, wanted, rotate(tensors)))


# torch's own, where it traces jvp
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_mode_is_refused(backend: str) -> None:
    """A compiled call never drops a tangent silently: tracing it, or running it, raises."""
    tensors, flags = split(norms.call(dtype=DOUBLE))
    call = compiled("rms_norm", flags, backend)
    x, weight = tensors["x"], tensors["weight"]
    message = "called in forward-mode autograd, must be eager"
    # the exception that torch's tracer raises depends on its version
    errors = InvalidCall, torch._dynamo.exc.TorchDynamoException

    def tangent(x: torch.Tensor) -> Any:
        return torch.func.jvp(lambda x: normkernels.rms_norm(x, weight, **flags), (x,), (x,))

    with pytest.raises(errors, match=message):
        torch.compile(tangent, fullgraph=True, backend=backend)(x)
    call(tensors)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)  # type: ignore[no-untyped-call]  # no types in torch
        with pytest.raises(errors, match=message):
            call(tensors | {"x": dual})
        with pytest.raises(InvalidCall, match=message):
            torch.ops.normkernels.rms_norm(dual, weight, 0.0, 1e-6, None, "fp32")


# torch's own, where it traces jvp
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_forward_mode_of_a_rotation_is_eager() -> None:
    """A tangent is not dropped silently: eager calls carry it natively, the op refuses it."""
    arguments = mrope.call(dtype=DOUBLE)
    with torch.autograd.forward_ad.dual_level():
        q = arguments["q"]
        dual = torch.autograd.forward_ad.make_dual(q, q)  # type: ignore[no-untyped-call]  # no types in torch
        rotated = mrope.run(arguments | {"q": dual})[0]
        tangent = torch.autograd.forward_ad.unpack_dual(rotated).tangent  # type: ignore[no-untyped-call]
        # a rotation is linear, so it is its own derivative
        assert torch.equal(rotated, tangent)
        with pytest.raises(InvalidCall, match="mrope: called in forward-mode autograd, must be eager"):
            torch.ops.normkernels.mrope(*op_arguments("mrope", arguments | {"q": dual}))
