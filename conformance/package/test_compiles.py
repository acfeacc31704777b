"""Every kernel compiles, for GPUs that are not there, from what its launcher really passes.

What only a compiler refuses the interpreter runs. A process that interprets cannot compile, so this
file is also a script: given a target, it prints one line of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

LOW, HALF, FULL = torch.bfloat16, torch.float16, torch.float32
TARGETS = {"sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
# The fp8 type that each has instructions for.
FP8 = {"sm_90": torch.float8_e4m3fn, "gfx942": torch.float8_e4m3fnuz}


class Gated(NamedTuple):
    """One launch of a gated norm: by default the hot one."""

    shape: tuple[int, ...]
    width: int = 128
    gated: str = "after"
    activation: str = "silu"
    rounding: str = "fp32"
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] = (LOW, LOW, LOW)
    layout: str = "contiguous"
    narrow: bool = False


class Norm(NamedTuple):
    """One launch of a norm: by default between two layers of a model."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, torch.dtype | None, torch.dtype | None] = (LOW, LOW, LOW)
    offset: float = 0.0
    rounding: str = "fp32"
    layout: str = "contiguous"


class Rotation(NamedTuple):
    """One launch of a rotation: by default Qwen3.5's, whose q and k are views of one buffer."""

    tokens: int = 24
    heads: tuple[int, int] = (24, 4)
    head_dim: int = 256
    half: int = 32
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype] = (LOW, LOW, torch.int64, FULL)
    axes: int = 3
    interleaved: bool = True
    in_place: bool = False
    layout: str = "contiguous"


class Fp8(NamedTuple):
    """One launch of a norm with fp8 values, gated where it has norm groups: by default between two layers."""

    shape: tuple[int, ...]
    group: int = 128
    width: int | None = None
    gated: str = "after"
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] = (LOW, LOW, LOW)
    unquantised: bool = False
    scales: str = "row"
    fp8_dtype: torch.dtype | None = None  # the GPU's own
    layout: str = "contiguous"


VARIANTS: dict[str, Gated | Norm | Fp8 | Rotation] = {
    "decode128": Gated((24, 128), narrow=True),
    "decode128 hf": Gated((24, 128), activation="sigmoid", rounding="hf", dtypes=(LOW, HALF, FULL), narrow=True),
    "prefill128": Gated((65536, 128), narrow=True),
    "one column": Gated((24, 1), 1, dtypes=(FULL, FULL, FULL)),
    "groups": Gated((24, 4096), 64, "before", "sigmoid", "hf", (LOW, HALF, LOW)),
    "odd": Gated((24, 769), 769, "none", rounding="hf", dtypes=(HALF, LOW, FULL)),
    "two sizes": Gated((8, 3, 128), layout="gap"),
    "three sizes": Gated((8, 3, 5, 96), 96, "before", layout="gap"),
    "columns apart": Gated((24, 128), layout="step"),
    "many rows": Gated((4096, 256), 256),
    "wide": Gated((24, 5120), 5120),
    "widest": Gated((24, 32768), 32768, dtypes=(FULL, FULL, FULL)),
    "norm": Norm((24, 5120)),
    "norm alone": Norm((24, 5120), (LOW, None, LOW)),
    "norm without a weight": Norm((24, 256), (LOW, None, None)),
    "norm hf": Norm((24, 1536), (HALF, LOW, FULL), rounding="hf"),
    "norm hf without a weight": Norm((24, 128), (LOW, FULL, None), rounding="hf"),
    "norm gemma": Norm((24, 3072), (LOW, LOW, LOW), 1.0),
    "norm offset alone": Norm((24, 769), (HALF, None, None), 0.5),
    "norm of one column": Norm((24, 1), (FULL, FULL, FULL), 1.0),
    "norm of two sizes": Norm((8, 3, 128), layout="gap"),
    "norm of three sizes": Norm((8, 3, 5, 97), (LOW, FULL, FULL), 1.0, layout="gap"),
    "norm of columns apart": Norm((24, 128), layout="step"),
    "norm of many rows": Norm((4096, 256)),
    "norm of two dtypes": Norm((24, 128), (HALF, LOW, HALF)),
    "norm widest": Norm((24, 32768), (FULL, FULL, FULL)),
    "mrope": Rotation(),
    "mrope in place": Rotation(in_place=True),
    "mrope prefill": Rotation(8192),
    "mrope prefill in place": Rotation(8192, in_place=True, dtypes=(LOW, LOW, torch.int64, LOW)),
    "mrope whole heads": Rotation(24, (28, 4), 128, 64, interleaved=False),
    "mrope few heads": Rotation(8192, (3, 1), dtypes=(HALF, LOW, torch.int32, HALF)),
    "mrope of text": Rotation(axes=1, dtypes=(FULL, FULL, torch.int32, FULL)),
    "mrope odd": Rotation(24, (3, 1), 97, 13),
    "mrope widest": Rotation(24, (4, 4), 1024, 512, (FULL, FULL, torch.int64, FULL)),
    "mrope of nothing": Rotation(half=0),
    "mrope of columns apart": Rotation(layout="step"),
    "mrope of gaps": Rotation(layout="gap"),
    "fp8": Fp8((24, 5120)),
    "fp8 and unquantised": Fp8((4096, 256), unquantised=True, scales="column"),
    "fp8 in e4m3fn": Fp8((24, 1024), fp8_dtype=torch.float8_e4m3fn),
    "fp8 of whole rows": Fp8((24, 3072), 3072),
    "fp8 of two dtypes": Fp8((24, 128), dtypes=(HALF, LOW, HALF)),
    "fp8 odd": Fp8((24, 769), 100, dtypes=(HALF, HALF, FULL), unquantised=True),
    "fp8 of one column": Fp8((24, 8), 1, dtypes=(FULL, FULL, FULL)),
    "fp8 of columns apart": Fp8((24, 128), 64, layout="step"),
    "fp8 widest": Fp8((24, 32768), dtypes=(FULL, FULL, FULL)),
    "gated fp8": Fp8((24, 128), width=128),
    "gated fp8 of many rows": Fp8((65536, 128), width=128, unquantised=True),
    "gated fp8, norm groups outside": Fp8((24, 4096), width=256, gated="before", scales="column"),
    "gated fp8, norm groups inside": Fp8((24, 4096), width=64, gated="none"),
    "gated fp8, the last span shorter": Fp8((8, 5, 480), width=96, group=192, layout="gap"),
}


@functools.cache
def compiled(target: str) -> dict[str, dict[str, Any]]:
    """Compile each variant in a process of its own and return what came out."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, __file__, target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return facts


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kernel_compiles(name: str, target: str) -> None:
    """Each kernel, plan, rounding, gate order, layout and number of leading sizes becomes code."""
    assert compiled(target)[name]["bytes"] > 0


@pytest.mark.parametrize("plan", ["decode128", "prefill128"])
def test_the_128_plans_stream_without_barriers(plan: str) -> None:
    """Rows of 128 move 16 bytes a thread and never leave their warp."""
    code = compiled("sm_90")[plan]

    assert {"shared": 0, "barriers": 0, "narrow": 0} == {k: code[k] for k in ("shared", "barriers", "narrow")}


@pytest.mark.parametrize(
    "name", ["mrope", "mrope in place", "mrope prefill", "mrope prefill in place", "mrope whole heads"]
)
def test_rotations_stream_without_barriers(name: str) -> None:
    """All but the three positions of a token moves 16 bytes a thread, and no thread waits for another."""
    code = compiled("sm_90")[name]

    assert {"shared": 0, "barriers": 0, "narrow": 3} == {k: code[k] for k in ("shared", "barriers", "narrow")}


@pytest.mark.parametrize("name", ["wide", "widest", "norm", "norm gemma", "norm widest"])
def test_the_warps_of_a_row_wait_for_each_other_once(name: str) -> None:
    """A row in one program is summed with one exchange among its warps, not with one at every level."""
    assert 1 == compiled("sm_90")[name]["barriers"]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_sum_is_contracted(name: str) -> None:
    """No compiler may fuse a multiplication with an addition: that would tie a row's bits to its layout.

    Quotients are fused where we say so: they are no sums.
    """
    code = compiled("sm_90")[name]

    assert (0, isinstance(VARIANTS[name], Fp8)) == (code["fusible"], code["fused"] > 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_batch_size_compiles_nothing(name: str) -> None:
    """Triton sees the same kernel in batches of 1, 15, 16 and 17."""
    assert 1 == compiled("sm_90")[name]["kernels for four batches"]


@pytest.mark.parametrize(
    "name", ["many rows", "wide", "widest", "groups", "norm", "norm gemma", "norm of many rows"]
)
def test_aligned_rows_move_16_bytes_a_thread(name: str) -> None:
    """Rows that begin at multiples of 16 bytes are loaded and stored 16 bytes at once, whatever their width."""
    assert 0 == compiled("sm_90")[name]["narrow"]


@pytest.mark.parametrize(
    "name",
    [
        "fp8",
        "fp8 and unquantised",
        "fp8 of whole rows",
        "gated fp8",
        "gated fp8 of many rows",
        "gated fp8, norm groups inside",
        "gated fp8, norm groups outside",
    ],
)
def test_aligned_rows_move_8_bytes_of_fp8_a_thread(name: str) -> None:
    """As many values as a thread loads 16 bytes for: only the scales are stored one by one."""
    code = compiled("sm_90")[name]

    assert (1, 1) == (code["narrow"] - code["pairs"], min(code["pairs"], 1))


@pytest.mark.parametrize("name", ["norm of two dtypes", "fp8 of two dtypes"])
def test_a_sum_of_two_dtypes_is_added_in_float32(name: str) -> None:
    """LLVM does not make an fp16 addition of an fp16 x and a bf16 residual, which fp16 cannot hold."""
    assert 0 == compiled("sm_90")[name]["half additions"]


@pytest.mark.parametrize("name", ["fp8", "fp8 odd", "fp8 widest", "gated fp8, norm groups inside"])
def test_scales_are_divided_exactly(name: str) -> None:
    """Rounded to nearest, as the native form's are: only the mean's division, of which nobody knows, is not."""
    code = compiled("sm_90")[name]

    assert (1, True) == (code["approximate divisions"], code["exact divisions"] >= 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_place_in_memory_compiles_nothing(name: str) -> None:
    """Triton sees the same kernel for other gaps between rows and other starts that are not aligned."""
    assert compiled("sm_90")[name]["kernels for three gaps"] <= 2


def tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> torch.Tensor:
    """Return a tensor without memory, in the layout named."""
    if layout.startswith("gap"):
        gap = int(layout.removeprefix("gap") or 1)
        wider = torch.empty([size + gap for size in shape], dtype=dtype, device="meta")
        return wider[tuple(slice(size) for size in shape)]
    if layout == "step":
        return torch.empty((*shape[:-1], 2 * shape[-1]), dtype=dtype, device="meta")[..., ::2]
    return torch.empty(shape, dtype=dtype, device="meta")


def launch(variant: Gated | Norm | Fp8 | Rotation, fp8_dtype: torch.dtype, batch: int | None = None) -> None:
    """Launch ``variant``, or it with another first size, as its plan has it."""
    if isinstance(variant, Rotation):
        launch_rotation(variant, batch or variant.tokens)
    elif isinstance(variant, Gated):
        launch_gated(variant, batch or variant.shape[0])
    elif isinstance(variant, Norm):
        launch_norm(variant, batch or variant.shape[0])
    else:
        launch_fp8(variant, batch or variant.shape[0], variant.fp8_dtype or fp8_dtype)


def launch_gated(variant: Gated, batch: int) -> None:
    """Launch a gated norm."""
    from normkernels.kernels import plans
    from normkernels.kernels.rms_norm_gated import rms_norm_gated_fwd

    shape = (batch, *variant.shape[1:])
    x, gate = (tensor(shape, dtype, variant.layout) for dtype in variant.dtypes[:2])
    rows = torch.Size(variant.shape).numel() // variant.width
    rms_norm_gated_fwd(
        x,
        None if variant.gated == "none" else gate,
        torch.empty(shape[-1], dtype=variant.dtypes[2], device="meta"),
        torch.empty(shape, dtype=x.dtype, device="meta"),
        eps=1e-6,
        width=variant.width,
        gated=variant.gated,
        activation=variant.activation,
        rounding=variant.rounding,
        plan=plans.gated_128(rows, plans.MEASURED)
        if variant.narrow
        else plans.general(rows, variant.width, plans.MEASURED),
    )


def launch_norm(variant: Norm, batch: int) -> None:
    """Launch a norm; its outputs have the layout of its inputs."""
    from normkernels.kernels import plans
    from normkernels.kernels.rms_norm import rms_norm_fwd

    shape = (batch, *variant.shape[1:])
    dtype, residual, weight = variant.dtypes
    x, out, total = (tensor(shape, dtype, variant.layout) for _ in range(3))
    rms_norm_fwd(
        x,
        None if residual is None else tensor(shape, residual, variant.layout),
        None if weight is None else torch.empty(shape[-1], dtype=weight, device="meta"),
        out,
        None if residual is None else total,
        eps=1e-6,
        offset=variant.offset,
        rounding=variant.rounding,
        plan=plans.general(torch.Size(variant.shape[:-1]).numel(), shape[-1], plans.MEASURED),
    )


def launch_rotation(variant: Rotation, tokens: int) -> None:
    """Launch a rotation; in place, or into new tensors."""
    from normkernels.kernels import plans
    from normkernels.kernels.mrope import mrope_fwd

    head_dim, half = variant.head_dim, variant.half
    q, k = (
        tensor((tokens, heads, head_dim), dtype, variant.layout)
        for heads, dtype in zip(variant.heads, variant.dtypes[:2], strict=True)
    )
    cache = tensor((4096, 2 * half), variant.dtypes[3], "contiguous")
    mrope_fwd(
        q,
        k,
        tensor((3, tokens) if variant.axes == 3 else (tokens,), variant.dtypes[2], "contiguous"),
        cache[:, :half],
        cache[:, half:],
        *(
            (q, k)
            if variant.in_place
            else (torch.empty(each.shape, dtype=each.dtype, device="meta") for each in (q, k))
        ),
        sections=(half - 2 * (half // 3), half // 3, half // 3),
        head_dim=head_dim,
        interleaved=variant.interleaved,
        plan=plans.heads(variant.tokens, *variant.heads, head_dim, half, plans.MEASURED),
    )


def launch_fp8(variant: Fp8, batch: int, fp8_dtype: torch.dtype) -> None:
    """Launch a norm with fp8 values; its outputs have the layout of its inputs."""
    from normkernels import fp8
    from normkernels.kernels import plans
    from normkernels.kernels.rms_norm_fp8 import rms_norm_fp8_fwd
    from normkernels.kernels.rms_norm_gated_fp8 import rms_norm_gated_fp8_fwd

    shape = (batch, *variant.shape[1:])
    how = fp8.Quantisation(fp8_dtype, variant.group, variant.scales)
    cut = plans.Cut(variant.width or shape[-1], variant.group)
    spans = torch.Size(variant.shape[:-1]).numel() * -(-shape[-1] // cut.span)
    plan = plans.general(spans, 2**cut.levels, plans.MEASURED)
    x, beside, out, y, total = (
        tensor(shape, dtype, variant.layout)
        for dtype in (*variant.dtypes[:2], fp8_dtype, variant.dtypes[0], variant.dtypes[0])
    )
    weight = torch.empty(shape[-1], dtype=variant.dtypes[2], device="meta")
    results = (out, fp8.empty_scales(x, how), y if variant.unquantised else None)
    flags: dict[str, Any] = {"eps": 1e-6, "rounding": "fp32", "how": how, "plan": plan}
    if variant.width is None:
        rms_norm_fp8_fwd(x, beside, weight, *results, total, offset=1.0, **flags)
    else:
        flags |= {"width": variant.width, "gated": variant.gated, "activation": "silu"}
        rms_norm_gated_fp8_fwd(x, None if variant.gated == "none" else beside, weight, *results, **flags)


def main(target: str) -> None:
    """Compile every variant for ``target`` and print the facts that the tests look at."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    from normkernels.kernels import mrope, rms_norm, rms_norm_fp8, rms_norm_gated, rms_norm_gated_fp8

    backend = make_backend(GPUTarget(*TARGETS[target]))
    launched: list[tuple[str, ASTSource, dict[str, Any]]] = []

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        """Do what Triton's own ``run`` does before it compiles."""
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, special, options = bind(*args, **kwargs)
        options, signature, constants, attributes = kernel._pack_args(backend, kwargs, bound, special, options)
        source = ASTSource(kernel, signature, constants, attributes)
        launched.append((str(special), source, options.__dict__))

    for kernel in (
        rms_norm.rms_norm_kernel,
        rms_norm_gated.rms_norm_gated_kernel,
        rms_norm_gated.rms_norm_gated_128_kernel,
        mrope.mrope_kernel,
        rms_norm_fp8.rms_norm_fp8_kernel,
        rms_norm_gated_fp8.rms_norm_gated_fp8_kernel,
    ):
        kernel.run = functools.partial(note, kernel)

    facts = {}
    for name, variant in VARIANTS.items():
        launched.clear()
        launch(variant, FP8[target])
        for batch in (1, 15, 16, 17):
            launch(variant, FP8[target], batch)
        batches = {special for special, _, _ in launched[1:]}
        _, source, options = launched[0]
        launched.clear()
        for gap in ("gap1", "gap3", "gap16"):
            if not isinstance(variant, Gated) or not variant.narrow:
                launch(variant._replace(layout=gap), FP8[target], 24)
        gaps = {special for special, _, _ in launched}
        code = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
        ptx = code.asm.get("ptx", "")
        facts[name] = {
            "bytes": len(ptx or code.asm["amdgcn"]),
            "shared": code.metadata.shared,
            "barriers": len(re.findall(r"\bbar\.", ptx)),
            "narrow": len(re.findall(r"\b(?:ld|st)\.global(?!\S*v4\.b32)", ptx)),
            "pairs": len(re.findall(r"\bst\.global\.v2\.b32", ptx)),
            "exact divisions": len(re.findall(r"\bdiv\.rn\.f32", ptx)),
            "approximate divisions": len(re.findall(r"\bdiv\.(?!rn)\w+\.f32", ptx)),
            # without .rn the assembler may join them
            "fusible": len(re.findall(r"\b(?:add|sub|mul)\.(?:ftz\.)?f32", ptx)),
            "fused": len(re.findall(r"\bfma\.", ptx)),
            "half additions": len(re.findall(r"\badd\S*\.f16", ptx)),
            "kernels for four batches": len(batches),
            "kernels for three gaps": len(gaps),
        }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
