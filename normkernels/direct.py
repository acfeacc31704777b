"""The C beneath a direct launch: how it is built, and what a kernel that Triton has compiled takes from it.

Triton needs a C compiler for its own launchers, and keeps what it compiles; ``direct.c`` goes the same way, at the
first launch that could be repeated. A kernel's parameters are its arguments that are no constants, in its order,
as the types of its signature, then two pointers to scratch memory, which ours need none of.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# As Triton packs them; a pointer is 64 bits.
_C_TYPES: Mapping[str, Any] = {
    "i1": ctypes.c_int8,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u1": ctypes.c_uint8,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
    "fp64": ctypes.c_double,
}
_CONSTANT = "constexpr"
_NO_SCRATCH = (bytes(8), bytes(8))
# What the metadata of a kernel says if it needs nothing but its parameters and shared memory.
_PLAIN = {
    "num_ctas": 1,
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
    "launch_cooperative_grid": False,
    "launch_pdl": False,
}


class NotBuilt(Exception):
    """There is no such C here; the message says why."""


@cache
def _built() -> Any | NotBuilt:  # noqa: ANN401  # a module in C; triton has no types
    """Compile and load the C, once for each process, and each machine."""
    from triton.runtime.build import compile_module_from_src

    source = Path(__file__).with_name("direct.c").read_text(encoding="utf-8")
    try:
        return compile_module_from_src(source, "normkernels_direct")
    # whatever a compiler, its options or a cache that cannot be written come to: calls work without
    except Exception as error:  # noqa: BLE001
        return NotBuilt(f"{type(error).__name__}: {error}")


def built() -> Any:  # noqa: ANN401  # a module in C; triton has no types
    """Return the module with ``Start`` and ``Shortcut``, or raise ``NotBuilt``."""
    module = _built()
    if isinstance(module, NotBuilt):
        raise module
    return module


@cache
def launch_function() -> int:
    """Return the address of ``cuLaunchKernel`` in CUDA's driver, which torch has loaded, or raise ``NotBuilt``."""
    try:
        function = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
    except (OSError, AttributeError) as error:
        raise NotBuilt(f"{type(error).__name__}: {error}") from error
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


# Any: triton has no types
def launcher(compiled: Any) -> Any:  # noqa: ANN401
    """Return what the attribute ``run`` of a kernel returns: whoever asks for that is counted as a launch."""
    return getattr(compiled, "_run", None)


# Any: triton has no types
def is_plain(compiled: Any) -> bool:  # noqa: ANN401
    """Whether a compiled kernel is started by Triton's own launcher, and needs nothing beside its parameters."""
    from triton.backends.nvidia.driver import CudaLauncher

    run, metadata = launcher(compiled), compiled.metadata
    if type(run) is not CudaLauncher or getattr(run, "gsan_enabled", False):
        return False
    return all(getattr(metadata, name, plain) == plain for name, plain in _PLAIN.items())


# Any: triton has no types, and arguments are what a kernel takes
def parameters(
    compiled: Any,  # noqa: ANN401
    names: Sequence[str],
    given: Sequence[Any],
) -> tuple[tuple[bytes, ...], list[int]] | None:
    """Return the values of a kernel's parameters, and for each of its arguments which of them it is; -1: none.

    ``given`` are the arguments named ``names``. None: one of them is of a type that no kernel here takes.
    """
    values: list[bytes] = []
    places: list[int] = []
    signature = compiled.src.signature
    for name, value in zip(names, given, strict=True):
        kind = signature[name]
        if kind == _CONSTANT:
            places.append(-1)
            continue
        if kind.startswith("*"):
            packed = ctypes.c_uint64(value.data_ptr())
        elif kind in _C_TYPES:
            packed = _C_TYPES[kind](value)
        else:
            return None
        places.append(len(values))
        values.append(bytes(packed))
    return (*values, *_NO_SCRATCH), places
