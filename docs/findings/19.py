"""triton 3.9.0: in the interpreter a number has its own type, and not that of its parameter's annotation.

Needs torch and triton. Exits 1 while it shows, 0 once it does not.
"""

import os
import sys

import torch

os.environ["TRITON_INTERPRET"] = "1"

import triton
import triton.language as tl


@triton.jit
def thrice(out_ptr, stride: tl.int64):
    """Store a product that 32 bits do not hold."""
    tl.store(out_ptr, 3 * stride)


out = torch.zeros(1, dtype=torch.int64)
thrice[(1,)](out, 2**30)
print(f"3 * 2**30 is {out.item():,}, must be {3 * 2**30:,}")
sys.exit(out.item() != 3 * 2**30)
