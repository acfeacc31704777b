"""Host time of a call, launched by Triton and directly, compared with a plain launch and with allocation alone.

``python -m benchmarks.host_cost`` prints a table in microseconds. ``launch`` is ``kernel[grid](...)`` with the
arguments of the operation, and nothing else. ``outputs`` is the allocation of the results. ``triton`` and
``direct`` are whole calls with ``NORMKERNELS_LAUNCH`` set to that word: kept arguments go to ``kernel[grid]``, or
to the compiled kernel. ``share`` is the time of a direct call without its outputs, divided by ``launch``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch

import normkernels
from benchmarks.environment import environment, machine
from benchmarks.timing import Call, host_times
from normkernels import launch
from normkernels.operations.operation import reread_environment


def calls(device: str) -> dict[str, Call]:
    """Return calls of a decode step by name."""
    low, fp8_dtype = torch.bfloat16, torch.float8_e4m3fn
    ones = partial(torch.ones, device=device, dtype=low)
    rows, heads = ones(16, 5120), ones(24, 128)
    qkv, cache = ones(16, 32 * 256), ones(4096, 64)
    q, k = qkv[:, : 24 * 256].view(16, 24, 256), qkv[:, 24 * 256 : 28 * 256].view(16, 4, 256)
    rotation = (q, k, torch.zeros(3, 16, dtype=torch.int64, device=device), *cache.chunk(2, -1))
    wide, narrow, beside = ones(5120), ones(128), torch.zeros_like(rows)
    sections = (12, 10, 10)
    return {
        "rms_norm_gated 24x128": partial(normkernels.rms_norm_gated, heads, heads, narrow, eps=1e-6),
        "rms_norm 16x5120": partial(normkernels.rms_norm, rows, wide, eps=1e-6),
        "rms_norm, residual": partial(normkernels.rms_norm, rows, wide, residual=beside, eps=1e-6),
        "rms_norm in place": partial(
            normkernels.rms_norm,
            torch.zeros_like(rows),
            wide,
            residual=beside,
            eps=1e-6,
            out=ones(16, 5120),
            residual_out=beside,
        ),
        "rms_norm of q in qkv": partial(normkernels.rms_norm, q, ones(256), eps=1e-6),
        "mrope": partial(normkernels.mrope, *rotation, sections=sections),
        "mrope_": partial(normkernels.mrope_, *rotation, sections=sections),
        "rms_norm_fp8 16x5120": partial(normkernels.rms_norm_fp8, rows, wide, eps=1e-6, fp8_dtype=fp8_dtype),
        "rms_norm_gated_fp8": partial(
            normkernels.rms_norm_gated_fp8, heads, heads, narrow, eps=1e-6, fp8_dtype=fp8_dtype
        ),
    }


@contextmanager
def launching(way: str) -> Iterator[None]:
    """Set ``NORMKERNELS_LAUNCH`` to ``way`` inside the context."""
    before = os.environ.get(launch.ENVIRONMENT)
    os.environ[launch.ENVIRONMENT] = way
    reread_environment()
    try:
        yield
    finally:
        if before is None:
            del os.environ[launch.ENVIRONMENT]
        else:
            os.environ[launch.ENVIRONMENT] = before
        reread_environment()


def launches(operations: Mapping[str, Call]) -> dict[str, Call]:
    """Return the launch of each call alone, as a user of Triton writes it."""
    alone: dict[str, Call] = {}
    start = launch.launch

    def note(
        cached: launch.Launch, buffers: launch.Buffers, pointers: Sequence[int], counts: launch.Counts
    ) -> None:
        start(cached, buffers, pointers, counts)
        given = *(buffers[0] if each is None else each for each in buffers), *counts, *cached.rest
        args = dict(zip(cached.kernel.arg_names, given, strict=True))
        grid = -(-counts[0] // cached.plan.rows), cached.plan.programs
        warps = cached.plan.warps
        alone[name] = lambda: cached.kernel[grid](**args, num_warps=warps, enable_fp_fusion=False)

    launch.launch = note  # every launch goes through this function
    try:
        for name, call in operations.items():  # noqa: B007  (the name is that of the call noted)
            call()
    finally:
        launch.launch = start
    return alone


def outputs(call: Call) -> Call:
    """Return the allocation of those results of a call that are new in each call."""
    results = call()
    made = results if isinstance(results, tuple) else (results,)
    again = call()
    others = again if isinstance(again, tuple) else (again,)
    new = [one for one, other in zip(made, others, strict=True) if one.data_ptr() != other.data_ptr()]
    return lambda: [torch.empty_like(each, memory_format=torch.contiguous_format) for each in new]


def main() -> None:
    """Print the table; without a GPU nothing can be launched, and the program ends with a message."""
    if not torch.cuda.is_available():
        sys.exit(
            "benchmarks.host_cost: found no GPU, must have one: what a launch costs the host shows nowhere else"
        )
    device = "cuda"
    operations = calls(device)
    columns = {}
    with torch.no_grad():
        for way in ("triton", "direct"):
            with launching(way):
                columns[way] = host_times(operations)
        with launching("triton"):
            columns["launch"] = host_times(launches(operations))
            columns["outputs"] = host_times({name: outputs(call) for name, call in operations.items()})
    with launching("direct"):
        line = str(normkernels.explain("rms_norm", torch.ones(1, 128, device=device), None, eps=1e-6).launched)
    write = sys.stdout.write
    write(f"{machine(environment(device))}\n")
    write(f"asked for a direct launch, kernels are launched {line}\n")
    write(f"{'':24}{'launch':>9}{'outputs':>9}{'triton':>9}{'direct':>9}{'share':>8}\n")
    for name in operations:
        times = {column: timings[name].median for column, timings in columns.items()}
        share = (times["direct"] - times["outputs"]) / times["launch"]
        cells = "".join(f"{times[column]:9.2f}" for column in ("launch", "outputs", "triton", "direct"))
        write(f"{name:24}{cells}{share:8.2f}\n")


if __name__ == "__main__":
    main()
