"""RMSNorm and Gemma's: given outputs in any layout get the bits of fresh ones."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from conformance.package.calls.rms_norm import OPERATIONS, added, assert_right, call, explain, run
from conformance.package.calls.tensors import LAYOUTS, Arguments, laid_out, values
from normkernels import plans
from normkernels.operations.operation import reread_environment

SHAPE = (5, 3, 97)
# Places of the two outputs: memory of their own, or an input each.
PLACES = [
    (out, residual_out)
    for out, residual_out in product((None, "own", "x", "residual"), repeat=2)
    if out is None or out == "own" or out != residual_out
]


def inputs(layout: str, dtype: torch.dtype) -> Arguments:
    """Return a call whose x has the layout named, and whose residual has the next one."""
    other = LAYOUTS[(LAYOUTS.index(layout) + 1) % len(LAYOUTS)]
    given = added(*SHAPE, dtype=dtype)
    return given | {"x": laid_out(given["x"], layout), "residual": laid_out(given["residual"], other)}


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("out", "residual_out"), PLACES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_place_for_outputs_gives_the_same_bits(
    operation: str, out: str | None, residual_out: str | None, layout: str, path: str
) -> None:
    """In-place forms, crossed ones too, have the functional form's bits; other tensors keep their values."""
    dtype = torch.bfloat16 if layout == "row gap" else torch.float32
    want = run(operation, inputs(layout, dtype) | {"path": path})
    arguments = inputs(layout, dtype) | {"path": path}
    for name, place in (("out", out), ("residual_out", residual_out)):
        own = laid_out(torch.full(SHAPE, torch.nan, dtype=dtype, device=want[0].device), layout)
        if place is not None:
            arguments[name] = own if place == "own" else arguments[place]
    kept = {name: arguments[name].clone() for name in {"x", "residual", "weight"} - {out, residual_out}}
    results = run(operation, arguments)

    assert all(map(torch.equal, want, results))
    for name, result in zip(("out", "residual_out"), results, strict=True):
        assert result is arguments[name] if name in arguments else result.is_contiguous()
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_out_may_be_x_without_a_residual(operation: str, layout: str, path: str) -> None:
    """The plain norm runs in place."""
    arguments = call(*SHAPE, x=laid_out(values("x", *SHAPE), layout), path=path)
    want = run(operation, arguments)
    (result,) = run(operation, arguments | {"out": arguments["x"]})

    assert result is arguments["x"]
    assert torch.equal(want[0], result)


@pytest.mark.parametrize("reads", get_args(plans.Reads))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("places", ["new", "over the inputs"])
def test_bits_do_not_depend_on_how_rows_are_read(
    operation: str, places: str, reads: plans.Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows read as needed, together or twice give the same sums and norms, also if written over the input."""
    arguments = added(40, 1100, path="rows")
    wanted = run(operation, arguments | {"path": "native"})
    tiles = {plans.MAX_WIDTH: (plans.Tile(warps=4, reads=reads),)}
    monkeypatch.setattr(plans, "TILES", {**plans.TILES, "residual": tiles})
    # a cached call would be launched with the earlier plan
    reread_environment()
    plan = explain(operation, arguments).plan
    assert plan is not None
    assert reads == plan.reads

    over = {name: arguments[name].clone() for name in ("x", "residual")}
    given = over | {"out": over["x"], "residual_out": over["residual"]} if places == "over the inputs" else {}
    got = run(operation, arguments | given)
    assert_right(operation, arguments | {n: given[n] for n in given if "out" in n}, got)
    assert torch.equal(wanted[1], got[1])
    monkeypatch.setattr(plans, "TILES", {**plans.TILES, "residual": {plans.MAX_WIDTH: (plans.Tile(warps=8),)}})
    reread_environment()
    assert all(map(torch.equal, run(operation, arguments), got))


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("output", ["out", "residual_out"])
def test_x_may_be_the_residual(output: str, path: str) -> None:
    """The sum of x with itself may be written over x."""
    x = values("x", *SHAPE)
    arguments = added(*SHAPE, x=x, residual=x, path=path)
    want = run("rms_norm", arguments)
    assert_right("rms_norm", arguments, want)

    assert all(map(torch.equal, want, run("rms_norm", arguments | {output: x})))


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_outputs_may_lie_between_the_elements_of_inputs(path: str, interleaved: bool) -> None:  # noqa: FBT001
    """Views of one buffer that share no element are legal, whatever their extents."""
    memory = values("memory", 5, 4 * 96)
    x, residual, out, residual_out = (
        memory.view(5, 96, 4).unbind(-1) if interleaved else memory.view(5, 4, 96).unbind(1)
    )
    arguments = added(
        5, 96, x=x.copy_(values("x", 5, 96)), residual=residual.copy_(values("residual", 5, 96)), path=path
    )
    want = run("rms_norm", arguments)
    results = run("rms_norm", arguments | {"out": out, "residual_out": residual_out})

    assert all(map(torch.equal, want, results))
    assert torch.equal(values("x", 5, 96), x)
    assert torch.equal(values("residual", 5, 96), residual)


def test_an_output_may_be_another_view_of_an_input_that_is_the_same() -> None:
    """Strides of a size of one do not matter: both views have the same elements."""
    x = values("x", 1, 96)
    arguments = added(1, 96, x=x)
    want = run("rms_norm", arguments)
    results = run("rms_norm", arguments | {"out": x.as_strided((1, 96), (7, 1))})

    assert all(map(torch.equal, want, results))


@pytest.mark.parametrize("path", ["rows", "native"])
def test_the_sum_has_the_dtype_of_x(path: str) -> None:
    """The sum has x's dtype for a residual of any dtype, also if x itself holds the sum."""
    for dtype, other in product((torch.bfloat16, torch.float16, torch.float32), repeat=2):
        given = added(5, 96, dtype=dtype, residual=values("residual", 5, 96, dtype=other), path=path)
        want = run("rms_norm", given)
        assert_right("rms_norm", given, want)
        assert all(map(torch.equal, want, run("rms_norm", given | {"residual_out": given["x"]})))


@pytest.mark.parametrize("stride", [2, 0])
def test_a_weight_may_have_any_stride(stride: int) -> None:
    """The weight may be every second element of a wider one, or one value for all columns."""
    weight = values("weight", 192).as_strided((96,), (stride,))
    for operation in OPERATIONS:
        arguments = added(weight=weight)
        assert_right(operation, arguments, run(operation, arguments))


def test_a_residual_may_be_expanded() -> None:
    """One residual row may serve all rows."""
    arguments = added(residual=values("residual", 1, 96).expand(3, 96))

    assert_right("rms_norm", arguments, run("rms_norm", arguments))


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_autograd_sees_that_a_given_output_is_written(operation: str, path: str) -> None:
    """A backward that kept a tensor must not use it after a call has written to it."""
    given = added(*SHAPE)
    kept = given["x"].clone().requires_grad_()
    square = (given["x"] * kept).sum()  # the product keeps x
    with torch.no_grad():
        run(operation, given | {"path": path, "out": given["x"], "residual_out": given["residual"]})

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


@pytest.mark.parametrize("path", ["rows", "native"])
def test_tensors_of_inference_are_written(path: str) -> None:
    """Inference mode tracks no versions, so writing needs none."""
    with torch.inference_mode():
        given = added(*SHAPE)
        want = run("rms_norm", given | {"path": path})
        results = run("rms_norm", given | {"path": path, "out": given["x"], "residual_out": given["residual"]})

        assert all(map(torch.equal, want, results))
