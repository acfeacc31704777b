"""triton 3.9.0: functions of libdevice return None in the interpreter.

Needs torch and triton; no GPU. Exits 1 while it shows, 0 once it does not.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl
from triton.language.extra.libdevice import rsqrt


@triton.jit
def kernel(x_ptr, y_ptr):
    """Store the reciprocal square root of one number."""
    tl.store(y_ptr, rsqrt(tl.load(x_ptr)))


x, y = torch.tensor([4.0]), torch.zeros(1)
try:
    kernel[(1,)](x, y)
    print("rsqrt(4) is", y.item())
except Exception as error:
    print(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
sys.exit(y.item() != 0.5)
