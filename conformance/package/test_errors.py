"""Calls without a meaning raise, name the argument, its value and what must hold, and write nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.mrope import bits
from conformance.package.calls.operations import run
from conformance.package.calls.rms_norm_gated import call
from conformance.package.calls.tensors import DEVICE, Arguments, values
from conformance.package.meaningless import fp8 as of_fp8
from conformance.package.meaningless import mrope as of_mrope
from conformance.package.meaningless import rms_norm as of_norms
from conformance.package.meaningless import rms_norm_gated as of_gated
from conformance.selftest.every import every
from normkernels import InvalidCall, PathUnavailable

NORM, GATED = fp8.OPERATIONS
ROTATIONS = ("mrope", "mrope_")


@dataclass(frozen=True, slots=True)
class Wrong:
    """A call without a meaning: how it is made and run, what its error says, and an output for it."""

    make: Callable[[], Arguments]
    run: Callable[[Arguments], object]
    message: str
    output: Callable[[], torch.Tensor] | None = None


def _rotation(operation: str, make: Callable[[], Arguments], message: str) -> Wrong:
    return Wrong(make, lambda arguments: mrope.run(arguments, operation), message)


WRONG = {
    **{
        ("rms_norm_gated", name): Wrong(make, rms_norm_gated.run, message, lambda: values("out", 3, 128))
        for name, (make, message) in of_gated.BAD_CALLS.items()
    },
    **{
        (operation, name): Wrong(make, partial(run, operation), message, lambda: values("out", 3, 96))
        for name, (make, message) in of_norms.BAD_CALLS.items()
        for operation in rms_norm.OPERATIONS
    },
    **{
        (operation, name): Wrong(
            partial(make, operation), partial(run, operation), message, lambda: of_fp8.fp8(3, 96)
        )
        for name, (operations, make, message) in of_fp8.BAD_CALLS.items()
        for operation in operations
    },
    **{
        (operation, name): _rotation(operation, make, message)
        for name, (make, message) in of_mrope.BAD_CALLS.items()
        for operation in ROTATIONS
    },
}


def _refused(operation: str, wrong: Wrong) -> None:
    """Check that a call raises an error that names it and what is wrong, and that its tensors keep their bits."""
    arguments: Arguments = ({} if wrong.output is None else {"out": wrong.output()}) | wrong.make()
    tensors = [t for t in arguments.values() if isinstance(t, torch.Tensor) and t.device.type != "meta"]
    before = [bits(tensor.detach().to_dense()).clone() for tensor in tensors]

    with pytest.raises(InvalidCall, match=f"^{operation}: "):
        wrong.run(arguments)
    with pytest.raises(InvalidCall, match=f"^{operation}: {wrong.message}"):
        wrong.run(wrong.make())
    for tensor, was in zip(tensors, before, strict=True):
        assert torch.equal(was, bits(tensor.detach().to_dense()))


@every(("operation", "name"), WRONG)
def test_a_call_without_meaning_raises_and_writes_nothing(operation: str, name: str) -> None:
    """The message names operation, argument, value and requirement; every tensor is unchanged."""
    _refused(operation, WRONG[operation, name])


def test_exceptions_are_what_a_caller_expects() -> None:
    """Both exceptions are subclasses of ``ValueError``."""
    assert issubclass(InvalidCall, ValueError)
    assert issubclass(PathUnavailable, ValueError)


# --- numbers and empty tensors, which have a meaning ----------------------------------------------------------


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("operation", ["rms_norm_gated", *rms_norm.OPERATIONS, *fp8.OPERATIONS])
def test_eps_may_be_any_number(operation: str, path: str) -> None:
    """An integer, zero, the largest float32 and NumPy's numbers are numbers, the narrow ones too."""
    for eps in (0, 1, 0.0, torch.finfo(torch.float32).max, np.float16(1)):
        if operation == "rms_norm_gated":
            arguments = call(eps=eps, path=path)
            rms_norm_gated.assert_right(arguments, rms_norm_gated.run(arguments))
        elif operation in fp8.OPERATIONS:
            arguments = fp8.call(operation, eps=eps, path=path)
            fp8.assert_right(operation, arguments, results := run(operation, arguments))
            assert results[1].isfinite().all()
        else:
            arguments = rms_norm.added(eps=eps, path=path)
            rms_norm.assert_right(operation, arguments, run(operation, arguments))


OFFSETS = (math.nan, -math.inf, 1e39, True, "1", None)


@pytest.mark.parametrize("offset", OFFSETS, ids=repr)
def test_an_offset_that_no_kernel_could_add_raises(offset: object) -> None:
    """The offset must be a number that is finite in float32."""
    with pytest.raises(InvalidCall, match=r"rms_norm: weight_offset=.*must be a number that is finite in float32"):
        run("rms_norm", rms_norm.call(weight_offset=offset))


def test_gemma_needs_a_weight() -> None:
    """None means a weight of ones, which Gemma's norm does not have."""
    with pytest.raises(InvalidCall, match="gemma_rms_norm: weight is a NoneType, must be a tensor"):
        run("gemma_rms_norm", rms_norm.call(weight=None))


EMPTY = ((0, 96), (3, 0), (0,), (2, 0, 5))


@pytest.mark.parametrize("path", [None, "native"])
@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("operation", rms_norm.OPERATIONS)
def test_empty_tensors_give_empty_results(operation: str, shape: tuple[int, ...], path: str | None) -> None:
    """Empty inputs give empty results on every path and in every form."""
    added = rms_norm.added(*shape, path=path)
    outputs = {name: values(name, *shape) for name in ("out", "residual_out")}
    fresh, given = run(operation, added), run(operation, added | outputs)

    assert [shape] == [tuple(result.shape) for result in run(operation, rms_norm.call(*shape, path=path))]
    assert [shape, shape] == [tuple(result.shape) for result in fresh]
    assert all(result is output for result, output in zip(given, outputs.values(), strict=True))


@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("path", [None, "native"])
@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("operation", fp8.OPERATIONS)
def test_empty_tensors_give_empty_quantised_results(
    operation: str, shape: tuple[int, ...], path: str | None, layout: str
) -> None:
    """Empty inputs give empty results on every path and in every form; a row without columns has no scale."""
    groups = -(-shape[-1] // 64)
    for group in (64, None):
        arguments = fp8.full(operation, *shape, path=path, scale_layout=layout, quant_group=group)
        got, scales, *others = run(operation, arguments)
        out = torch.empty(shape, dtype=of_fp8.FP8, device=DEVICE)

        assert (shape, of_fp8.FP8) == (tuple(got.shape), got.dtype)
        assert (*shape[:-1], groups if group else min(groups, 1)) == tuple(scales.shape)
        assert all(shape == tuple(other.shape) for other in others)
        assert out is run(operation, arguments | {"out": out})[0]


# --- gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "rows", "native"])
@pytest.mark.parametrize("name", ["x", "weight", "residual", "gate", "residual_out", "out"])
def test_a_gradient_is_refused(name: str, path: str | None) -> None:
    """A gradient is never dropped silently: the caller must disable it."""
    operation = GATED if name == "gate" else NORM
    arguments = fp8.full(operation, path=path)
    needs = of_fp8.fp8(3, 96) if name == "out" else arguments.get(name, values(name, 3, 96))
    arguments[name] = needs.clone().requires_grad_()

    with pytest.raises(InvalidCall, match=f"{operation}: .*{name} (needs|must not need) a gradient"):
        run(operation, arguments)
    with torch.no_grad():
        assert not any(result.requires_grad for result in run(operation, fp8.full(operation, path=path)))
        run(operation, arguments)


# torch's own, where it traces jvp
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_gradient_that_a_transform_asks_for_is_refused() -> None:
    """A gradient is refused also if a transform hides it behind plain tensors."""
    arguments = fp8.call(NORM)
    x = arguments.pop("x")

    def loss(x: torch.Tensor) -> torch.Tensor:
        return run(NORM, arguments | {"x": x, "also_unquantised": True})[2].sum()

    with pytest.raises(InvalidCall, match="x needs a gradient, must not"):
        torch.func.grad(loss)(x)
    with pytest.raises(InvalidCall, match="called in forward-mode autograd, must not"):
        torch.func.jvp(loss, (x,), (x,))


# --- rotations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ROTATIONS)
def test_an_unknown_path_raises(operation: str) -> None:
    """The message lists the operation's paths, in place or not."""
    with pytest.raises(InvalidCall, match=r"^mrope: path='rows', must be one of 'heads', 'native'"):
        mrope.run(mrope.call(path="rows"), operation)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU makes NaN of it, see values.test_edges")
@pytest.mark.parametrize("operation", ROTATIONS)
@pytest.mark.parametrize("name", of_mrope.OUTSIDE)
def test_a_position_outside_the_cache_raises(name: str, operation: str) -> None:
    """The message names the position and the number of rows."""
    make, message = of_mrope.OUTSIDE[name]

    _refused(operation, _rotation(operation, make, message))


@pytest.mark.parametrize("path", [None, "native"])
@pytest.mark.parametrize("name", of_mrope.IN_PLACE)
def test_what_cannot_be_written_raises(name: str, path: str | None) -> None:
    """Shared elements, or those that a gradient needs, raise; the same call out of place runs."""
    make, message = of_mrope.IN_PLACE[name]
    results = mrope.run(make() | {"path": path})

    assert not any(result.isnan().any() for result in results)
    _refused("mrope_", _rotation("mrope_", lambda: make() | {"path": path}, message))
