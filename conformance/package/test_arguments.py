"""Descriptions of calls for plans and kernels: kinds of plans, blocks, and the width of accesses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from conformance.package.calls.operations import call
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values
from conformance.selftest.every import every
from normkernels import InvalidCall, plans
from normkernels.call import Call, Device, Heads, Quantised
from normkernels.operations.operation import OPERATIONS
from normkernels.operations.rows import access, tile_arguments
from normkernels.plans import MEASURED

H200 = Device("cuda", has_triton=True, interpreting=False, table=MEASURED)
LOW = torch.bfloat16


def described(operation: str, changes: Arguments, rows: int | None = 8192) -> Call:
    """Return the description of a call, as if it had so many rows."""
    known = OPERATIONS[operation]
    bound = known.signature.bind(**call(operation, **changes))
    bound.apply_defaults()
    found = known.describe(bound.arguments, known.resolve(bound.arguments))
    return found if rows is None else dataclasses.replace(found, rows=rows)


def norm(columns: int, *beside: str) -> Arguments:
    """Return tensors of a norm of 16 bits, with those ``beside`` x that are named."""
    made = {name: values(name, 3, columns, dtype=LOW) for name in ("x", *beside)}
    return made | {"weight": values("weight", columns, dtype=LOW)}


# Calls, and the plans that they have: the kind, its columns, and the columns with every block padded.
KINDS: dict[str, tuple[str, Arguments, tuple[str, int, int]]] = {
    "norm": ("rms_norm", norm(5120), ("norm", 5120, 5120)),
    "residual": ("rms_norm", norm(5120, "residual"), ("residual", 5120, 5120)),
    "gated": ("rms_norm_gated", norm(5120, "gate"), ("gated", 5120, 5120)),
    "gated, of strided rows of 128": (
        "rms_norm_gated",
        norm(128, "gate") | {"x": strided(values("x", 3, 128, dtype=LOW))},
        ("gated", 128, 128),
    ),
    "fp8": ("rms_norm_fp8", norm(1536) | {"quant_group": 128}, ("fp8", 1536, 2048)),
    "fp8, of padded blocks": ("rms_norm_fp8", norm(1536) | {"quant_group": 96}, ("fp8", 1536, 2048)),
    "fp8 residual": ("rms_norm_fp8", norm(5120, "residual") | {"quant_group": 128}, ("fp8 residual", 5120, 8192)),
    "gated fp8": ("rms_norm_gated_fp8", norm(128, "gate") | {"quant_group": 128}, ("gated fp8", 128, 128)),
}


@every("name", KINDS)
def test_a_call_has_a_plan_of_its_kind(name: str) -> None:
    """Tiles differ by what is added, gated and quantised."""
    operation, changes, (kind, columns, room) = KINDS[name]
    plan, _ = OPERATIONS[operation].plan(described(operation, changes), H200)

    assert plans.general(kind, 8192, columns, MEASURED, room) == plan


def rotated(half: int) -> Arguments:
    """Return the caches and sections of a rotation of twice as many columns."""
    return {each: values(each, 51, half) for each in ("cos", "sin")} | {"sections": (half, 0, 0)}


@every("operation", ["mrope", "mrope_"])
def test_a_rotation_is_described_by_its_heads(operation: str) -> None:
    """It adds, gates and quantises nothing; in place, or where all columns are rotated, it copies none."""
    rotation, most, full = (described(operation, rotated(half)) for half in (16, 24, 32))
    copied = operation == "mrope"
    plan, _ = OPERATIONS[operation].plan(rotation, H200)

    assert (64, 64, 2) == (rotation.n, rotation.width, rotation.leading)
    assert (False, None, None) == (rotation.residual, rotation.gated, rotation.quantised)
    assert Heads(6, 2, 16, copied=copied) == rotation.heads
    assert Heads(6, 2, 24, copied=copied) == most.heads
    assert Heads(6, 2, 32, copied=False) == full.heads
    assert plans.heads(8192, 6, 2, 64, 16, MEASURED, copied=copied) == plan


def test_positions_without_values_are_not_read() -> None:
    """Those of fake tensors, and those under a transform, which may be of many calls."""
    operation, rest = OPERATIONS["mrope"], (None, None)
    cos = torch.ones(3, 16)
    with FakeTensorMode() as mode:
        operation.check_values((*rest, mode.from_tensor(torch.tensor([9])), cos, cos))

    def look(positions: torch.Tensor) -> torch.Tensor:
        operation.check_values((*rest, positions, cos, cos))
        return positions

    torch.vmap(look)(torch.tensor([[9], [8]]))
    with pytest.raises(InvalidCall, match="positions has 9"):
        look(torch.tensor([9]))


def test_tokens_count_where_any_head_is_there() -> None:
    """Heads of q or k alone are rotated, without any nothing is launched. Positions may have any strides."""
    none, some = torch.ones(5, 0, 64, device=DEVICE), torch.ones(5, 2, 64, device=DEVICE)
    positions = torch.zeros(3, 10, dtype=torch.int64, device=DEVICE)[:, ::2]
    for q, k, tokens in ((some, none, 5), (none, some, 5), (some, some, 5), (none, none, 0)):
        assert (tokens, 10, 2) == OPERATIONS["mrope"].counts((q, k, positions), {})


def test_wide_inputs_of_fp8_norms_have_no_limit_of_registers() -> None:
    """A limit is for inputs of 16 bits: with an fp32 weight, or x, rows of 1,536 columns would spill."""
    changes = norm(1536) | {"quant_group": 128}
    for weight, limit in ((changes["weight"], 48), (changes["weight"].float(), None)):
        plan, _ = OPERATIONS["rms_norm_fp8"].plan(described("rms_norm_fp8", changes | {"weight": weight}), H200)
        assert limit == plan.registers


def test_rows_of_a_quantised_norm_are_its_spans() -> None:
    """Three rows of two spans and a half each, which need a size of their own; groups that cross have no span."""
    whole, crossing = (
        described("rms_norm_gated_fp8", norm(320, "gate") | {"group_size": 64, "quant_group": group}, rows=None)
        for group in (128, 96)
    )

    assert (320, 128, 9, 2) == (whole.n, whole.width, whole.rows, whole.leading)
    assert Quantised("float8_e4m3fn", None, 128, wide=False) == whole.quantised
    assert Quantised("float8_e4m3fn", "96 over 64", 0, wide=False) == crossing.quantised


def arguments_of(operation: str, changes: Arguments) -> tuple[Any, Mapping[str, Any]]:
    """Return the kernel of a call, and its arguments."""
    known = OPERATIONS[operation]
    bound = known.signature.bind(**call(operation, **changes))
    bound.apply_defaults()
    given, flags = bound.arguments, known.resolve(bound.arguments)
    plan, _ = known.plan(known.describe(given, flags), H200)
    return known.arguments(flags, known.buffers([given[name] for name in known.tensors], flags), plan)


@every(
    ("group", "x", "wanted"),
    [
        (32, values("x", 3, 96), "aligned"),
        (96, values("x", 3, 96), "aligned"),
        (24, values("x", 3, 96), "unit"),
        (24, values("x", 3, 192)[:, ::2], "strided"),
        (24, values("x", 3, 97)[:, :96], "unit"),
    ],
)
def test_blocks_of_a_quantised_norm_begin_where_accesses_do(group: int, x: torch.Tensor, wanted: str) -> None:
    """A block of 24 values that are no multiple of 16 bytes as fp8 is read as rows that begin anywhere."""
    _, args = arguments_of("rms_norm_fp8", {"x": x, "weight": values("weight", 96), "quant_group": group})

    assert wanted == args["ACCESS"]


def test_gated_rows_have_the_kernel_of_their_plan() -> None:
    """Contiguous rows of 128 have a kernel, and so have groups, which one group is not."""
    pytest.importorskip("triton")
    from normkernels.kernels import (
        rms_norm_gated as kernels,  # here, because the tests are collected without triton
    )

    narrow, _ = arguments_of("rms_norm_gated", norm(128, "gate"))
    alone, plain = arguments_of("rms_norm_gated", norm(256, "gate"))
    together, grouped = arguments_of("rms_norm_gated", norm(256, "gate") | {"group_size": 128})

    assert kernels.rms_norm_gated_128_kernel is narrow
    assert kernels.rms_norm_gated_kernel is alone is together
    assert [(1, False), (2, True)] == [(each["n_groups"], each["GROUPED"]) for each in (plain, grouped)]


@every(("before", "wanted"), [(True, torch.float32), (False, LOW)])
def test_a_gate_before_the_norm_widens_what_is_rounded(wanted: torch.dtype, *, before: bool) -> None:
    """The product of x and an fp32 gate is fp32; a gate after the norm changes nothing before the weight."""
    pytest.importorskip("triton")
    from normkernels.kernels.row_norm import DTYPES  # here, because the tests are collected without triton

    wide = {"gate": values("gate", 3, 256), "rounding": "hf", "norm_before_gate": not before}
    _, args = arguments_of("rms_norm_gated", norm(256) | wide)

    assert (DTYPES[wanted], DTYPES[wanted]) == (args["NORMALISED"], args["WEIGHTED"])


# Tensors with the elements from one row to the next, and how wide accesses to them may be.
FLAT = torch.zeros(64)
ACCESSES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, str]] = {
    "rows of 16 bytes": ((3, 4), (4, 1), 0, "aligned"),
    "rows of 12 bytes": ((3, 3), (3, 1), 0, "unit"),
    "one element on": ((3, 4), (4, 1), 1, "unit"),
    "columns apart": ((3, 4), (16, 2), 0, "strided"),
    "columns of one row apart": ((1, 4), (16, 2), 0, "strided"),
    "columns over and over": ((3, 4), (16, 0), 0, "strided"),
    "single columns of any stride": ((3, 1), (16, 2), 0, "aligned"),
}


@every("name", ACCESSES)
def test_accesses_are_as_wide_as_rows_allow(name: str) -> None:
    """Sixteen bytes where every row begins at a multiple of them; the stride of a single column is not used."""
    sizes, strides, first, wanted = ACCESSES[name]
    rows = FLAT.as_strided(sizes, strides, first)

    assert wanted == access([(rows, (strides[0],))])
    assert wanted == access([(FLAT.view(4, 16), (16,)), (rows, (strides[0],))])


def test_sizes_that_are_not_there_are_ones() -> None:
    """Their strides are zero, and so is that of a weight that is not given; x stands in for other tensors."""
    x = values("x", 3, 4, 16)[:, :2]
    args = tile_arguments({"x": x, "residual": None}, {"weight": None}, 16)

    assert (1, 2, 2, 0) == tuple(args[name] for name in ("size_1", "size_2", "LEADING", "weight_stride"))
    for name in ("x", "residual"):
        assert [0, 64, 16, 1] == [
            args[f"{name}_{axis}"] for axis in ("stride_0", "stride_1", "stride_2", "col_stride")
        ]


# Plans of 24 and 4 heads of 96 columns, of which 64 are rotated, and arguments of the kernel.
BLOCKS: dict[str, tuple[int, dict[str, int]]] = {
    "decode": (1, {"TOKENS": 1, "HEADS": 8, "Q_BLOCKS": 1, "K_BLOCKS": 1, "AHEAD": 4}),
    "prefill": (512, {"TOKENS": 1, "HEADS": 8, "Q_BLOCKS": 3, "K_BLOCKS": 1, "AHEAD": 4}),
    "pairs of tokens": (2048, {"TOKENS": 2, "HEADS": 4, "Q_BLOCKS": 6, "K_BLOCKS": 1, "AHEAD": 4}),
}
WIDTHS = {"HALF": 32, "REST": 32, "HALF_BLOCK": 32, "REST_BLOCK": 32, "AXES": 3, "max_positions": 51}


@every("name", BLOCKS)
def test_blocks_hold_all_heads(name: str) -> None:
    """And no more: programs share the heads of a token, or have all of them, some at a time."""
    pytest.importorskip("triton")
    tokens, wanted = BLOCKS[name]
    q, k = (values(each, 5, heads, 96) for each, heads in (("q", 24), ("k", 4)))
    tables = [values(each, 51, 32) for each in ("cos", "sin")]
    positions = torch.zeros(3, 5, dtype=torch.int64, device=DEVICE)
    plan = plans.heads(tokens, 24, 4, 96, 32, MEASURED, copied=False)
    flags = {"sections": (12, 10, 10), "head_dim": 96, "interleaved": True}
    _, args = OPERATIONS["mrope_"].arguments(flags, (q, k, positions, *tables, q, k), plan)

    assert wanted | WIDTHS == {each: args[each] for each in (*wanted, *WIDTHS)}
