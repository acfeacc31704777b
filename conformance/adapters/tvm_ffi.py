"""Refusals of kernels that are called through TVM's FFI, as those of quack and FlashInfer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from conformance.adapter import Declined

# "Misaligned Tensor data on argument #1 when calling: `…`, expected data alignment=16 bytes"
_MISALIGNED = re.compile(r"Misaligned Tensor data .* expected data alignment=(\d+) bytes", re.DOTALL)


@contextmanager
def misaligned_declined() -> Iterator[None]:
    """Decline a call whose tensors the kernel refuses, before it starts, because of their address."""
    try:
        yield
    except ValueError as error:
        if found := _MISALIGNED.search(str(error)):
            raise Declined(f"its data begin at multiples of {found[1]} bytes") from error
        raise
