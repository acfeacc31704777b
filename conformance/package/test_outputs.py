"""Given outputs have the bits of fresh ones in any layout and over inputs, and autograd sees them written."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.operations import assert_right, explain, run
from conformance.package.calls.tensors import DEVICE, LAYOUTS, Arguments, laid_out, strided, values
from conformance.selftest.every import every
from normkernels import plans
from normkernels.operations.operation import reread_environment

SHAPE = (5, 3, 97)
ROW_PATHS = ("rows", "native")
FP8 = torch.float8_e4m3fn
# Places of the two outputs: memory of their own, or an input each.
PLACES = [
    (out, residual_out)
    for out, residual_out in product((None, "own", "x", "residual"), repeat=2)
    if out is None or out == "own" or out != residual_out
]


def poisoned(layout: str, dtype: torch.dtype) -> torch.Tensor:
    """Return NaN in the layout named."""
    nan = torch.full(SHAPE, torch.nan, device=DEVICE)
    # by strides: PyTorch has not every copy for fp8
    return torch.empty_strided(SHAPE, laid_out(nan, layout).stride(), dtype=dtype, device=DEVICE).copy_(nan)


def inputs(plain: Arguments, layout: str) -> Arguments:
    """Return a call whose x has the layout named, and whose gate or residual has the next one."""
    other = LAYOUTS[(LAYOUTS.index(layout) + 1) % len(LAYOUTS)]
    beside = "gate" if "gate" in plain else "residual"
    return plain | {"x": laid_out(plain["x"], layout), beside: laid_out(plain[beside], other)}


def low(layout: str) -> torch.dtype:
    """Return the dtype of the tensors with a layout."""
    return torch.bfloat16 if layout == "row gap" else torch.float32


@every("path", ROW_PATHS)
@every("layout", LAYOUTS)
@every(("out", "residual_out"), PLACES)
@every("operation", rms_norm.OPERATIONS)
def test_every_place_for_outputs_gives_the_same_bits(
    operation: str, out: str | None, residual_out: str | None, layout: str, path: str
) -> None:
    """In-place forms, crossed ones too, have the functional form's bits; other tensors keep their values."""
    dtype = low(layout)
    want = run(operation, inputs(rms_norm.added(*SHAPE, dtype=dtype), layout) | {"path": path})
    arguments = inputs(rms_norm.added(*SHAPE, dtype=dtype), layout) | {"path": path}
    for name, place in (("out", out), ("residual_out", residual_out)):
        own = poisoned(layout, dtype)
        if place is not None:
            arguments[name] = own if place == "own" else arguments[place]
    kept = {name: arguments[name].clone() for name in {"x", "residual", "weight"} - {out, residual_out}}
    results = run(operation, arguments)

    assert all(map(torch.equal, want, results))
    for name, result in zip(("out", "residual_out"), results, strict=True):
        assert result is arguments[name] if name in arguments else result.is_contiguous()
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@every("path", ROW_PATHS)
@every("layout", LAYOUTS)
@every("operation", rms_norm.OPERATIONS)
def test_out_may_be_x_without_a_residual(operation: str, layout: str, path: str) -> None:
    """The plain norm runs in place."""
    arguments = rms_norm.call(*SHAPE, x=laid_out(values("x", *SHAPE), layout), path=path)
    want = run(operation, arguments)
    (result,) = run(operation, arguments | {"out": arguments["x"]})

    assert result is arguments["x"]
    assert torch.equal(want[0], result)


@every("reads", get_args(plans.Reads))
@every("operation", rms_norm.OPERATIONS)
@every("places", ["new", "over the inputs"])
def test_bits_do_not_depend_on_how_rows_are_read(
    operation: str, places: str, reads: plans.Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows read as needed, together or twice give the same sums and norms, also if written over the input."""
    arguments = rms_norm.added(40, 1100, path="rows")
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


@every("path", ROW_PATHS)
@every(
    ("operation", "output"), [("rms_norm", "out"), ("rms_norm", "residual_out"), ("rms_norm_fp8", "residual_out")]
)
def test_x_may_be_the_residual(operation: str, output: str, path: str) -> None:
    """The sum of x with itself may be written over x."""
    x = values("x", *SHAPE)
    plain = rms_norm.added(*SHAPE) if operation == "rms_norm" else fp8.full(operation, *SHAPE)
    arguments = plain | {"x": x, "residual": x, "path": path}
    want = run(operation, arguments)
    assert_right(operation, arguments, want)

    assert fp8.same(want, run(operation, arguments | {output: x}))


@every("path", ROW_PATHS)
@every("interleaved", [True, False])
def test_outputs_may_lie_between_the_elements_of_inputs(path: str, interleaved: bool) -> None:  # noqa: FBT001
    """Views of one buffer that share no element are legal, whatever their extents."""
    memory = values("memory", 5, 4 * 96)
    x, residual, out, residual_out = (
        memory.view(5, 96, 4).unbind(-1) if interleaved else memory.view(5, 4, 96).unbind(1)
    )
    arguments = rms_norm.added(
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
    arguments = rms_norm.added(1, 96, x=x)
    want = run("rms_norm", arguments)
    results = run("rms_norm", arguments | {"out": x.as_strided((1, 96), (7, 1))})

    assert all(map(torch.equal, want, results))


@every("path", ROW_PATHS)
def test_the_sum_has_the_dtype_of_x(path: str) -> None:
    """The sum has x's dtype for a residual of any dtype, also if x itself holds the sum."""
    for dtype, other in product((torch.bfloat16, torch.float16, torch.float32), repeat=2):
        given = rms_norm.added(5, 96, dtype=dtype, residual=values("residual", 5, 96, dtype=other), path=path)
        want = run("rms_norm", given)
        assert_right("rms_norm", given, want)
        assert all(map(torch.equal, want, run("rms_norm", given | {"residual_out": given["x"]})))


@every("stride", [2, 0])
def test_a_weight_may_have_any_stride(stride: int) -> None:
    """The weight may be every second element of a wider one, or one value for all columns."""
    weight = values("weight", 192).as_strided((96,), (stride,))
    for operation in rms_norm.OPERATIONS:
        arguments = rms_norm.added(weight=weight)
        assert_right(operation, arguments, run(operation, arguments))


def test_a_residual_may_be_expanded() -> None:
    """One residual row may serve all rows."""
    arguments = rms_norm.added(residual=values("residual", 1, 96).expand(3, 96))

    assert_right("rms_norm", arguments, run("rms_norm", arguments))


@every("path", ROW_PATHS)
@every("layout", LAYOUTS)
@every("operation", fp8.OPERATIONS)
def test_values_may_be_written_anywhere(operation: str, layout: str, path: str) -> None:
    """Outputs may have any strides; tensors that are no outputs keep their values."""
    arguments = inputs(fp8.full(operation, *SHAPE), layout) | {"path": path}
    want = run(operation, arguments)
    kept = {name: each.clone() for name, each in arguments.items() if isinstance(each, torch.Tensor)}
    out = poisoned(layout, FP8)
    results = run(operation, arguments | {"out": out})

    assert results[0] is out
    assert fp8.same(want, results)
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@every("path", ROW_PATHS)
@every("layout", LAYOUTS)
@every("place", ["own", "x", "residual"])
def test_the_sum_may_lie_in_an_input(place: str, layout: str, path: str) -> None:
    """The in-place form has the bits of the functional one."""
    operation, dtype = "rms_norm_fp8", low(layout)
    arguments = inputs(fp8.full(operation, *SHAPE, dtype=dtype), layout) | {"path": path}
    want = run(operation, arguments)
    total = poisoned(layout, dtype) if place == "own" else arguments[place]
    kept = {name: arguments[name].clone() for name in {"x", "residual", "weight"} - {place}}
    results = run(operation, arguments | {"residual_out": total})

    assert results[-1] is total
    assert fp8.same(want, results)
    assert all(torch.equal(was, arguments[name]) for name, was in kept.items())


@every("path", ROW_PATHS)
def test_values_may_lie_between_the_bytes_of_inputs(path: str) -> None:
    """Views of one buffer that share no byte are legal, whatever their extents."""
    memory = torch.zeros(5, 96, 2, dtype=torch.float32, device=DEVICE)
    x = memory[..., 0].copy_(values("x", 5, 96))
    # a byte between the elements
    out = memory.view(FP8)[..., 4]
    arguments = fp8.call("rms_norm_fp8", 5, 96, x=x, path=path)
    want = run("rms_norm_fp8", arguments)
    results = run("rms_norm_fp8", arguments | {"out": out})

    assert fp8.same(want, results)
    assert torch.equal(values("x", 5, 96), x)


@every("path", ROW_PATHS)
@every("name", ["x", "gate"])
def test_out_may_be_x_or_the_gate(name: str, path: str) -> None:
    """The in-place forms give the bits of the out-of-place form."""
    arguments = rms_norm_gated.call(5, 96, path=path)
    want = rms_norm_gated.run(arguments)
    result = rms_norm_gated.run(arguments | {"out": arguments[name]})

    assert result is arguments[name]
    assert torch.equal(want, result)


@every("path", ROW_PATHS)
def test_out_may_lie_between_the_elements_of_an_input(path: str) -> None:
    """Views of one buffer that share no element are legal, whatever their extents."""
    memory = values("memory", 5, 256)
    for x, out in ((memory[:, :128], memory[:, 128:]), (memory[:, ::2], memory[:, 1::2])):
        arguments = rms_norm_gated.call(5, 128, x=x.copy_(values("x", 5, 128)), path=path)
        want = rms_norm_gated.run(arguments)
        assert torch.equal(want, rms_norm_gated.run(arguments | {"out": out}))
        assert torch.equal(values("x", 5, 128), x)


def test_out_may_have_any_strides() -> None:
    """With gaps in rows or columns, or swapped dimensions, the bits are the same and nothing else is written."""
    want = rms_norm_gated.run(rms_norm_gated.call(6, 4, 96))
    swapped = values("out", 4, 96, 6).permute(2, 0, 1)
    for out in (strided(values("out", 6, 4, 96)), values("out", 6, 4, 192)[..., ::2], swapped):
        assert torch.equal(want, rms_norm_gated.run(rms_norm_gated.call(6, 4, 96, out=out)))


@every("path", ROW_PATHS)
@every("operation", rms_norm.OPERATIONS)
def test_autograd_sees_that_a_given_output_is_written(operation: str, path: str) -> None:
    """A backward that kept a tensor must not use it after a call has written to it."""
    given = rms_norm.added(*SHAPE)
    kept = given["x"].clone().requires_grad_()
    square = (given["x"] * kept).sum()  # the product keeps x
    with torch.no_grad():
        run(operation, given | {"path": path, "out": given["x"], "residual_out": given["residual"]})

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


@every("path", ("heads", "native"))
def test_autograd_sees_what_was_written_in_place(path: str) -> None:
    """A backward that needs overwritten values raises instead of using the new ones."""
    arguments = mrope.call(path=path)
    scale = values("scale", 64).requires_grad_()
    loss = (arguments["q"] * scale).sum() + (arguments["k"] * scale).sum()
    mrope.run(arguments, "mrope_")

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every("path", ROW_PATHS)
def test_tensors_of_inference_are_written(path: str) -> None:
    """Inference mode tracks no versions, so writing needs none."""
    with torch.inference_mode():
        given = rms_norm.added(*SHAPE)
        want = run("rms_norm", given | {"path": path})
        results = run("rms_norm", given | {"path": path, "out": given["x"], "residual_out": given["residual"]})

        assert all(map(torch.equal, want, results))


def test_tensors_of_inference_mode_are_rotated_in_place() -> None:
    """Tensors of inference mode have no version counter."""
    with torch.inference_mode():
        arguments = mrope.call()
        wanted = mrope.run(arguments)
        assert all(map(torch.equal, wanted, mrope.run(arguments, "mrope_")))
