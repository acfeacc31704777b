"""Plain memory traffic, 16 bytes a thread and load, with as little other work as a kernel can do."""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # elements a program: two loads of eight a thread of four warps
WARPS = 4


@triton.jit
def streams_kernel(
    a_ptr,  # [n]
    b_ptr,  # [n], or anything where READS is 1
    first_ptr,  # [n]
    second_ptr,  # [n], or anything where WRITES is 1
    n,
    READS: tl.constexpr,
    WRITES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move one block of each tensor a program."""
    # int64: a tensor may have more than 2**31 elements
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    a = tl.load(a_ptr + at, mask=mask, other=0.0)
    if READS == 2:
        b = tl.load(b_ptr + at, mask=mask, other=0.0)
        tl.store(first_ptr + at, a + b, mask=mask)
    else:
        b = a
        tl.store(first_ptr + at, a, mask=mask)
    if WRITES == 2:
        tl.store(second_ptr + at, b, mask=mask)


def streams(read: tuple[torch.Tensor, ...], written: tuple[torch.Tensor, ...]) -> None:
    """Launch over one or two tensors to read, and one or two to write, all contiguous and of the same size."""
    n = read[0].numel()
    streams_kernel[(triton.cdiv(n, BLOCK),)](
        a_ptr=read[0],
        b_ptr=read[-1],
        first_ptr=written[0],
        second_ptr=written[-1],
        n=n,
        READS=len(read),
        WRITES=len(written),
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
