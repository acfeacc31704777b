"""What is beneath Triton's launcher of a compiled kernel: the C function that starts it.

The launcher allocates scratch memory and fills in what it was told when it was made; a kernel that needs no
scratch memory can be started without it. In Triton 3.6 the C function is compiled for the kernel and takes the
arguments one by one; from 3.7 on it is one for all kernels, and takes them as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

_SCRATCH = ("global_scratch_size", "profile_scratch_size")
# What the C function is told after the stream and the kernel; in Triton 3.6, and from 3.7 on.
_NONE = (None, None, None)


@dataclass(frozen=True, slots=True)
class Beneath:
    """A C function, and what it takes between the stream and the kernel's arguments."""

    launcher: Any  # Triton's, that calls it; triton has no types
    launch: Any
    front: tuple[Any, ...]
    packs: bool  # the arguments, into one


# Any: triton has no types
def beneath(compiled: Any) -> Beneath | None:  # noqa: ANN401
    """Return what is beneath the launcher of a compiled kernel; None where that is not known, or not all."""
    # what the attribute run returns: whoever asks for that is counted as a launch
    launcher: Any = getattr(compiled, "_run", None)
    launch = getattr(launcher, "launch", None)
    # a Python function stands between where arguments are descriptors
    if launch is None or isinstance(launch, FunctionType) or not _plain(launcher):
        return None
    how = launcher.launch_cooperative_grid, launcher.launch_pdl
    if not hasattr(launcher, "kernel_signature"):
        # no scratch memory, metadata; neither metadata of the launch nor hooks
        return Beneath(
            launcher, launch, (compiled.function, *how, None, None, compiled.packed_metadata, *_NONE), packs=False
        )
    described = launcher.arg_annotations, launcher.kernel_signature
    # metadata; neither metadata of the launch nor hooks, no scratch memory
    front = (compiled.function, *how, compiled.packed_metadata, *_NONE, None, None, *described)
    return Beneath(launcher, launch, front, packs=True)


# Any: triton has no types
def _plain(launcher: Any) -> bool:  # noqa: ANN401
    """Whether a launcher is Triton's for CUDA, and its kernel needs nothing that it would have to provide."""
    from triton.backends.nvidia.driver import CudaLauncher

    if type(launcher) is not CudaLauncher or getattr(launcher, "gsan_enabled", False):
        return False
    return all(getattr(launcher, size, 1) == 0 for size in _SCRATCH)
