"""The GPUs that code is compiled for, and the limits of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024

E4M3FN, E4M3FNUZ = "float8_e4m3fn", "float8_e4m3fnuz"


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU for Triton: ``backend``, ``arch`` and ``warp_size`` (threads) are the arguments of its ``GPUTarget``.

    ``registers`` (32 bits each, a thread), ``shared`` (bytes a program) and ``threads`` (a program) are limits of
    the hardware, ``source`` names their document. ``fp8`` names the types (torch's names) that Triton converts to
    on it: True if Triton uses the hardware's instructions, False if it uses integer arithmetic. The first type is
    the one to use.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    registers: int
    shared: int
    threads: int
    fp8: Mapping[str, bool]
    source: str


_CUDA = "CUDA C++ Programming Guide 13, technical specifications per compute capability"
# Triton supports no fnuz type on any NVIDIA GPU, and no e4m3 at all before capability 8.9.
_NVIDIA: Mapping[str, bool] = {E4M3FN: True}

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 255, 163 * KIB, 1024, {}, _CUDA),
        Target("sm_90", "cuda", 90, 32, 255, 227 * KIB, 1024, _NVIDIA, _CUDA),
        Target("sm_100", "cuda", 100, 32, 255, 227 * KIB, 1024, _NVIDIA, _CUDA),
        Target("sm_120", "cuda", 120, 32, 255, 99 * KIB, 1024, _NVIDIA, _CUDA),
        # the hardware's instructions are for fnuz; e4m3fn takes integer arithmetic
        Target(
            "gfx942",
            "hip",
            "gfx942",
            64,
            512,
            64 * KIB,
            1024,
            {E4M3FNUZ: True, E4M3FN: False},
            "AMD Instinct MI300 (CDNA 3) ISA reference guide",
        ),
        Target(
            "gfx950",
            "hip",
            "gfx950",
            64,
            512,
            160 * KIB,
            1024,
            {E4M3FN: True, E4M3FNUZ: False},
            "AMD Instinct CDNA 4 ISA reference guide",
        ),
        # the hardware has instructions for e4m3fn, which Triton 3.6 to 3.9 do not use
        Target(
            "gfx1201",
            "hip",
            "gfx1201",
            32,
            256,
            64 * KIB,
            1024,
            {E4M3FN: False, E4M3FNUZ: False},
            "AMD RDNA 4 ISA reference guide",
        ),
    )
}
