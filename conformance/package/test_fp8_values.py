"""The norms with fp8 values: every form is right on both paths, with bits that depend on nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import normkernels
from conformance.package.calls.fp8 import (
    FLOOR,
    FORMS,
    MAX,
    OPERATIONS,
    assert_right,
    call,
    full,
    numbers,
    run,
    same,
)
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PATHS = ["rows", "native"]


@pytest.mark.parametrize(("path", "fp8_dtype"), FORMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_form_is_right(operation: str, dtype: torch.dtype, fp8_dtype: torch.dtype, path: str) -> None:
    """Each layout of scales and each rounding is right, with and without y, on strided 3-D tensors."""
    shape = (4, 3, 97)
    for make, layout, rounding in product((call, full), ("row", "column"), ("fp32", "hf")):
        arguments = make(
            operation,
            *shape,
            dtype=dtype,
            x=strided(values("x", *shape, dtype=dtype)),
            weight=values("weight", 97),
            scale_layout=layout,
            rounding=rounding,
            fp8_dtype=fp8_dtype,
            path=path,
        )
        assert_right(operation, arguments, run(operation, arguments))


# Columns of a row, of a norm group and of a quant group; Triton runs all but the last.
GROUPS = [
    (256, 256, 128),
    (256, 256, None),
    (97, 97, 10),
    (5, 5, 1),
    (1, 1, 128),
    (7, 7, 100),
    (384, 128, 128),
    (384, 128, 32),
    (288, 96, 24),
    (384, 64, 128),
    (288, 24, 96),
    (320, 64, 128),
    (384, 128, None),
    (288, 96, 64),
]


@pytest.mark.parametrize("path", [None, "native"])
@pytest.mark.parametrize(("n", "width", "group"), GROUPS)
def test_groups_of_any_size(n: int, width: int, group: int | None, path: str | None) -> None:
    """Norm groups and quant groups of a row are independent; the last quant group may be shorter."""
    shape = (2, 5, n)
    for layout in ("row", "column"):
        changes = {"quant_group": group, "path": path, "scale_layout": layout}
        gated = full("rms_norm_gated_fp8", *shape, dtype=torch.bfloat16, group_size=width) | changes
        assert_right("rms_norm_gated_fp8", gated, run("rms_norm_gated_fp8", gated))
    plain = full("rms_norm_fp8", *shape, dtype=torch.bfloat16) | changes
    assert_right("rms_norm_fp8", plain, run("rms_norm_fp8", plain))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(96,), (1, 96), (3, 96), (3, 1, 96), (2, 3, 96), (2, 3, 2, 96)], ids=str)
def test_column_scales_index_as_row_scales(shape: tuple[int, ...], path: str) -> None:
    """At any rank the same index gives the same scale, and the scales of rows are adjacent in memory."""
    for operation in OPERATIONS:
        arguments = call(operation, *shape, path=path)
        want = run(operation, arguments)
        got = run(operation, arguments | {"scale_layout": "column"})

        assert same(want, got)
        assert_right(operation, arguments | {"scale_layout": "column"}, got)
        # the view of a column layout's consumer: two dimensions, the rows with stride 1
        rows = got[1].flatten(0, -2) if got[1].dim() > 1 else got[1][None]
        assert rows.mT.is_contiguous()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
@pytest.mark.parametrize("order", ["none", "before", "after"])
def test_every_gate_is_right(order: str, activation: str, path: str) -> None:
    """The gate is right before the norm, after it, and absent."""
    arguments = full(
        "rms_norm_gated_fp8",
        dtype=torch.float16,
        norm_before_gate=order == "after",
        activation=activation,
        path=path,
    )
    arguments |= {"gate": None} if order == "none" else {}
    arguments |= {"group_size": 48, "quant_group": 96}

    assert_right("rms_norm_gated_fp8", arguments, run("rms_norm_gated_fp8", arguments))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("offset", [0.0, 1.0, -0.1])
def test_weights_offsets_and_residuals(offset: float, path: str) -> None:
    """Results are right with any weight or none, with an offset, and with residuals of every dtype."""
    for dtype, weight, residual in product(DTYPES, (True, False), (None, *DTYPES)):
        arguments = full("rms_norm_fp8", dtype=dtype, weight_offset=offset, path=path)
        if not weight:
            arguments["weight"] = None
        if residual is None:
            del arguments["residual"]
        else:
            arguments["residual"] = values("residual", 3, 96, dtype=residual)
        assert_right("rms_norm_fp8", arguments, run("rms_norm_fp8", arguments))


@pytest.mark.parametrize("group", [None, 64, 32])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_norm_has_the_bits_of_the_plain_operation(operation: str, group: int | None) -> None:
    """Quantising changes no bit of y if its groups are powers of two or a whole row."""
    arguments = full(operation, 5, 200, dtype=torch.bfloat16, quant_group=group, path="rows")
    others = {"quant_group", "fp8_dtype", "also_unquantised"}
    plain = {name: each for name, each in arguments.items() if name not in others}
    want = getattr(normkernels, operation.removesuffix("_fp8"))(**plain)

    assert same(want if isinstance(want, tuple) else (want,), run(operation, arguments)[2:])


@pytest.mark.parametrize(("path", "fp8_dtype"), FORMS, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_group_of_zeros_has_the_least_scale(operation: str, path: str, fp8_dtype: torch.dtype) -> None:
    """Nothing is divided by zero: zeros stay zero, and values far below the floor become zero."""
    arguments = call(operation, 4, 160, path=path, fp8_dtype=fp8_dtype)
    arguments["x"][1:, 64:] = 0.0
    arguments["x"][2] = 0.0
    arguments["weight"][64:128] = 1e-20
    got, scales = run(operation, arguments)
    floor = float(np.float32(FLOOR) / np.float32(MAX[fp8_dtype]))

    assert (scales[:, 1] == floor).all()
    assert (scales[1:, 2] == floor).all()
    assert (scales[2] == floor).all()
    assert (got[:, 64:128].float() == 0).all()
    assert (got[1:, 64:].float() == 0).all()
    assert_right(operation, arguments, (got, scales))


@pytest.mark.parametrize(("path", "fp8_dtype"), FORMS, ids=str)
def test_the_largest_of_a_group_is_the_largest_of_the_type(path: str, fp8_dtype: torch.dtype) -> None:
    """With weights of 4,096 sizes no value exceeds it, even if y / scale is a step above it, and none is NaN."""
    weight = torch.linspace(1, 2, 4096, device=DEVICE) * 1e3
    arguments = call(
        "rms_norm_fp8", 1, 4096, x=torch.ones(1, 4096, device=DEVICE), weight=weight, eps=0.0, quant_group=1
    )
    got, scales = run("rms_norm_fp8", arguments | {"fp8_dtype": fp8_dtype, "path": path})
    above = numbers(weight[None]) > numbers(scales) * MAX[fp8_dtype]

    assert 100 < above.sum()
    assert (numbers(got) == MAX[fp8_dtype]).all()


@pytest.mark.parametrize(("path", "fp8_dtype"), FORMS, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_not_finite_stays_in_its_group(operation: str, path: str, fp8_dtype: torch.dtype) -> None:
    """NaN makes its group NaN; an infinity makes its scale infinite, itself NaN and the rest of its group zero."""
    arguments = call(operation, 2, 160, path=path, fp8_dtype=fp8_dtype)
    arguments["weight"][7] = torch.nan
    arguments["weight"][70] = torch.inf
    got, scales = run(operation, arguments)

    assert scales[:, 0].isnan().all()
    assert got[:, :64].float().isnan().all()
    assert scales[:, 1].isposinf().all()
    assert torch.equal(got[:, 64:128].float().isnan(), (torch.arange(64, 128, device=DEVICE) == 70).expand(2, 64))
    assert (got[:, 64:128].float().nan_to_num(0.0) == 0).all()
    assert got[:, 128:].float().isfinite().all()
    assert_right(operation, arguments, (got, scales))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_with_nan_or_infinity_is_nan_alone(operation: str, path: str) -> None:
    """Other rows keep their bits. In the row of an infinity the norm is zero or NaN, by groups."""
    arguments = call(operation, 3, 160, path=path)
    want = run(operation, arguments)
    arguments["x"][1, 3] = torch.nan
    got, scales = run(operation, arguments)

    assert same([each[::2] for each in want], [each[::2] for each in (got, scales)])
    assert got[1].float().isnan().all()
    assert scales[1].isnan().all()
    arguments["x"][1, 3] = torch.inf
    got, scales = run(operation, arguments)
    assert same([each[::2] for each in want], [each[::2] for each in (got, scales)])
    assert got[1, :64].float().isnan().all()
    assert (got[1, 64:].float() == 0).all()
    assert_right(operation, arguments, (got, scales))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_padding_is_in_no_group(operation: str, path: str) -> None:
    """If 1 / rms is infinite, padding past the end of a row would be 0 * inf."""
    x = torch.full((2, 97), 1e-30, device=DEVICE)
    arguments = call(operation, 2, 97, x=x, eps=0.0, path=path) | {"weight": values("weight", 97).abs() + 0.1}
    if operation == "rms_norm_gated_fp8":
        arguments["gate"] = values("gate", 2, 97).abs() + 0.1
    _, scales = run(operation, arguments)

    assert scales.isposinf().all()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("width", [1, 3, 128, 769])
def test_bits_do_not_depend_on_the_batch(operation: str, width: int) -> None:
    """A row has the same bits alone, in a batch, and in any layout."""
    batch = full(operation, 40, width, dtype=torch.bfloat16)
    rows = {name for name in ("x", "gate", "residual") if name in batch}
    want = [result[17:18] for result in run(operation, batch)]
    alone = {name: batch[name][17:18] for name in rows}

    assert same(want, run(operation, batch | alone))
    assert same(want, run(operation, batch | {name: strided(each) for name, each in alone.items()}))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_float64_is_quantised_in_float64(operation: str) -> None:
    """The native path quantises float64 in float64, with fp32 scales."""
    arguments = full(operation, dtype=torch.float64)
    results = run(operation, arguments)
    plain: Arguments = {
        name: arguments[name] for name in ("x", "gate", "residual", "weight", "eps") if name in arguments
    }
    want = getattr(normkernels, operation.removesuffix("_fp8"))(**plain)

    assert same(want if isinstance(want, tuple) else (want,), results[2:])
    assert_right(operation, arguments, results)
