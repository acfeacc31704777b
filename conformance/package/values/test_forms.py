"""Every form of every operation is right on both paths: flags, dtypes, groups and optional tensors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch

from conformance.package.calls import fp8, mrope, rms_norm
from conformance.package.calls.mrope import positions
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import LAYOUTS, Arguments, laid_out, strided, values
from conformance.selftest.every import every

ROW_PATHS = ("rows", "native")
HEAD_PATHS = ("heads", "native")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@every("path", ROW_PATHS)
@every("dtype", DTYPES)
@every("operation", rms_norm.OPERATIONS)
def test_every_form_of_a_norm_is_right(operation: str, dtype: torch.dtype, path: str) -> None:
    """Results are right with each residual, weight and rounding, on strided 3-D tensors."""
    shape = (4, 3, 97)
    weights = [values("weight", 97, dtype=kind) for kind in {dtype, torch.float32}]
    residuals = [values("residual", 4, 97, 3, dtype=kind).mT for kind in DTYPES]
    for weight in [*weights, *([None] if operation == "rms_norm" else [])]:
        for residual in [None, *residuals]:
            for rounding in ("fp32", "hf"):
                x = strided(values("x", *shape, dtype=dtype))
                changes = {"weight": weight, "residual": residual, "rounding": rounding, "path": path}
                arguments = rms_norm.call(*shape, x=x) | changes
                rms_norm.assert_right(operation, arguments, run(operation, arguments))


@every("path", ROW_PATHS)
@every("layout", LAYOUTS)
@every("operation", rms_norm.OPERATIONS)
def test_a_norm_alone_is_right_in_any_layout(operation: str, layout: str, path: str) -> None:
    """Without a residual, whose sum is contiguous, results are contiguous as well."""
    arguments = rms_norm.call(5, 3, 97, x=laid_out(values("x", 5, 3, 97), layout), path=path)

    rms_norm.assert_right(operation, arguments, run(operation, arguments))


@every("path", ROW_PATHS)
@every("offset", [0.0, 0, -0.0, 1.0, 0.1, -3])
def test_an_offset_is_added_to_the_weight(offset: float, path: str) -> None:
    """Any offset is added in fp32, also to narrow weights, and to ones if there is no weight."""
    weight = values("weight", 96, dtype=torch.bfloat16)
    for given in (weight, 16 * weight, None):
        arguments = rms_norm.call(
            3, 96, dtype=torch.bfloat16, weight=given, weight_offset=offset, path=path, rounding="hf"
        )
        rms_norm.assert_right("rms_norm", arguments, run("rms_norm", arguments))


@every("path", ROW_PATHS)
def test_gemma_is_an_offset_of_one(path: str) -> None:
    """An offset of one has Gemma's bits in both roundings: Hugging Face's Gemma rounds once."""
    arguments = rms_norm.added(5, 96, dtype=torch.bfloat16, path=path)
    for rounding in ("fp32", "hf"):
        want = run("rms_norm", arguments | {"weight_offset": 1.0, "rounding": rounding})
        got = run("gemma_rms_norm", arguments | {"rounding": rounding})
        assert all(map(torch.equal, want, got))
    assert all(map(torch.equal, got, run("gemma_rms_norm", arguments)))


@every(("path", "fp8_dtype"), fp8.FORMS)
@every("dtype", DTYPES)
@every("operation", fp8.OPERATIONS)
def test_every_form_with_fp8_values_is_right(
    operation: str, dtype: torch.dtype, fp8_dtype: torch.dtype, path: str
) -> None:
    """Each layout of scales and each rounding is right, with and without y, on strided 3-D tensors."""
    shape = (4, 3, 97)
    for make, layout, rounding in product((fp8.call, fp8.full), ("row", "column"), ("fp32", "hf")):
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
        fp8.assert_right(operation, arguments, run(operation, arguments))


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


@every("path", [None, "native"])
@every(("n", "width", "group"), GROUPS)
def test_groups_of_any_size(n: int, width: int, group: int | None, path: str | None) -> None:
    """Norm groups and quant groups of a row are independent; the last quant group may be shorter."""
    shape = (2, 5, n)
    for layout in ("row", "column"):
        changes = {"quant_group": group, "path": path, "scale_layout": layout}
        gated = fp8.full("rms_norm_gated_fp8", *shape, dtype=torch.bfloat16, group_size=width) | changes
        fp8.assert_right("rms_norm_gated_fp8", gated, run("rms_norm_gated_fp8", gated))
    plain = fp8.full("rms_norm_fp8", *shape, dtype=torch.bfloat16) | changes
    fp8.assert_right("rms_norm_fp8", plain, run("rms_norm_fp8", plain))


@every("path", ROW_PATHS)
@every("shape", [(96,), (1, 96), (3, 96), (3, 1, 96), (2, 3, 96), (2, 3, 2, 96)])
def test_column_scales_index_as_row_scales(shape: tuple[int, ...], path: str) -> None:
    """At any rank the same index gives the same scale, and the scales of rows are adjacent in memory."""
    for operation in fp8.OPERATIONS:
        arguments = fp8.call(operation, *shape, path=path)
        want = run(operation, arguments)
        got = run(operation, arguments | {"scale_layout": "column"})

        assert fp8.same(want, got)
        fp8.assert_right(operation, arguments | {"scale_layout": "column"}, got)
        # the view of a column layout's consumer: two dimensions, the rows with stride 1
        rows = got[1].flatten(0, -2) if got[1].dim() > 1 else got[1][None]
        assert rows.mT.is_contiguous()


@every("path", ROW_PATHS)
@every("activation", ["silu", "sigmoid"])
@every("order", ["none", "before", "after"])
def test_every_gate_is_right(order: str, activation: str, path: str) -> None:
    """The gate is right before the norm, after it, and absent."""
    arguments = fp8.full(
        "rms_norm_gated_fp8",
        dtype=torch.float16,
        norm_before_gate=order == "after",
        activation=activation,
        path=path,
    )
    arguments |= {"gate": None} if order == "none" else {}
    arguments |= {"group_size": 48, "quant_group": 96}

    fp8.assert_right("rms_norm_gated_fp8", arguments, run("rms_norm_gated_fp8", arguments))


@every("path", ROW_PATHS)
@every("offset", [0.0, 1.0, -0.1])
def test_weights_offsets_and_residuals(offset: float, path: str) -> None:
    """Results are right with any weight or none, with an offset, and with residuals of every dtype."""
    for dtype, weight, residual in product(DTYPES, (True, False), (None, *DTYPES)):
        arguments = fp8.full("rms_norm_fp8", dtype=dtype, weight_offset=offset, path=path)
        if not weight:
            arguments["weight"] = None
        if residual is None:
            del arguments["residual"]
        else:
            arguments["residual"] = values("residual", 3, 96, dtype=residual)
        fp8.assert_right("rms_norm_fp8", arguments, run("rms_norm_fp8", arguments))


# Conditions of the change this project starts from: positions on three axes, interleaved, heads of 256
# columns with 64 of them rotated, three dimensions. Each is changed alone, from the call that had them all.
CONDITIONS: dict[str, Callable[[torch.dtype], Arguments]] = {
    "all that was asked": lambda dtype: mrope.call(5, (6, 2), 256, 32, dtype),
    "one axis": lambda dtype: mrope.call(5, (6, 2), 256, 32, dtype, positions=positions(5)[2]),
    "not interleaved": lambda dtype: mrope.call(5, (6, 2), 256, 32, dtype, interleaved=False),
    "another head": lambda dtype: mrope.call(5, (6, 2), 128, 32, dtype),
    "other rotated columns": lambda dtype: mrope.call(5, (6, 2), 256, 64, dtype),
    "two dimensions": lambda dtype: mrope.flat(mrope.call(5, (6, 2), 256, 32, dtype)),
}


@every("dtype", DTYPES)
@every("path", HEAD_PATHS)
@every("condition", CONDITIONS)
def test_an_original_condition_is_right(condition: str, path: str, dtype: torch.dtype) -> None:
    """Each condition runs on the kernel by default, and is right there and on its former fallback."""
    arguments = CONDITIONS[condition](dtype)

    assert "heads" == mrope.explain(arguments).path
    mrope.assert_right(arguments, mrope.run(arguments | {"path": path}))


@every("path", HEAD_PATHS)
@every("dtypes", list(product(DTYPES, repeat=2)))
def test_every_dtype_of_a_rotation(dtypes: tuple[torch.dtype, torch.dtype], path: str) -> None:
    """Tensors q and k each have their own dtype; cos and sin each have q's dtype or fp32."""
    dtype, other = dtypes
    for cos, sin in product({dtype, torch.float32}, repeat=2):
        arguments = mrope.call(dtype=dtype, k=values("k", 5, 2, 64, dtype=other), path=path)
        arguments |= {"cos": arguments["cos"].to(cos), "sin": arguments["sin"].to(sin)}
        mrope.assert_right(arguments, mrope.run(arguments))


@every("path", HEAD_PATHS)
@every("interleaved", [True, False])
@every("sections", [(16, 0, 0), (0, 16, 0), (0, 0, 16), (4, 9, 3), (1, 1, 14), (6, 5, 5)])
def test_any_three_sections(sections: tuple[int, int, int], interleaved: bool, path: str) -> None:  # noqa: FBT001
    """A section may be zero, or longer than interleaving has frequencies for; a list works like a tuple."""
    arguments = mrope.call(sections=sections, interleaved=interleaved, path=path)
    results = mrope.run(arguments | {"sections": list(sections)})

    mrope.assert_right(arguments, results)
