"""Triton's CPU interpreter, patched to round as a GPU does and to run libraries' kernels, with a proof.

As shipped, the interpreter keeps bf16 and fp8 as raw bits and mostly computes on those bits: it truncates
where hardware rounds, and adds codes where hardware adds numbers. Here its classes are subclassed: bits are
decoded to numbers first, and encoded last, rounded once to nearest even. Device functions of libraries compute,
tuned kernels run without measuring, and questions about a GPU are answered.

The patches stay installed: a process that interprets never compiles. Import this only where Triton is installed.
"""

import os
from functools import cache

import triton.language as tl
from triton.runtime import interpreter as shipped

from conformance.interpreter import faithful, gpu, interned, launching, libdevice, recorded
from conformance.interpreter.faithful import masked_loads
from conformance.interpreter.proof import cast_test, self_test, unfaithful
from conformance.interpreter.rounding import fp8_overflow

__all__ = ["cast_test", "fp8_overflow", "install", "masked_loads", "self_test", "unfaithful"]


@cache
def install() -> None:
    """Replace the interpreter's parts, once; needs ``TRITON_INTERPRET=1`` from the start."""
    interpreting = isinstance(tl.sum, shipped.InterpretedFunction)
    if not interpreting:
        raise RuntimeError(
            "interpreter.install: TRITON_INTERPRET must be 1 before triton is imported for the first time, "
            f"is now {os.environ.get('TRITON_INTERPRET')!r}"
        )
    faithful.fill_masked_loads(os.environ.get(faithful.MASKED_LOADS, "poison"))
    faithful.install()
    interned.install()
    recorded.install()
    faithful.patch_language_for_good()
    libdevice.install()
    launching.install()
    gpu.install()
