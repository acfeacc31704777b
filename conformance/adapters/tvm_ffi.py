"""Refusals of kernels that are called through TVM's FFI, as those of quack and FlashInfer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from conformance.adapter import Declined

# Messages of TVM's FFI, each with the reason that the adapter gives:
# "Misaligned Tensor data on argument #1 when calling: `…`, expected data alignment=16 bytes"
# "Mismatched mW.strides[0] on argument #1 when calling: `…`, expected to be 1"
_REFUSED = (
    (r"Misaligned Tensor data .* expected data alignment=(\d+) bytes", "its data begin at multiples of {} bytes"),
    (r"Mismatched m(\w+)\.strides\[\d+\] .* expected to be (\d+)", "{} must have a stride of {}"),
)


@contextmanager
def refused_declined() -> Iterator[None]:
    """Decline a call whose tensors the kernel refuses, before it starts, for their address or a stride."""
    try:
        yield
    except ValueError as error:
        for message, reason in _REFUSED:
            if found := re.search(message, str(error), re.DOTALL):
                raise Declined(reason.format(*found.groups())) from error
        raise
