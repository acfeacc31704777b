"""The norms with fp8 values: given outputs in any layout get the bits of fresh ones."""

from __future__ import annotations

import pytest
import torch

from conformance.package.calls.fp8 import OPERATIONS, call, full, run, same
from conformance.package.calls.tensors import DEVICE, LAYOUTS, Arguments, laid_out, values

SHAPE = (5, 3, 97)
PATHS = ["rows", "native"]
FP8 = torch.float8_e4m3fn


def inputs(operation: str, layout: str, dtype: torch.dtype) -> Arguments:
    """Return a call whose x has the layout named, and whose other tensors have the next one."""
    other = LAYOUTS[(LAYOUTS.index(layout) + 1) % len(LAYOUTS)]
    given = full(operation, *SHAPE, dtype=dtype)
    beside = "gate" if "gate" in given else "residual"
    return given | {"x": laid_out(given["x"], layout), beside: laid_out(given[beside], other)}


def poisoned(layout: str, dtype: torch.dtype) -> torch.Tensor:
    """Return NaN in the layout named."""
    nan = torch.full(SHAPE, torch.nan, device=DEVICE)
    # by strides: PyTorch has not every copy for fp8
    return torch.empty_strided(SHAPE, laid_out(nan, layout).stride(), dtype=dtype, device=DEVICE).copy_(nan)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_values_may_be_written_anywhere(operation: str, layout: str, path: str) -> None:
    """Outputs may have any strides; tensors that are no outputs keep their values."""
    arguments = inputs(operation, layout, torch.float32) | {"path": path}
    want = run(operation, arguments)
    kept = {name: each.clone() for name, each in arguments.items() if isinstance(each, torch.Tensor)}
    out = poisoned(layout, FP8)
    results = run(operation, arguments | {"out": out})

    assert results[0] is out
    assert same(want, results)
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["own", "x", "residual"])
def test_the_sum_may_lie_in_an_input(place: str, layout: str, path: str) -> None:
    """The in-place form has the bits of the functional one."""
    operation, dtype = "rms_norm_fp8", torch.bfloat16 if layout == "row gap" else torch.float32
    arguments = inputs(operation, layout, dtype) | {"path": path}
    want = run(operation, arguments)
    total = poisoned(layout, dtype) if place == "own" else arguments[place]
    kept = {name: arguments[name].clone() for name in {"x", "residual", "weight"} - {place}}
    results = run(operation, arguments | {"residual_out": total})

    assert results[-1] is total
    assert same(want, results)
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@pytest.mark.parametrize("path", PATHS)
def test_x_may_be_the_residual(path: str) -> None:
    """The sum of x with itself may be written over x."""
    x = values("x", *SHAPE)
    arguments = full("rms_norm_fp8", *SHAPE, x=x, residual=x, path=path)
    want = run("rms_norm_fp8", arguments)

    assert same(want, run("rms_norm_fp8", arguments | {"residual_out": x}))


@pytest.mark.parametrize("path", PATHS)
def test_values_may_lie_between_the_bytes_of_inputs(path: str) -> None:
    """Views of one buffer that share no byte are legal, whatever their extents."""
    memory = torch.zeros(5, 96, 2, dtype=torch.float32, device=DEVICE)
    x = memory[..., 0].copy_(values("x", 5, 96))
    # a byte between the elements
    out = memory.view(FP8)[..., 4]
    arguments = call("rms_norm_fp8", 5, 96, x=x, path=path)
    want = run("rms_norm_fp8", arguments)
    results = run("rms_norm_fp8", arguments | {"out": out})

    assert same(want, results)
    assert torch.equal(values("x", 5, 96), x)
