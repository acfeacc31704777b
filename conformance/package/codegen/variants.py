"""The calls whose kernels are compiled: every kernel in every plan, and the dtypes that need code of their own.

Each call is a case, made as the suite's own are, so that the compiled code is that of such a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conformance.cases.case import Case, Flag, Layout, TensorSpec
from conformance.package.codegen.targets import E4M3FN, E4M3FNUZ, Target

BF16, FP16, FP32 = "bfloat16", "float16", "float32"
PLAIN, GAP, STEP, SWAPPED = Layout(), Layout("row_gap", 1), Layout("step", 2), Layout("swapped")
EPS = 1e-6
CACHE = 4096  # rows of cos and sin
OWN = "own"  # the fp8 type that the target is to use


@dataclass(frozen=True, slots=True)
class Variant:
    """A call, perhaps in place; ``everywhere``: compiled for every target, not for one of each vendor alone.

    ``case`` names its fp8 type, or has ``OWN`` there.
    """

    case: Case
    in_place: bool = False
    everywhere: bool = False


def gated(
    shape: tuple[int, ...],
    *,
    gate: str = "after",
    dtypes: tuple[str, str, str] = (BF16, BF16, BF16),
    layouts: tuple[Layout, Layout] = (PLAIN, PLAIN),
    **flags: Flag,
) -> Case:
    """Return a gated norm of x, a gate and a weight of these dtypes; gate ``after``, ``before`` or ``none``."""
    tensors = [
        ("x", TensorSpec(shape, dtypes[0], layouts[0])),
        ("gate", TensorSpec(shape, dtypes[1], layouts[1])),
        ("weight", TensorSpec(shape[-1:], dtypes[2])),
    ]
    plain: dict[str, Flag] = {
        "eps": EPS,
        "group_size": None,
        "norm_before_gate": gate != "before",
        "activation": "silu",
    }
    given = tuple(tensor for tensor in tensors if gate != "none" or tensor[0] != "gate")
    return Case("rms_norm_gated", given, tuple({**plain, **flags}.items()))


def norm(
    shape: tuple[int, ...],
    *,
    dtypes: tuple[str, str | None, str | None] = (BF16, BF16, BF16),
    layouts: tuple[Layout, Layout] = (PLAIN, PLAIN),
    **flags: Flag,
) -> Case:
    """Return a norm of x, a residual and a weight of these dtypes; None leaves one out."""
    given = [("x", dtypes[0], layouts[0]), ("residual", dtypes[1], layouts[1]), ("weight", dtypes[2], PLAIN)]
    tensors = [
        (name, TensorSpec(shape[-1:] if name == "weight" else shape, dtype, layout))
        for name, dtype, layout in given
        if dtype is not None
    ]
    return Case("rms_norm", tuple(tensors), tuple({"eps": EPS, "weight_offset": 0.0, **flags}.items()))


def quantised(case: Case, **flags: Flag) -> Case:
    """Return the norm of ``case`` with fp8 values."""
    plain: dict[str, Flag] = {
        "quant_group": 128,
        "scale_layout": "row",
        "fp8_dtype": OWN,
        "also_unquantised": False,
    }
    return Case(f"{case.operation}_fp8", case.tensors, tuple({**dict(case.flags), **plain, **flags}.items()))


def rotation(
    tokens: int,
    *,
    heads: tuple[int, int] = (24, 4),
    head_dim: int = 256,
    half: int = 32,
    dtypes: tuple[str, str, str, str] = (BF16, BF16, "int64", BF16),
    axes: int = 3,
    interleaved: bool = True,
    layout: Layout | None = None,
) -> Case:
    """Return a rotation of q and k; by default Qwen3.5's, whose q and k are slices of one buffer."""
    width = (heads[0] + 2 * heads[1]) * head_dim
    starts = (0, heads[0] * head_dim)
    q, k = (
        TensorSpec((tokens, count, head_dim), dtype, layout or Layout("slice", start, width))
        for count, start, dtype in zip(heads, starts, dtypes, strict=False)
    )
    positions = TensorSpec((axes, tokens) if axes > 1 else (tokens,), dtypes[2])
    cos, sin = (TensorSpec((CACHE, half), dtypes[3], Layout("shared", part)) for part in (0, 1))
    sections = (half - 2 * (half // 3), half // 3, half // 3)
    tensors = (("q", q), ("k", k), ("positions", positions), ("cos", cos), ("sin", sin))
    return Case("mrope", tensors, (("head_dim", None), ("interleaved", interleaved), ("sections", sections)))


# One representative dtype, bf16; fp32 for the widest rows, because it fills the most registers.
PLANS: Mapping[str, Variant] = {
    name: Variant(case, in_place=name.endswith("in place"), everywhere=True)
    for name, case in {
        "decode128": gated((24, 128)),
        "decode128 of two rows": gated((2048, 128)),
        "prefill128": gated((65536, 128)),
        "many rows": gated((4096, 256)),
        "wide": gated((24, 5120)),
        "widest": gated((24, 32768), dtypes=(FP32, FP32, FP32)),
        "two sizes": gated((8, 3, 128), layouts=(SWAPPED, GAP)),
        "columns apart": gated((24, 128), layouts=(STEP, PLAIN)),
        "norm": norm((24, 5120)),
        "norm alone": norm((24, 5120), dtypes=(BF16, None, BF16)),
        "norm gemma": norm((24, 3072), weight_offset=1.0),
        "norm of many rows": norm((4096, 256)),
        "norm widest": norm((24, 32768), dtypes=(FP32, FP32, FP32)),
        "norm of two sizes": norm((8, 3, 128), layouts=(SWAPPED, GAP)),
        "norm of columns apart": norm((24, 128), layouts=(STEP, PLAIN)),
        "mrope": rotation(24),
        "mrope in place": rotation(24),
        "mrope prefill": rotation(8192, heads=(6, 1)),
        "mrope prefill in place": rotation(8192, heads=(6, 1)),
        "mrope whole heads": rotation(24, heads=(28, 4), head_dim=128, half=64, interleaved=False),
        "mrope widest": rotation(24, heads=(4, 4), head_dim=1024, half=512, dtypes=(FP32, FP32, "int64", FP32)),
        "mrope of gaps": rotation(24, layout=GAP),
        "fp8": quantised(norm((24, 5120), weight_offset=1.0)),
        "fp8 and unquantised": quantised(norm((4096, 256)), also_unquantised=True, scale_layout="column"),
        "fp8 in e4m3fn": quantised(norm((1024, 1536), dtypes=(BF16, None, BF16)), fp8_dtype=E4M3FN),
        "fp8 in e4m3fnuz": quantised(norm((24, 1024)), fp8_dtype=E4M3FNUZ),
        "fp8 widest": quantised(norm((24, 32768), dtypes=(FP32, FP32, FP32))),
        "fp8 of columns apart": quantised(norm((24, 128), layouts=(STEP, PLAIN)), quant_group=64),
        "gated fp8": quantised(gated((24, 128))),
        "gated fp8 of many rows": quantised(gated((65536, 128)), also_unquantised=True),
        "gated fp8, norm groups inside": quantised(gated((24, 4096), gate="none", group_size=64)),
        "gated fp8 of columns apart": quantised(gated((24, 128), layouts=(STEP, PLAIN))),
    }.items()
}
# Flags, dtypes and layouts that change what is compiled, for one target of each vendor.
OTHERS: Mapping[str, Variant] = {
    name: Variant(case, in_place=name.endswith("in place"))
    for name, case in {
        "decode128 hf": gated((24, 128), activation="sigmoid", rounding="hf", dtypes=(BF16, FP16, FP32)),
        "one column": gated((24, 1), dtypes=(FP32, FP32, FP32)),
        "groups": gated(
            (24, 4096),
            gate="before",
            group_size=64,
            activation="sigmoid",
            rounding="hf",
            dtypes=(BF16, FP16, BF16),
        ),
        "wide of many rows": gated((4096, 5120)),
        "odd": gated((24, 769), gate="none", rounding="hf", dtypes=(FP16, BF16, FP32)),
        "three sizes": gated((8, 3, 5, 96), gate="before", layouts=(SWAPPED, GAP)),
        "norm of many wide rows": norm((4096, 5120)),
        "norm alone of many wide rows": norm((4096, 5120), dtypes=(BF16, None, BF16)),
        "norm odd": norm((24, 127)),
        "norm odd of many rows": norm((131072, 127)),
        "norm without a weight": norm((24, 256), dtypes=(BF16, None, None)),
        "norm hf": norm((24, 1536), dtypes=(FP16, BF16, FP32), rounding="hf"),
        "norm hf without a weight": norm((24, 128), dtypes=(BF16, FP32, None), rounding="hf"),
        "norm offset alone": norm((24, 769), dtypes=(FP16, None, None), weight_offset=0.5),
        "norm of one column": norm((24, 1), dtypes=(FP32, FP32, FP32), weight_offset=1.0),
        "norm of three sizes": norm(
            (8, 3, 5, 97), dtypes=(BF16, FP32, FP32), layouts=(SWAPPED, GAP), weight_offset=1.0
        ),
        # these tensors are never written, so they take no memory
        "norm of rows of 64 bits": norm((2**16, 2**15, 1), dtypes=(FP16, None, None), layouts=(SWAPPED, PLAIN)),
        "norm of two dtypes": norm((24, 128), dtypes=(FP16, BF16, FP16)),
        "mrope of a token a program in place": rotation(1024),
        "mrope of many heads": rotation(8192, heads=(96, 8)),
        "mrope of fp32 angles": rotation(24, dtypes=(BF16, BF16, "int64", FP32)),
        "mrope of fp32 angles in place": rotation(24, dtypes=(BF16, BF16, "int64", FP32)),
        "mrope few heads": rotation(8192, heads=(3, 1), dtypes=(FP16, BF16, "int32", FP16)),
        "mrope of text": rotation(24, axes=1, dtypes=(FP32, FP32, "int32", FP32)),
        "mrope odd": rotation(24, heads=(3, 1), head_dim=97, half=13),
        "mrope of nothing": rotation(24, half=0),
        "mrope of columns apart": rotation(24, layout=STEP),
        "fp8 of many wide rows": quantised(norm((4096, 5120))),
        "fp8 of whole rows": quantised(norm((24, 3072)), quant_group=None),
        "fp8 of two dtypes": quantised(norm((24, 128), dtypes=(FP16, BF16, FP16))),
        "fp8 hf": quantised(norm((24, 128), rounding="hf")),
        "fp8 odd": quantised(norm((24, 769), dtypes=(FP16, FP16, FP32)), quant_group=100, also_unquantised=True),
        "fp8 of one column": quantised(norm((24, 8), dtypes=(FP32, FP32, FP32)), quant_group=1),
        "gated fp8, norm groups outside": quantised(
            gated((24, 4096), gate="before", group_size=256), scale_layout="column"
        ),
        "gated fp8, the last span shorter": quantised(
            gated((8, 5, 480), group_size=96, layouts=(GAP, GAP)), quant_group=192
        ),
        "gated fp8 of columns apart, norm groups inside": quantised(
            gated((24, 18), gate="none", dtypes=(FP32, FP32, FP32), layouts=(STEP, PLAIN), group_size=9),
            quant_group=None,
        ),
        "gated fp8 of columns apart, norm groups outside": quantised(
            gated((24, 64), layouts=(STEP, STEP), group_size=64), quant_group=16
        ),
        "gated fp8 of wide rows with columns apart": quantised(
            gated((24, 4096), layouts=(STEP, PLAIN), group_size=64), quant_group=1024
        ),
        "fp8 of columns apart in small groups": quantised(norm((24, 128), layouts=(STEP, STEP)), quant_group=16),
    }.items()
}
VARIANTS: Mapping[str, Variant] = {**PLANS, **OTHERS}
# The targets of OTHERS: GPUs on which the suite has run, or will run.
VENDORS = ("sm_90", "gfx942")
# Compiled once more with FP fusion, which no launch allows: what is fused there must be noticed.
FUSED = ("decode128", "norm of two sizes", "mrope")


def compiled_for(target: Target) -> tuple[tuple[str, bool], ...]:
    """Return the variants that are compiled for a target, each with FP fusion or without."""
    here = (name for name, variant in VARIANTS.items() if variant.everywhere or target.name in VENDORS)
    return (*((name, False) for name in here), *((name, True) for name in FUSED))
