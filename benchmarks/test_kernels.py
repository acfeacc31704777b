"""The kernels of our own peers compile for a GPU that is not present.

A process that interprets cannot compile, so this file is also a script: it prints one line of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TARGET = ("cuda", 90, 32)


@functools.cache
def compiled() -> dict[str, str]:
    """Compile every kernel in a separate process; return PTX by the name of the launch."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    code: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return code


LAUNCHES = (
    *("original row", "original tile", "original gemma", "original mrope", "original mrope by section"),
    *("multi-row 1", "multi-row 4", "multi-row of groups", "multi-row first", "empty"),
    *("copy", "triad", "quad"),
)
WIDE = re.compile(r"(ld|st)\.global\.(?:v4\.b32|v2\.b64|b128)")  # 16 bytes
NARROW = re.compile(r"(ld|st)\.global\.(?!v4\.b32|v2\.b64|b128)")


@pytest.mark.parametrize("name", LAUNCHES)
def test_every_kernel_compiles(name: str) -> None:
    """The launcher's arguments compile into code."""
    assert ".entry" in compiled()[name]


@pytest.mark.parametrize(("name", "reads", "writes"), [("copy", 1, 1), ("triad", 2, 1), ("quad", 2, 2)])
def test_a_ceiling_moves_sixteen_bytes_at_a_time(name: str, reads: int, writes: int) -> None:
    """A thread has two whole 16-byte accesses for each tensor: with less it would be no ceiling."""
    code = compiled()[name]

    assert {"ld": 2 * reads, "st": 2 * writes} == Counter(WIDE.findall(code))
    assert [] == NARROW.findall(code)


def _tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _launch(name: str) -> None:
    """Launch a kernel by its name, over tensors without memory."""
    from benchmarks.kernels import empty, streams
    from conformance.adapters.kernels import multi_row, original

    positions = _tensor(3, 8, dtype=torch.int64)
    rows, row, few = _tensor(4096, 128), _tensor(128), _tensor(24, 128)
    between, heads = _tensor(512, 5120), _tensor(64, 4096)
    quarter, whole = _tensor(64, 32), _tensor(64, 64)
    gate = functools.partial(multi_row.gated, eps=1e-6, group_size=128, silu=True, units=132)
    launches: dict[str, Callable[[], object]] = {
        "original row": lambda: original.gated(rows, rows, row, eps=1e-6, prefill_rows=4097),
        "original tile": lambda: original.gated(rows, rows, row, eps=1e-6, prefill_rows=4096),
        "original gemma": lambda: original.gemma(between, between, _tensor(5120), eps=1e-6),
        "original mrope": lambda: original.mrope(
            _tensor(8, 24 * 256),
            _tensor(8, 4 * 256),
            positions,
            quarter,
            quarter,
            sections=(11, 11, 10),
            head_dim=256,
            interleaved=True,
        ),
        "original mrope by section": lambda: original.mrope(
            _tensor(8, 64 * 128),
            _tensor(8, 8 * 128),
            positions,
            whole,
            whole,
            sections=(16, 24, 24),
            head_dim=128,
            interleaved=False,
        ),
        "multi-row 1": lambda: gate(few, few, row, norm_before_gate=True),
        "multi-row 4": lambda: gate(rows, rows, row, norm_before_gate=True),
        "multi-row of groups": lambda: gate(heads, heads, _tensor(4096), norm_before_gate=True),
        "multi-row first": lambda: gate(rows, rows, row, norm_before_gate=False),
        "empty": empty.empty,
        "copy": lambda: streams.streams((rows,), (rows,)),
        "triad": lambda: streams.streams((rows, rows), (rows,)),
        "quad": lambda: streams.streams((rows, rows), (rows, rows)),
    }
    launches[name]()


def main() -> None:
    """Compile every launch, and print what became of each."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    from benchmarks.kernels import empty, streams
    from conformance.adapters.kernels import multi_row, original

    backend = make_backend(GPUTarget(*TARGET))
    launched: list[tuple[ASTSource, dict[str, Any]]] = []

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        """Do the work of Triton's own ``run`` before it compiles."""
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, special, options = bind(*args, **kwargs)
        options, signature, constants, attributes = kernel._pack_args(backend, kwargs, bound, special, options)
        launched.append((ASTSource(kernel, signature, constants, attributes), options.__dict__))

    kernels = (
        *(original.gated_row_kernel, original.gated_tile_kernel, original.gemma_kernel, original.mrope_kernel),
        *(multi_row.gated_kernel, empty.empty_kernel, streams.streams_kernel),
    )
    for kernel in kernels:
        kernel.run = functools.partial(note, kernel)
    code = {}
    for name in LAUNCHES:
        launched.clear()
        _launch(name)
        ((source, options),) = launched
        code[name] = triton.compile(source, target=GPUTarget(*TARGET), options=options).asm["ptx"]
    print(json.dumps(code))  # noqa: T201


if __name__ == "__main__":
    main()
